-- A person's count of some SKUs at one location: snapshots under one count_id, believed whoever the authority is.
-- A long count comes in portions; the first one tells whether the count_id was used for another.

local REHOMED = '?'   -- before a fingerprint from a ledger of another number of shards

-- An event as feeds' events come: packed, with nothing left out.
local function pack_fields(f)
  return '\159' .. encode(f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10], f[11], f[12], f[13], f[14], f[15])
end

verbs.count = function(op)
  local fingerprint, client, location, count_id, events, portion = op[2], op[3], op[4], op[5], op[6], op[7]
  if is_backlog_full() then return JOURNAL_FULL end
  if not location_of(location) then return '\147' .. encode('unknown-location', 0, location) end
  local key = prefix .. 'count:' .. escaped(location) .. ':' .. escaped(client) .. ':' .. escaped(count_id)
    .. ':' .. ('%d'):format(portion)
  local first = counts[key] or call('GET', key)
  -- Where the ledger had another number of shards, its portions were others: each event is looked at again by itself.
  local rehomed = first and first:sub(1, 1) == REHOMED
  if rehomed then first = first:sub(2) end
  if first and first ~= fingerprint then return '\146' .. encode('key-reused', first) end
  if rehomed then first = nil end
  local results, known = {}, 0
  for i, fields in ipairs(events) do
    if first then
      local position = position_at(fields[5], location)
      results[i] = '\148' .. encode('duplicate', nil, position.on_hand, position.on_hand)
    else
      local outcome
      results[i], outcome = apply_event(pack_fields(fields), true, client)
      if outcome == 'duplicate' then known = known + 1 end
    end
  end
  local packed = array_header(#results) .. table.concat(results)
  if not first then
    counts[key] = fingerprint
    journal[#journal + 1] = '\151' .. encode('count', location, client, count_id, fingerprint) .. packed .. encode({})
  end
  return '\147' .. encode('counted', first and true or known == #events) .. packed
end
