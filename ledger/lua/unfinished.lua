-- The reservations over several shards that the keeper is due to look at: what a coordinator left behind, and what has
-- ended here a day ago.

verbs.unfinished = function(op)
  local due = call('ZRANGEBYSCORE', prefix .. 'spanning', '-inf', now_ms, 'LIMIT', 0, whole(op[2], 1, 1000))
  local found = {}
  for _, id in ipairs(due) do
    local reservation = record_of(id)
    if reservation then found[#found + 1] = {id, reservation.client, reservation.span[SHARDS]} else marks[id] = false end
  end
  return '\146' .. encode('unfinished-list', found)
end
