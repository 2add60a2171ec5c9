-- One shard's part of an operation on a reservation over several shards.

verbs.part = function(op)
  part = {token = op[2], takes = op[3]}
  local outcome = verbs[op[4][1]](op[4])
  part = nil
  return outcome
end
