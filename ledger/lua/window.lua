-- The window of a position: the events that its numbers follow from, by key, with the bases and the horizon.

-- Fields of an event in the window.
local KIND, BUCKET, AMOUNT, OCCURRED, SEQUENCE, TO_BUCKET, RECEIVED, REVERSES, ID = 1, 2, 3, 4, 5, 6, 7, 8, 9
local REFERENCE, SHIPPED_UNITS = 10, 11   -- of a shipment: whose it is; of our own, what left, however much of it counts

-- A retraction stands twice in the window: under its own key, and under this mark and the key of what it retracts.
local RETRACTED = '!'
-- What was reported of a line stands under this mark and its reference (reports.lua).
local REPORTED = '#'

local unpack_meta, unpack_field   -- see window_packing.lua

local NO_BASE = {0, -1, -1, '', ''}

-- The window of a position, and in it the event of this key, both in one look.
local function window_of(position, event_key)
  local window = windows[position]
  if not window then
    local name = 'feed:' .. position.place
    local key = prefix .. name
    local found = call('HMGET', key, '', event_key)
    if found[1] then
      window = unpack_meta(key, name, found[1])
    else
      window = {key = key, name = name, events = {}, changed = {}, horizon_ms = -1, newest_ms = -1, count = 0,
        oldest_received_ms = now_ms, has_reports = false, has_early_retractions = false, bases = {}, folded = {},
        changed_meta = false, complete = true}
    end
    window.events[event_key] = found[2] and unpack_field(event_key, found[2]) or false
    windows[position] = window
  end
  return window
end

-- The newest snapshot of a bucket, or what has been folded: {quantity, as_of_ms, sequence, event id, event key}.
local function base_of(window, bucket)
  return window.bases[bucket] or window.folded[bucket] or NO_BASE
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

-- Whether an event was retracted before it came, or is retracted now.
local function is_retracted(window, key)
  return window.has_early_retractions and event_in(window, RETRACTED .. key)
end

local function remember(window, key, event)
  window.events[key], window.changed[key] = event, true
  window.count = window.count + 1
  window.newest_ms = max(window.newest_ms, event[OCCURRED])
  window.oldest_received_ms = min(window.oldest_received_ms, event[RECEIVED])
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
