-- Stock that converges (DESIGN 6): a bucket is its newest snapshot plus every delta that happened after it, whatever
-- the order in which they arrive. The window keeps the events that this needs, by key; ledger/README.md has a worked case.

local WINDOW_EVENTS_MAX = 512       -- more than this and the oldest fold into the base ...
local WINDOW_EVENTS_KEPT = 384      -- ... down to this many
local WINDOW_EVENTS_LAST = 4096     -- but events of one and the same time wait for each other up to here; no more of it
local WINDOW_MS = 48 * 3600000      -- and so does what was received longer ago
local WINDOW_SLACK_MS = 3600000     -- at most once an hour

-- Fields of an event in the window.
local KIND, BUCKET, AMOUNT, OCCURRED, SEQUENCE, TO_BUCKET, RECEIVED, REVERSES, ID = 1, 2, 3, 4, 5, 6, 7, 8, 9

-- A retraction stands twice in the window: under its own key, and under this mark and the key of what it retracts.
local RETRACTED = '!'

local function window_of(position)
  local window = windows[position]
  if not window then
    local key = prefix .. 'feed:' .. position.place
    local packed = call('HGET', key, '')
    window = {key = key, events = {}, changed = {}, meta = packed and decode(packed)
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
    event = packed and decode(packed) or false
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
    if flat[i] ~= '' and window.events[flat[i]] == nil then window.events[flat[i]] = decode(flat[i + 1]) end
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

-- What counts of a complete window, oldest first, as {key, event}.
local function in_order(window)
  local order = {}
  for key, event in pairs(window.events) do
    if event and key:sub(1, 1) ~= RETRACTED then order[#order + 1] = {key = key, event = event} end
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

-- Folds the oldest events into the bases once the window is full or old. From then on, whatever happened before the
-- horizon comes too late to be judged.
local function compact(window)
  local meta = window.meta
  local aged = meta.oldest_received_ms < now_ms - WINDOW_MS - WINDOW_SLACK_MS
  -- What is left after the horizon came to just before the newest time is all of that time, and waits.
  local is_of_one_time = meta.horizon_ms >= meta.newest_ms - 1 and meta.count <= WINDOW_EVENTS_LAST
  if (meta.count <= WINDOW_EVENTS_MAX or is_of_one_time) and not aged then return end
  load_all(window)
  local order = in_order(window)
  if #order > WINDOW_EVENTS_MAX then
    -- A time is folded whole or not at all, or its other events would come too late: a feed may tell only the day.
    local newest_ms, cut_ms = order[#order].event[OCCURRED], order[#order - WINDOW_EVENTS_KEPT].event[OCCURRED]
    if cut_ms == newest_ms and #order <= WINDOW_EVENTS_LAST then cut_ms = newest_ms - 1 end
    meta.horizon_ms = max(meta.horizon_ms, cut_ms)
  end
  for _, item in ipairs(order) do
    if item.event[RECEIVED] < now_ms - WINDOW_MS then meta.horizon_ms = max(meta.horizon_ms, item.event[OCCURRED]) end
  end
  meta.count, meta.oldest_received_ms = 0, now_ms
  for _, item in ipairs(order) do
    local event = item.event
    if event[OCCURRED] <= meta.horizon_ms then
      for _, bucket in ipairs({event[BUCKET], event[TO_BUCKET]}) do
        if bucket ~= '' then
          local folded = add_to_base(window, meta.folded[bucket] or {0, -1, -1, '', ''}, item, bucket)
          meta.folded[bucket] = folded
          if base_of(window, bucket)[2] <= meta.horizon_ms then meta.bases[bucket] = nil end
        end
      end
      window.events[item.key], window.changed[item.key] = false, true
      if window.events[RETRACTED .. item.key] then
        window.events[RETRACTED .. item.key], window.changed[RETRACTED .. item.key] = false, true
      end
    else
      meta.count, meta.oldest_received_ms = meta.count + 1, min(meta.oldest_received_ms, event[RECEIVED])
    end
  end
end

local function same_event(first, second)
  for _, field in ipairs({KIND, BUCKET, AMOUNT, OCCURRED, SEQUENCE, TO_BUCKET, REVERSES}) do
    if first[field] ~= second[field] then return false end
  end
  return true
end

local function change_bucket(position, bucket, quantity, reason, key, movements)
  if quantity == 0 then return end
  position[bucket], position.dirty = position[bucket] + quantity, true
  local from, to = 'outside', bucket
  if quantity < 0 then from, to = bucket, 'outside' end
  movements[#movements + 1] = {position.sku.name, position.location, from, to, math.abs(quantity), reason, key}
end

-- A snapshot becomes the base if it is the newest, and the later deltas are added to it again.
local function take_snapshot(position, window, event, key, id, movements)
  local bucket = event[BUCKET]
  local base = base_of(window, bucket)
  if not is_newer(event, id, key, base) then return 'superseded' end
  if event[OCCURRED] <= window.meta.horizon_ms then return 'quarantined', 'late' end
  local number = event[AMOUNT]
  if window.meta.newest_ms > event[OCCURRED] then
    load_all(window)
    for _, item in ipairs(in_order(window)) do
      if item.event[OCCURRED] > event[OCCURRED] and not window.events[RETRACTED .. item.key] then
        number = number + effect(item.event, bucket)
      end
    end
  end
  window.meta.bases[bucket] = {event[AMOUNT], event[OCCURRED], event[SEQUENCE], id, key}
  change_bucket(position, bucket, number - position[bucket], 'snapshot', key, movements)
  return 'applied'
end

-- A delta, or the two halves of a move: each counts unless its bucket's base was counted later.
local function add_delta(position, window, event, key, movements)
  local counted_later, later = true, {}
  for _, bucket in ipairs({event[BUCKET], event[TO_BUCKET]}) do
    if bucket ~= '' and event[OCCURRED] > base_of(window, bucket)[2] then
      later[#later + 1], counted_later = bucket, false
    end
  end
  if counted_later then return 'superseded' end
  if event[OCCURRED] <= window.meta.horizon_ms then return 'quarantined', 'late' end
  if #later == 2 then
    local from, to = event[BUCKET], event[TO_BUCKET]
    position[from], position[to], position.dirty = position[from] - event[AMOUNT], position[to] + event[AMOUNT], true
    movements[#movements + 1] = {position.sku.name, position.location, from, to, event[AMOUNT], 'move', key}
  else
    change_bucket(position, later[1], effect(event, later[1]), event[KIND], key, movements)
  end
  return 'applied'
end

-- A retraction: the event that it names never happened, whichever of the two comes first.
local function retract(position, window, event, target_key, key, movements)
  local target = event_in(window, target_key)
  if not target then
    -- Perhaps it is still to come; once something was folded, perhaps it was among it.
    if window.meta.horizon_ms >= 0 then return 'quarantined', 'late' end
    remember(window, RETRACTED .. target_key, event)
    return 'applied'
  end
  load_all(window)
  remember(window, RETRACTED .. target_key, event)
  for _, bucket in ipairs({target[BUCKET], target[TO_BUCKET]}) do
    if bucket ~= '' then
      local base = window.meta.folded[bucket] or {0, -1, -1, '', ''}
      local order = in_order(window)
      for _, item in ipairs(order) do
        if item.event[KIND] == 'snapshot' then base = add_to_base(window, base, item, bucket) end
      end
      window.meta.bases[bucket] = base
      for _, item in ipairs(order) do
        if item.event[KIND] ~= 'snapshot' then base = add_to_base(window, base, item, bucket) end
      end
      change_bucket(position, bucket, base[1] - position[bucket], 'retraction', key, movements)
    end
  end
  return 'applied'
end

-- What an event of each kind comes to: its outcome, and the reason if it is quarantined.
local function judge(position, window, event, key, id, reverses, movements)
  -- A retraction itself cannot be retracted, or it would matter which of the two comes first.
  if reverses then return retract(position, window, event, reverses, key, movements) end
  if event_in(window, RETRACTED .. key) then return 'superseded' end
  if event[KIND] == 'snapshot' then return take_snapshot(position, window, event, key, id, movements) end
  return add_delta(position, window, event, key, movements)
end

-- Whether a source's snapshots set on-hand: it is the authority, or a part of it (`wms:/dc/1` of `wms`), or there is none.
local function is_authority(authority, source)
  return not authority or source == authority or source:sub(1, #authority + 1) == authority .. ':'
end

-- One event of a feed: its outcome, the reason if it is quarantined, and the position; changes nothing if it is refused.
local function converge(fields, by_person, movements)
  local key, source, id, kind, sku, location = fields[1], fields[2], fields[3], fields[4], fields[5], fields[6]
  local place = location_of(location)
  if not place then return 'quarantined', 'unknown-location' end
  local event = {kind, fields[9], whole(fields[7], -1000000000, 1000000000), whole(fields[8], 0, 253402300799999),
    fields[11] or -1, fields[10] or '', now_ms, fields[15] or '', id}
  if kind == 'snapshot' and event[BUCKET] == 'on_hand' and not by_person
    and not is_authority(place[PLACE_AUTHORITY], source) then
    return 'quarantined', 'not-authoritative'
  end
  local position = position_at(sku, location)
  local window = window_of(position)
  local seen = event_in(window, key)
  if seen then
    if same_event(seen, event) then return 'duplicate', nil, position end
    return 'quarantined', 'conflict', position
  end
  if window.meta.count >= WINDOW_EVENTS_LAST and event[OCCURRED] == window.meta.newest_ms then
    return 'quarantined', 'window-full', position
  end
  local outcome, reason = judge(position, window, event, key, id, fields[15], movements)
  if outcome == 'quarantined' then return outcome, reason, position end
  position.exists, position.sku.known, position.dirty = true, true, true
  position.as_of_ms = max(position.as_of_ms, event[OCCURRED])
  if event[OCCURRED] > window.meta.horizon_ms then remember(window, key, event) end
  compact(window)
  return outcome, nil, position
end

-- Judges one event and journals it; replies an EventResult, and the outcome.
local function apply_event(fields, by_person, client)
  local movements = {}
  local position = location_of(fields[6]) and position_at(fields[5], fields[6])
  local previous = position and position[fields[9]] or 0
  local outcome, reason = converge(fields, by_person, movements)
  if outcome == 'applied' or outcome == 'superseded' then
    journal[#journal + 1] = '\151' .. encode('apply', fields[5] .. '@' .. fields[6], client, fields[1], '') .. '\159'
      .. encode(fields[1], fields[2], fields[3], fields[4], fields[5], fields[6], fields[7], fields[8], fields[9],
        fields[10], fields[11], fields[12], fields[13], fields[14], fields[15]) .. encode(movements)
  end
  return '\148' .. encode(outcome, reason, position and position[fields[9]] or 0, previous), outcome
end

-- The ledger's own delta of a bucket (a shipment, a return): it is done in any case, and counts unless a later count has
-- it. Units that ship leave on-hand by their own movement, so a count that has them is the movement back.
local function record_own_delta(line, bucket, quantity, occurred_at_ms, key, movements)
  local position = position_at(line[SKU], line[LOCATION])
  local window = window_of(position)
  local base = base_of(window, bucket)
  local counts = occurred_at_ms > base[2]
  position.dirty = true
  if counts then position[bucket] = position[bucket] + quantity end
  if counts == (quantity > 0) then
    local reason = counts and 'return' or 'counted'
    movements[#movements + 1] = {line[SKU], line[LOCATION], 'outside', bucket, math.abs(quantity), reason, key}
  end
  if occurred_at_ms > window.meta.horizon_ms then
    remember(window, key, {'delta', bucket, quantity, occurred_at_ms, -1, '', now_ms, '', key})
    compact(window)
  elseif counts then
    -- It happened before the horizon and after the base: it is folded at once.
    window.meta.folded[bucket] = {base[1] + quantity, base[2], base[3], base[4], base[5]}
    window.meta.bases[bucket], window.changed_meta = nil, true
  end
end
