-- How a window is kept. It is most of what a position takes in memory, so words are numbers, times are differences, and
-- nothing is there twice (`python -m bench memory`). Arrays are flat: each table costs more time than all of its numbers.

do

local KINDS, BUCKETS = {'snapshot', 'delta', 'move'}, {'on_hand', 'damaged', 'quality_hold', 'in_transit'}
local CODES = {snapshot = 0, delta = 1, move = 2, on_hand = 0, damaged = 1, quality_hold = 2, in_transit = 3}

-- What of a window is set: something was reported there (reports.lua); an event was retracted that had not come.
local HAS_REPORTS, HAS_EARLY_RETRACTIONS = 1, 2
-- A base's number in the window: its bucket, and whether it is the one that was folded, and whether it has names.
local IS_FOLDED, IS_NAMED = 4, 8

-- {kind, bucket and to_bucket in one number, amount, occurred_at_ms, received after that}, then as many as are needed of
-- {sequence, event id (of a snapshot), reverses, reference, shipped units}.
local function pack_event(event)
  local to, kind = event[TO_BUCKET], event[KIND]
  local code = CODES[kind] + 3 * CODES[event[BUCKET]] + (to ~= '' and 12 * (CODES[to] + 1) or 0)
  local amount, at_ms, after_ms = event[AMOUNT], event[OCCURRED], event[RECEIVED] - event[OCCURRED]
  local sequence, id, reverses = event[SEQUENCE], kind == 'snapshot' and event[ID] or '', event[REVERSES]
  local reference, units = event[REFERENCE] or '', event[SHIPPED_UNITS]
  if units then return encode({code, amount, at_ms, after_ms, sequence, id, reverses, reference, units}) end
  if reference ~= '' then return encode({code, amount, at_ms, after_ms, sequence, id, reverses, reference}) end
  if reverses ~= '' then return encode({code, amount, at_ms, after_ms, sequence, id, reverses}) end
  if id ~= '' then return encode({code, amount, at_ms, after_ms, sequence, id}) end
  if sequence ~= -1 then return encode({code, amount, at_ms, after_ms, sequence}) end
  return encode({code, amount, at_ms, after_ms})
end

local function unpack_event(packed)
  local _, code, amount, at_ms, after_ms, sequence, id, reverses, reference, units = decode_some(packed, 9, 1)
  local to = floor(code / 12)
  return {KINDS[code % 3 + 1], BUCKETS[floor(code / 3) % 4 + 1], amount, at_ms, sequence or -1,
    to > 0 and BUCKETS[to] or '', at_ms + after_ms, reverses or '', id or '', reference or '', units}
end

-- A base whose event is in the window needs no names: the event has them, if they are ever asked for (`name_base`).
local function add_bases(packed, window, bases, folded)
  for bucket, base in pairs(bases) do
    local n, is_named = #packed, base[5] and (folded > 0 or not window.events[base[5]])
    packed[n + 1] = CODES[bucket] + folded + (is_named and IS_NAMED or 0)
    packed[n + 2], packed[n + 3], packed[n + 4] = base[1], window.newest_ms - base[2], base[3]
    if is_named then packed[n + 5], packed[n + 6] = base[4], base[5] end
  end
end

-- {horizon_ms, newest_ms, count, oldest received after newest, what is set}, then for each base
-- {its number, quantity, as_of before newest, sequence} and perhaps {event id, event key}.
function pack_meta(window)
  local set = (window.has_reports and HAS_REPORTS or 0) + (window.has_early_retractions and HAS_EARLY_RETRACTIONS or 0)
  local newest_ms = window.newest_ms
  local packed = {window.horizon_ms, newest_ms, window.count, window.oldest_received_ms - newest_ms, set}
  add_bases(packed, window, window.bases, 0)
  add_bases(packed, window, window.folded, IS_FOLDED)
  return encode(packed)
end

function unpack_meta(key, name, packed)
  local bases, folded = {}, {}
  local at, horizon_ms, newest_ms, count, received_ms, set = decode_some(packed, 5, header_length(packed))
  while at > 0 do
    local number, quantity, before_ms, sequence, id, event_key
    at, number, quantity, before_ms, sequence = decode_some(packed, 4, at)
    if number >= IS_NAMED then
      at, id, event_key = decode_some(packed, 2, at)
      number = number - IS_NAMED
    end
    local into = bases
    if number >= IS_FOLDED then into, number = folded, number - IS_FOLDED end
    into[BUCKETS[number + 1]] = {quantity, newest_ms - before_ms, sequence, id, event_key}
  end
  return {key = key, name = name, events = {}, changed = {}, horizon_ms = horizon_ms, newest_ms = newest_ms,
    count = count, oldest_received_ms = newest_ms + received_ms, has_reports = set % 2 == HAS_REPORTS,
    has_early_retractions = set >= HAS_EARLY_RETRACTIONS, bases = bases, folded = folded, changed_meta = false,
    complete = false}
end

-- What stands under a mark of reports is no event.
function unpack_field(name, packed)
  if name:sub(1, 1) == REPORTED then return decode(packed) end
  return unpack_event(packed)
end

function pack_field(name, value)
  if name:sub(1, 1) == REPORTED then return encode(value) end
  return pack_event(value)
end

end
