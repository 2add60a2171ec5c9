-- Shipped units come back: a delta of the bucket that the disposition names, at the time it happened.

local BUCKET_OF = {sellable = 'on_hand', damaged = 'damaged', quality_hold = 'quality_hold'}

verbs['return'] = function(op)
  return operate('return', op, function(reservation, movements)
    local taken = units_to_take(reservation, op[6], {SHIPPED})
    if not taken or #taken == 0 then return wrong_state(reservation) end
    local bucket, occurred_at_ms = BUCKET_OF[op[7]], op[8] or now_ms
    for number, part in ipairs(taken) do
      move_units(part[1], SHIPPED, RETURNED, part[3], 'return', movements)
      if bucket then record_own_delta(part[1], bucket, part[3], occurred_at_ms, op[2] .. ':' .. number, movements) end
    end
  end)
end
