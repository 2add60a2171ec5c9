-- The only place that writes: every changed key once. The entry is made before the first write, and appended first of
-- all that the decisions changed, because it alone could be refused.

local LOCK_KEPT_MS = 60000           -- by when the server removes one that nobody let go of
local COUNT_KEPT_MS = 48 * 3600000   -- a count's fingerprint, as long as the window remembers its events
local METER_KEPT_MS = 60000

-- Calls a command with its arguments in portions, each a whole number of `step`s.
local function call_in_portions(command, key, arguments, step)
  if #arguments == step then return call(command, key, unpack(arguments)) end
  local portion = ARGUMENTS_MAX - ARGUMENTS_MAX % step
  for i = 1, #arguments, portion do
    call(command, key, unpack(arguments, i, min(i + portion - 1, #arguments)))
  end
end

-- Packs the positions that changed; `after` is what the entry says of them.
local function collect_positions(after)
  for i = 1, #positions do
    local position = positions[i]
    if position.dirty then
      local sku, packed = position.sku, encode_position(position)
      local fields = sku.fields or {}
      fields[#fields + 1], fields[#fields + 2] = position.location, packed
      sku.fields, after[#after + 1] = fields, '\147' .. encode(sku.name, position.location) .. packed
    end
  end
end

local function write_deadlines(position, soonest)
  local key, soonest_ms = prefix .. 'held:' .. position.place, position.soonest_ms
  if position.forgets_listed then call('DEL', key) end
  if position.unlisted then
    local removed = {}
    for list in pairs(position.unlisted) do removed[#removed + 1] = list end
    if #removed > 0 then call_in_portions('ZREM', key, removed, 1) end
  end
  if not position.listed then return end
  local written = {}
  for deadline_ms, list in pairs(position.listed) do
    -- Holds that were extended twice in the call are listed twice; the same text would be there under one deadline only.
    while written[list] do list = list .. ' ' end
    written[list] = true
    call('ZADD', key, time_text(deadline_ms), list)
  end
  -- What is past may have been corrected in `deadlines`, so that it is not there any more.
  if soonest_ms > 0 and (soonest_ms ~= position.soonest_written_ms or soonest_ms <= now_ms) then
    soonest[#soonest + 1], soonest[#soonest + 2] = time_text(soonest_ms), position.place
  end
end

local function write_positions()
  local soonest = {}
  for i = 1, #positions do
    local position = positions[i]
    local fields = position.sku.fields
    if fields then
      call_in_portions('HSET', position.sku.key, fields, 2)
      position.sku.fields = nil
    end
    if position.listed or position.unlisted or position.forgets_listed then write_deadlines(position, soonest) end
  end
  for i = 1, #soonest, ARGUMENTS_MAX do
    call('ZADD', prefix .. 'deadlines', 'LT', unpack(soonest, i, min(i + ARGUMENTS_MAX - 1, #soonest)))
  end
end

local function packed_of(record)
  return record.packed or encode({record.verb, record.client, record.fingerprint, record.reservation})
end

-- An ended reservation and the operations on it stay readable for a day; no stock hangs on them any more.
local function let_operations_end(reservation)
  for _, id in ipairs(reservation.operations) do call('PEXPIRE', prefix .. 'op:' .. id, READABLE_MS) end
end

local function let_operations_live(reservation)
  for _, id in ipairs(reservation.operations) do call('PERSIST', prefix .. 'op:' .. id) end
end

local function map_header(count)
  if count < 16 then return string.char(128 + count) end
  return '\222' .. string.char(floor(count / 256), count % 256)
end

-- What the entry says of the hash of a key, which no operation in it tells: its fields, and the names gone.
local function key_after(key, set, gone)
  local head = '\147' .. encode(key:sub(#prefix + 1)) .. map_header(#set / 2)
  if #set == 4 and #gone == 0 then return head .. encode(set[1]) .. set[2] .. encode(set[3]) .. set[4] .. '\144' end
  local packed = {}
  for i = 1, #set, 2 do packed[#packed + 1] = encode(set[i]) .. set[i + 1] end
  return head .. table.concat(packed) .. encode(gone)
end

local function keys_after()
  local after = {}
  for i, hash in ipairs(kept) do after[i] = key_after(hash.key, hash.set, hash.gone) end
  for key, fingerprint in pairs(counts) do after[#after + 1] = key_after(key, {'', encode(fingerprint)}, {}) end
  return after
end

local function collect_views(sku)
  local set, gone = {}, {}
  for location, position in pairs(sku.positions) do
    if position.views_changed and #position.views > 0 then
      set[#set + 1], set[#set + 2] = location, encode(position.views)
    elseif position.views_changed then
      gone[#gone + 1] = location
    end
  end
  if #set + #gone > 0 then kept[#kept + 1] = {key = view_key(sku.name), set = set, gone = gone} end
end

-- Safety stock of what was never counted waits; the first count takes it into the position.
local function collect_waiting_safety_stock()
  local set, gone = {}, {}
  for i = 1, #positions do
    local position = positions[i]
    local waiting = position.exists and 0 or position.safety_stock
    if waiting ~= position.waiting_written and waiting > 0 then
      set[#set + 1], set[#set + 2] = position.place, encode(waiting)
    elseif waiting ~= position.waiting_written then
      gone[#gone + 1] = position.place
    end
  end
  if #set + #gone > 0 then kept[#kept + 1] = {key = prefix .. 'safety_stock', set = set, gone = gone} end
end

local function collect_hashes()
  collect_shortages()
  collect_waiting_safety_stock()
  for _, sku in pairs(skus) do
    if sku.views_changed then collect_views(sku) end
  end
  for _, window in pairs(windows) do
    local set, gone = {}, {}
    for key in pairs(window.changed) do
      local event = window.events[key]
      if event then set[#set + 1], set[#set + 2] = key, pack_field(key, event) else gone[#gone + 1] = key end
    end
    if #set > 0 or #gone > 0 or window.changed_meta then
      set[#set + 1], set[#set + 2] = '', pack_meta(window)
      kept[#kept + 1] = {key = window.key, set = set, gone = gone}
    end
  end
end

-- The operations are most of it, so they are joined once, with all the rest.
local function entry_of(after)
  local entry, keys = journal, keys_after()
  entry[0] = '\150' .. encode(epoch, seq, now_ms) .. array_header(#journal)
  entry[#entry + 1] = array_header(#after) .. table.concat(after) .. array_header(#keys) .. table.concat(keys)
  return table.concat(entry, '', 0)
end

-- Corrections of `deadlines` that the keeper found: they change no promise, so no entry tells of them.
local function correct_deadlines()
  for place, deadline in pairs(deadlines) do
    if deadline then call('ZADD', prefix .. 'deadlines', time_text(deadline), place)
    else call('ZREM', prefix .. 'deadlines', place) end
  end
end

local function write_records()
  -- Later operations of the call may have changed some of the holds that it granted.
  local live = granted
  for _, record in pairs(records) do
    if record and record.dirty then
      local key = prefix .. 'op:' .. record.id
      if record.verb ~= 'hold' or is_live(record) then
        live[#live + 1], live[#live + 2] = key, packed_of(record)
      elseif record.span and not record.forgotten then
        call('SET', key, packed_of(record), 'KEEPTTL')   -- of a part that was forgotten before
      else
        call('SET', key, packed_of(record), 'PX', READABLE_MS)
      end
    end
  end
  for i = 1, #live, ARGUMENTS_MAX do call('MSET', unpack(live, i, min(i + ARGUMENTS_MAX - 1, #live))) end
  for _, record in pairs(records) do
    if record and record.dirty and record.verb == 'hold' then
      if not is_live(record) and (record.forgotten or not record.span) then let_operations_end(record) end
      if record.revived then let_operations_live(record) end
    end
  end
end

-- What the coordinators of changes over several shards leave each other: no promise hangs on it, so no entry tells of it.
local function write_coordination()
  for id in pairs(gone) do
    if not records[id] then call('DEL', prefix .. 'op:' .. id) end
  end
  for id, lock in pairs(locks) do
    local key = prefix .. 'lock:' .. id
    if lock then call('SET', key, encode(lock), 'PX', LOCK_KEPT_MS) else call('DEL', key) end
  end
  for id, at_ms in pairs(marks) do
    if at_ms then call('ZADD', prefix .. 'spanning', at_ms, id) else call('ZREM', prefix .. 'spanning', id) end
  end
end

local function write_clients()
  for _, client in pairs(clients) do
    if client.dirty and client.open > 0 then call('SET', client.key, encode({client.open, client.held}))
    elseif client.dirty then call('DEL', client.key) end
  end
end

-- A meter goes by itself when it is long empty; some time later, because the call's clock need not be the server's.
local function write_meters()
  for _, meter in pairs(meters) do
    call('SET', meter.key, encode({meter.filled, meter.at_ms}), 'PX', meter.empty_after_ms + METER_KEPT_MS)
  end
end

function flush()
  local after = {}
  collect_positions(after)
  collect_hashes()
  if #journal > 0 then
    local entry = entry_of(after)
    call('XADD', prefix .. 'journal', ('%.0f-%.0f'):format(epoch, seq), 'e', entry)
    call('SET', prefix .. 'shard', encode({epoch, seq, now_ms, shards}))
  end
  correct_deadlines()
  write_positions()
  write_records()
  write_coordination()
  write_clients()
  write_meters()
  for _, hash in ipairs(kept) do
    call_in_portions('HSET', hash.key, hash.set, 2)
    if #hash.gone > 0 then call_in_portions('HDEL', hash.key, hash.gone, 1) end
  end
  for id, place in pairs(places) do
    if place and place.dirty then call('HSET', prefix .. 'locations', id, encode_location(place)) end
  end
  for key, fingerprint in pairs(counts) do call('SET', key, fingerprint, 'PX', COUNT_KEPT_MS) end
end
