-- Give held units back to be sold, all of them or those of some lines.

verbs.release = function(op)
  return operate('release', op, function(reservation, movements)
    if units(reservation, HELD) == 0 then return nothing_to_take(reservation) end
    local taken = units_to_take(reservation, op[6], {HELD})
    if not taken then return wrong_state(reservation) end
    for _, part in ipairs(taken) do move_units(part[1], HELD, RELEASED, part[3], 'release', movements) end
  end)
end
