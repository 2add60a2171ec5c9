-- Stock events of feeds, each judged by itself: one that cannot be applied never stops the others.

verbs.apply = function(op)
  if is_backlog_full() then return JOURNAL_FULL end
  local results = {}
  for i, packed in ipairs(op[3]) do results[i] = apply_event(packed, false, op[2]) end
  return '\146' .. encode('applied') .. array_header(#results) .. table.concat(results)
end
