-- Let a hold live `ttl_ms` from now.

verbs.extend = function(op)
  local expires_at_ms = (part and part.at_ms or now_ms) + whole(op[6], 1, 86400000)
  return operate('extend', op, function(reservation)
    if units(reservation, HELD) == 0 then return nothing_to_take(reservation) end
  end, function(reservation) reservation.expires_at_ms = expires_at_ms end)
end
