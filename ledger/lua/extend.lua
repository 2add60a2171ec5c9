-- Let a hold live `ttl_ms` from now.

verbs.extend = function(op)
  return operate('extend', op, function(reservation)
    if units(reservation, HELD) == 0 then return nothing_to_take(reservation) end
    reservation.expires_at_ms = now_ms + whole(op[6], 1, 86400000)
  end)
end
