-- Committed units are taken from the shelf, all of them or those of some lines.

verbs.pick = function(op)
  return operate('pick', op, function(reservation, movements)
    local taken = units_to_take(reservation, op[6], {COMMITTED})
    if not taken or #taken == 0 then return wrong_state(reservation) end
    for _, part in ipairs(taken) do move_units(part[1], COMMITTED, PICKED, part[3], 'pick', movements) end
  end)
end
