-- An attempt at an operation has ended: its lock and its pin are let go of.

verbs.finish = function(op)
  local id, target, token = op[2], op[3], op[4]
  let_go_of_lock(id, token)
  local reservation = record_of(target)
  local span = reservation and reservation.span
  if span and span[SEALED] and (span[TOKEN] == token or span[TOKEN] == '') then unpin(reservation) end
  return FINISHED
end
