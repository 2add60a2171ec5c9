-- The hold did not come about on every shard: this part's units are given back, and nothing stays of it.

verbs.drop = function(op)
  local reservation, token = record_of(op[2]), op[3]
  if not reservation then return FINISHED end
  if not reservation.span or reservation.span[TOKEN] ~= token then return UNPINNED end
  drop(reservation, RELEASED)
  return FINISHED
end
