-- How units are claimed: by a new line, or by an expired one anew.

local CALL_LINES_MAX = 100

local function line_of(sku, location, quantity, requested)
  return {sku, location, quantity, requested, quantity, 0, 0, 0, 0, 0, 0, 0, floor(now_ms / DAY_MS)}
end

-- Claims expired units anew, all or none: a refusal, or nil when they have become `state`.
local function reacquire(reservation, taken, state, movements)
  local needed, short, more_due = {}, {}, false
  for _, part in ipairs(taken) do
    local line, wanted = part[1], part[3]
    local position = position_at(line[SKU], line[LOCATION])
    local left = left_at(position, needed)
    if left < wanted then
      more_due = more_due or position.more_due
      short[#short + 1] = {part[4], line[SKU], line[LOCATION], wanted, left, stock_status(left, position.held)}
    else
      needed[position] = (needed[position] or 0) + wanted
    end
  end
  if #short > 0 then return more_due and BUSY or insufficient(short) end
  local refused = not is_live(reservation) and over_limit(reservation.client, 1, 0)
  if refused then return refused end
  for _, part in ipairs(taken) do move_units(part[1], EXPIRED, state, part[3], 'reacquire', movements) end
  reservation.revived = true   -- the records of its operations must live on with it
end
