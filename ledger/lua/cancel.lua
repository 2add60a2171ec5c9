-- An order's units are given back before they ship: committed ones first, then picked ones.

verbs.cancel = function(op)
  return operate('cancel', op, function(reservation, movements)
    local taken = units_to_take(reservation, op[6], {COMMITTED, PICKED})
    if not taken or #taken == 0 then return wrong_state(reservation) end
    for _, part in ipairs(taken) do move_units(part[1], part[2], CANCELLED, part[3], 'cancel', movements) end
  end)
end
