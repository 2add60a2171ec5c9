-- Every part of a reservation has ended: this one stays readable for another day.

verbs.forget = function(op)
  local reservation, token = record_of(op[2]), op[3]
  if not reservation then return FINISHED end
  if not reservation.span or reservation.span[TOKEN] ~= token then return UNPINNED end
  assert(not is_live(reservation), 'units are still claimed')
  unpin(reservation)
  reservation.forgotten, marks[reservation.id] = true, false
  return FINISHED
end
