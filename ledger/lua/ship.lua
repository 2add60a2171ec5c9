-- Units leave the building: picked ones first, then committed ones. It is a delta of on-hand like any other, at the
-- time it happened: a count taken after that time already misses the units, so they are not subtracted twice.

verbs.ship = function(op)
  return operate('ship', op, function(reservation, movements)
    local taken = units_to_take(reservation, op[6], {PICKED, COMMITTED})
    if not taken or #taken == 0 then return wrong_state(reservation) end
    local occurred_at_ms = op[7] or now_ms
    for _, part in ipairs(taken) do
      move_units(part[1], part[2], SHIPPED, part[3], 'ship', movements)
      record_own_shipment(reservation, part, occurred_at_ms, movements)
    end
  end)
end
