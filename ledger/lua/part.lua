-- One shard's part of an operation on a reservation over several shards.

verbs.part = function(op)
  part = {token = op[2], at_ms = whole(op[3], 0, 253402300799999), takes = op[4]}
  local outcome = verbs[op[5][1]](op[5])
  part = nil
  return outcome
end
