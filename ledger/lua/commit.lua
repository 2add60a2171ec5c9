-- Turn all held units into an order's; with `reacquire`, claim the units of an expired hold anew if they are there.

local function reacquire(reservation, movements)
  local needed, short, more_due = {}, {}, false
  for number, line in ipairs(reservation.lines) do
    if line[EXPIRED] > 0 then
      local position = position_at(line[SKU], line[LOCATION])
      local left = left_at(position, needed)
      if left < line[EXPIRED] then
        more_due = more_due or position.more_due
        short[#short + 1] = {number, line[SKU], line[LOCATION], line[EXPIRED], left, stock_status(left, position.held)}
      else
        needed[position] = (needed[position] or 0) + line[EXPIRED]
      end
    end
  end
  if #short > 0 then return more_due and BUSY or '\146' .. encode('insufficient', short) end
  for _, line in ipairs(reservation.lines) do
    if line[EXPIRED] > 0 then move_units(line, EXPIRED, COMMITTED, line[EXPIRED], 'reacquire', movements) end
  end
end

verbs.commit = function(op)
  local order_id, wants_reacquire = op[6], op[7]
  return operate('commit', op, function(reservation, movements)
    if units(reservation, HELD) == 0 then
      if not wants_reacquire or is_live(reservation) or units(reservation, EXPIRED) == 0 then
        return nothing_to_take(reservation)
      end
      if is_backlog_full() then return JOURNAL_FULL end
      local refusal = reacquire(reservation, movements)
      if refusal then return refusal end
    end
    for _, line in ipairs(reservation.lines) do
      if line[HELD] > 0 then move_units(line, HELD, COMMITTED, line[HELD], 'commit', movements) end
    end
    reservation.order_id = order_id
  end)
end
