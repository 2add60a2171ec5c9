-- An attempt at an operation has ended: its lock and its pin are let go of; when all is done, the keeper need not look.

verbs.finish = function(op)
  local id, target, token, is_done = op[2], op[3], op[4], op[5]
  let_go_of_lock(id, token)
  local reservation = record_of(target)
  local span = reservation and reservation.span
  if span and span[SEALED] and (span[TOKEN] == token or (is_done and span[TOKEN] == '')) then unpin(reservation) end
  return FINISHED
end
