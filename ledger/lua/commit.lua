-- Turn held units into an order's; with `reacquire`, claim the units of an expired hold anew if they are there.

local function reacquire(reservation, taken, movements)
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
  if #short > 0 then return more_due and BUSY or '\146' .. encode('insufficient', short) end
  local refused = over_limit(reservation.client, 1, 0)
  if refused then return refused end
  for _, part in ipairs(taken) do move_units(part[1], EXPIRED, COMMITTED, part[3], 'reacquire', movements) end
  reservation.revived = true   -- the records of its operations must live on with it
end

verbs.commit = function(op)
  local order_id, wants_reacquire, lines = op[6], op[7], op[8]
  return operate('commit', op, function(reservation, movements)
    local refusal
    if units(reservation, HELD) > 0 then
      local taken = units_to_take(reservation, lines, {HELD})
      if not taken then return wrong_state(reservation) end
      for _, part in ipairs(taken) do move_units(part[1], HELD, COMMITTED, part[3], 'commit', movements) end
    elseif wants_reacquire and not is_live(reservation) and units(reservation, EXPIRED) > 0 then
      if is_backlog_full() then return JOURNAL_FULL end
      local taken = units_to_take(reservation, lines, {EXPIRED})
      if not taken then return wrong_state(reservation) end
      refusal = reacquire(reservation, taken, movements)
    else
      refusal = nothing_to_take(reservation)
    end
    if refusal then return refusal end
    reservation.order_id = order_id
  end)
end
