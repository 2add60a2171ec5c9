-- Every shard has claimed its part of a hold: this one becomes a hold with the deadline that was asked for.

verbs.seal = function(op)
  local reservation, token, expires_at_ms = record_of(op[2]), op[3], whole(op[4], 0, NEVER_MS)
  if reservation and is_overdue(reservation) then expire_reservation(reservation) end
  reservation = record_of(op[2])
  if not reservation then return NOT_FOUND end
  local span = reservation.span
  if not span or span[TOKEN] ~= token then return UNPINNED end
  span[SEALED], span[TOKEN], span[PINNED_UNTIL] = true, '', 0
  reservation.expires_at_ms = expires_at_ms
  list_deadlines(reservation)
  record_change('hold', reservation, reservation.id, reservation.fingerprint, reservation.client, {})
  return done(false, reservation)
end
