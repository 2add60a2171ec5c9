-- An operation as a coordinator of several shards sends it: not after the time by which its lock may have ended, and where
-- the reservation has parts on several shards, as this shard's part of it.

verbs.part = function(op)
  if now_ms > whole(op[4], 0, NEVER_MS) then return UNPINNED end
  part = {token = op[2], at_ms = whole(op[3], 0, NEVER_MS), takes = op[5]}
  local outcome = verbs[op[6][1]](op[6])
  part = nil
  return outcome
end
