-- An operation or a reservation by its id, if it is this client's.

verbs.find = function(op)
  local record = record_of(op[2])
  if not record or record.client ~= op[3] then return NOT_FOUND end
  local target = record.verb == 'hold' and record.id or record.reservation
  local reservation = reservation_of(target, op[3])
  if not reservation then return NOT_FOUND end
  return '\148' .. encode('found', record.verb, reservation.id) .. reservation.packed
end
