-- Turn held units into an order's; with `reacquire`, claim the units of an expired hold anew if they are there.

verbs.commit = function(op)
  local order_id, wants_reacquire, lines = op[6], op[7], op[8]
  return operate('commit', op, function(reservation, movements)
    local refusal
    if units(reservation, HELD) > 0 then
      local taken = units_to_take(reservation, lines, {HELD})
      if not taken then return wrong_state(reservation) end
      local span = reservation.span
      local reason = span and span[RECLAIMED] and 'reacquire' or 'commit'
      for _, part in ipairs(taken) do move_units(part[1], HELD, COMMITTED, part[3], reason, movements) end
    elseif wants_reacquire and units(reservation, EXPIRED) > 0 then
      if is_backlog_full() then return JOURNAL_FULL end
      local taken = units_to_take(reservation, lines, {EXPIRED})
      if not taken then return wrong_state(reservation) end
      refusal = reacquire(reservation, taken, COMMITTED, movements)
    else
      refusal = nothing_to_take(reservation)
    end
    return refusal
  end, function(reservation) reservation.order_id = order_id end)
end
