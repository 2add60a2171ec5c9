-- End what is overdue anywhere in the shard: the keeper's, for when nobody asks. Replies how many, and if more wait.

verbs.expire = function(op)
  local limit = whole(op[2], 1, 10000)
  local ended, more = #journal, false
  local overdue = call('ZRANGEBYSCORE', prefix .. 'deadlines', '-inf', now_ms, 'LIMIT', 0, 100)
  for _, place in ipairs(overdue) do
    if #journal - ended >= limit then more = true break end
    local sku, location = place:match('^(.*):(.*)$')
    local function plain(text) return (text:gsub('%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end)) end
    local position = position_at(plain(sku), plain(location))
    settle(position)
    -- A deadline that is still due stays in front. Never later than the position's own idea of the next, or a hold that
    -- ends between the two would not be written here.
    if position.more_due then more = true
    else deadlines[place] = position.soonest_ms > 0 and position.soonest_ms end
  end
  return '\147' .. encode('expired', #journal - ended, more or #overdue == 100)
end
