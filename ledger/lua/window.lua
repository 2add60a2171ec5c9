-- The window of a position: the events that its numbers follow from, by key, with the bases and the horizon in `meta`.

-- Fields of an event in the window.
local KIND, BUCKET, AMOUNT, OCCURRED, SEQUENCE, TO_BUCKET, RECEIVED, REVERSES, ID = 1, 2, 3, 4, 5, 6, 7, 8, 9
local REFERENCE, SHIPPED_UNITS = 10, 11   -- of a shipment: whose it is; of our own, what left, however much of it counts

-- A retraction stands twice in the window: under its own key, and under this mark and the key of what it retracts.
local RETRACTED = '!'
-- What was reported of a line stands under this mark and its reference (reports.lua).
local REPORTED = '#'

-- A window is most of what a position takes in memory, so it is packed: words as numbers, times as differences, and
-- nothing twice (`python -m bench memory`).
local KINDS, BUCKETS = {'snapshot', 'delta', 'move'}, {'on_hand', 'damaged', 'quality_hold', 'in_transit'}
local CODES = {snapshot = 0, delta = 1, move = 2, on_hand = 0, damaged = 1, quality_hold = 2, in_transit = 3}

-- {kind, bucket and to_bucket in one number, amount, occurred_at_ms, received after that}, then as many as are needed of
-- {sequence, event id (of a snapshot), reverses, reference, shipped units}.
local function pack_event(event)
  local to = event[TO_BUCKET] ~= '' and CODES[event[TO_BUCKET]] + 1 or 0
  local fields = {CODES[event[KIND]] + 3 * CODES[event[BUCKET]] + 12 * to, event[AMOUNT], event[OCCURRED],
    event[RECEIVED] - event[OCCURRED]}
  local id = event[KIND] == 'snapshot' and event[ID] or ''
  local tail = {event[SEQUENCE], id, event[REVERSES], event[REFERENCE] or '', event[SHIPPED_UNITS] or 0}
  local last = event[SHIPPED_UNITS] and 5 or tail[4] ~= '' and 4 or tail[3] ~= '' and 3 or id ~= '' and 2
    or tail[1] ~= -1 and 1 or 0
  for i = 1, last do fields[4 + i] = tail[i] end
  return encode(fields)
end

local function unpack_event(packed)
  local f = decode(packed)
  local to = floor(f[1] / 12)
  return {KINDS[f[1] % 3 + 1], BUCKETS[floor(f[1] / 3) % 4 + 1], f[2], f[3], f[5] or -1, to > 0 and BUCKETS[to] or '',
    f[3] + f[4], f[7] or '', f[6] or '', f[8] or '', f[9]}
end

-- `is_in_window` tells which bases need no names: their event has them, if they are ever asked for (`name_base`).
local function pack_bases(bases, newest_ms, is_in_window)
  local packed = {}
  for bucket, base in pairs(bases) do
    local as = {CODES[bucket], base[1], newest_ms - base[2], base[3]}
    if not is_in_window(base[5]) then as[5], as[6] = base[4], base[5] end
    packed[#packed + 1] = as
  end
  return packed
end

local function unpack_bases(packed, newest_ms)
  local bases = {}
  for _, as in ipairs(packed) do bases[BUCKETS[as[1] + 1]] = {as[2], newest_ms - as[3], as[4], as[5], as[6]} end
  return bases
end

function pack_meta(window)
  local meta = window.meta
  return encode({meta.horizon_ms, meta.newest_ms, meta.count, meta.oldest_received_ms - meta.newest_ms,
    meta.reports and 1 or 0,
    pack_bases(meta.bases, meta.newest_ms, function(key) return not key or window.events[key] end),
    pack_bases(meta.folded, meta.newest_ms, function() return false end)})
end

local function unpack_meta(packed)
  local f = decode(packed)
  return {horizon_ms = f[1], newest_ms = f[2], count = f[3], oldest_received_ms = f[2] + f[4],
    reports = f[5] == 1 or nil, bases = unpack_bases(f[6], f[2]), folded = unpack_bases(f[7], f[2])}
end

-- What stands under a mark of reports is no event.
local function unpack_field(name, packed)
  if name:sub(1, 1) == REPORTED then return decode(packed) end
  return unpack_event(packed)
end

function pack_field(name, value)
  if name:sub(1, 1) == REPORTED then return encode(value) end
  return pack_event(value)
end

local function window_of(position)
  local window = windows[position]
  if not window then
    local key = prefix .. 'feed:' .. position.place
    local packed = call('HGET', key, '')
    window = {key = key, events = {}, changed = {}, meta = packed and unpack_meta(packed)
      or {bases = {}, folded = {}, horizon_ms = -1, newest_ms = -1, count = 0, oldest_received_ms = now_ms}}
    windows[position] = window
  end
  return window
end

-- The newest snapshot of a bucket, or what has been folded: {quantity, as_of_ms, sequence, event id, event key}.
local function base_of(window, bucket)
  return window.meta.bases[bucket] or window.meta.folded[bucket] or {0, -1, -1, '', ''}
end

local function event_in(window, key)
  local event = window.events[key]
  if event == nil then
    local packed = not window.complete and call('HGET', window.key, key)
    event = packed and unpack_field(key, packed) or false
    window.events[key] = event
  end
  return event
end

local function remember(window, key, event)
  window.events[key], window.changed[key] = event, true
  window.meta.count = window.meta.count + 1
  window.meta.newest_ms = max(window.meta.newest_ms, event[OCCURRED])
  window.meta.oldest_received_ms = min(window.meta.oldest_received_ms, event[RECEIVED])
end

local function load_all(window)
  if window.complete then return end
  local flat = call('HGETALL', window.key)
  for i = 1, #flat, 2 do
    local name = flat[i]
    if name ~= '' and window.events[name] == nil then window.events[name] = unpack_field(name, flat[i + 1]) end
  end
  window.complete = true
end

-- The units that an event adds to a bucket, apart from any snapshot. A retraction adds nothing itself.
local function effect(event, bucket)
  local sum = 0
  if event[REVERSES] ~= '' then return 0 end
  if event[KIND] ~= 'snapshot' and event[BUCKET] == bucket then
    sum = event[KIND] == 'move' and -event[AMOUNT] or event[AMOUNT]
  end
  if event[TO_BUCKET] == bucket then sum = sum + event[AMOUNT] end
  return sum
end

local function is_newer(event, id, key, base)
  if event[OCCURRED] ~= base[2] then return event[OCCURRED] > base[2] end
  if event[SEQUENCE] ~= base[3] then return event[SEQUENCE] > base[3] end
  if id ~= base[4] then return id > base[4] end
  return key > base[5]   -- two sources that use the same id
end

-- The names that a base is told apart by from a snapshot of the same time and sequence: {event id, event key}.
local function name_base(window, bucket, base)
  if base[5] then return end
  load_all(window)
  base[4], base[5] = '', ''
  for key, event in pairs(window.events) do
    if event and event[KIND] == 'snapshot' and event[BUCKET] == bucket and event[OCCURRED] == base[2]
      and event[SEQUENCE] == base[3] and event[REVERSES] == '' and not window.events[RETRACTED .. key]
      and is_newer(event, event[ID], key, base) then
      base[4], base[5] = event[ID], key
    end
  end
end

-- What counts of a complete window, oldest first, as {key, event}.
local function in_order(window)
  local order = {}
  for key, event in pairs(window.events) do
    local mark = key:sub(1, 1)
    if event and mark ~= RETRACTED and mark ~= REPORTED then order[#order + 1] = {key = key, event = event} end
  end
  table.sort(order, function(a, b)
    if a.event[OCCURRED] ~= b.event[OCCURRED] then return a.event[OCCURRED] < b.event[OCCURRED] end
    return a.key < b.key
  end)
  return order
end

-- A base with one more event in it: a newer snapshot replaces it, a later delta adds to it.
local function add_to_base(window, base, item, bucket)
  local event = item.event
  if window.events[RETRACTED .. item.key] or event[REVERSES] ~= '' then return base end
  if event[KIND] == 'snapshot' then
    if event[BUCKET] ~= bucket or not is_newer(event, event[ID], item.key, base) then return base end
    return {event[AMOUNT], event[OCCURRED], event[SEQUENCE], event[ID], item.key}
  end
  if event[OCCURRED] <= base[2] then return base end
  return {base[1] + effect(event, bucket), base[2], base[3], base[4], base[5]}
end
