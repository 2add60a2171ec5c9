-- End what is overdue anywhere in the shard: the keeper's, for when nobody asks. Replies how many, and if more wait.

verbs.expire = function(op)
  local before = #journal
  local more = settle_all(whole(op[2], 1, 10000))
  return '\147' .. encode('expired', #journal - before, more)
end
