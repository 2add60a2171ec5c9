-- Claim expired units anew for as long as the part is pinned, all or none; they expire again if no commit follows.

verbs.reclaim = function(op)
  local reservation, token, lines = reservation_of(op[2], op[3]), op[4], op[5]
  if not reservation then return NOT_FOUND end
  if not reservation.span or reservation.span[TOKEN] ~= token then return UNPINNED end
  if is_backlog_full() then return JOURNAL_FULL end
  local movements, taken = {}, units_to_take(reservation, lines, {EXPIRED})
  if not taken then return wrong_state(reservation) end
  local refusal = reacquire(reservation, taken, HELD, movements)
  if refusal then return refusal end
  reservation.span[RECLAIMED] = true
  reservation.listed_ms = nil   -- units that had expired are held again
  list_deadlines(reservation)
  record_change('reclaim', reservation, '', '', reservation.client, movements)
  return done(false, reservation)
end
