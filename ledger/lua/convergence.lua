-- Stock that converges (DESIGN 6): a bucket is its newest snapshot plus every delta that happened after it, whatever
-- the order in which they arrive. `window.lua` keeps the events that this needs; ledger/README.md has a worked case.

local function same_event(first, second)
  for _, field in ipairs({KIND, BUCKET, AMOUNT, OCCURRED, SEQUENCE, TO_BUCKET, REVERSES, REFERENCE}) do
    if (first[field] or '') ~= (second[field] or '') then return false end
  end
  return true
end

local packed_words = {}   -- of the journal's, which are few: each packed once

local function packed_word(word)
  local packed = packed_words[word]
  if not packed then
    packed = encode(word)
    packed_words[word] = packed
  end
  return packed
end

local function packed_movement(position, from, to, quantity, reason, key)
  return '\151' .. encode(position.sku.name, position.location) .. packed_word(from) .. packed_word(to)
    .. encode(quantity) .. packed_word(reason) .. encode(key)
end

function change_bucket(position, bucket, quantity, reason, key, movements)
  if quantity == 0 then return end
  position[bucket], position.dirty = position[bucket] + quantity, true
  if quantity > 0 then
    movements[#movements + 1] = packed_movement(position, 'outside', bucket, quantity, reason, key)
  else
    movements[#movements + 1] = packed_movement(position, bucket, 'outside', -quantity, reason, key)
  end
end

-- A snapshot becomes the base if it is the newest, and the later deltas are added to it again.
local function take_snapshot(position, window, event, key, id, movements)
  local bucket = event[BUCKET]
  local base = base_of(window, bucket)
  if event[OCCURRED] == base[2] and event[SEQUENCE] == base[3] then name_base(window, bucket, base) end
  if not is_newer(event, id, key, base) then return 'superseded' end
  if event[OCCURRED] <= window.horizon_ms then return 'quarantined', 'late' end
  local number = event[AMOUNT]
  if window.newest_ms > event[OCCURRED] then
    load_all(window)
    for _, item in ipairs(in_order(window)) do
      if item.event[OCCURRED] > event[OCCURRED] and not window.events[RETRACTED .. item.key] then
        number = number + effect(item.event, bucket)
      end
    end
  end
  window.bases[bucket] = {event[AMOUNT], event[OCCURRED], event[SEQUENCE], id, key}
  change_bucket(position, bucket, number - position[bucket], 'snapshot', key, movements)
  return 'applied'
end

-- A delta, or the two halves of a move: each counts unless its bucket's base was counted later.
local function add_delta(position, window, event, key, movements)
  local from, to, at_ms = event[BUCKET], event[TO_BUCKET], event[OCCURRED]
  local from_later = at_ms > base_of(window, from)[2]
  local to_later = to ~= '' and at_ms > base_of(window, to)[2]
  if not (from_later or to_later) then return 'superseded' end
  if at_ms <= window.horizon_ms then return 'quarantined', 'late' end
  if from_later and to_later then
    position[from], position[to], position.dirty = position[from] - event[AMOUNT], position[to] + event[AMOUNT], true
    movements[#movements + 1] = packed_movement(position, from, to, event[AMOUNT], 'move', key)
  else
    local bucket = from_later and from or to
    change_bucket(position, bucket, effect(event, bucket), event[KIND], key, movements)
  end
  return 'applied'
end

-- The WMS's own report of a shipment, perhaps of one that we know.
local function add_report(position, window, event, key, movements)
  local outcome, reason = add_delta(position, window, event, key, movements)
  if event[OCCURRED] <= window.horizon_ms then return outcome, reason end
  local back, is_ours = report(window, event[REFERENCE], -event[AMOUNT])
  change_bucket(position, 'on_hand', back, 'reported', key, movements)
  return is_ours and 'applied' or outcome
end

-- A retraction: the event that it names never happened, whichever of the two comes first.
local function retract(position, window, event, target_key, key, movements)
  local target, was_view = event_in(window, target_key), forget_view(position, target_key)
  if not target then
    -- Perhaps it is still to come; once something was folded, perhaps it was among it.
    if window.horizon_ms >= 0 and not was_view then return 'quarantined', 'late' end
    window.has_early_retractions = true
    remember(window, RETRACTED .. target_key, event)
    return 'applied'
  end
  load_all(window)
  if (target[REFERENCE] or NO_REFERENCE) ~= NO_REFERENCE and not window.events[RETRACTED .. target_key] then
    report(window, target[REFERENCE], target[AMOUNT])
  end
  remember(window, RETRACTED .. target_key, event)
  for _, bucket in ipairs({target[BUCKET], target[TO_BUCKET]}) do
    if bucket ~= '' then
      local base = window.folded[bucket] or NO_BASE
      local order = in_order(window)
      for _, item in ipairs(order) do
        if item.event[KIND] == 'snapshot' then base = add_to_base(window, base, item, bucket) end
      end
      window.bases[bucket] = base
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
  if is_retracted(window, key) then return 'superseded' end
  if event[KIND] == 'snapshot' then return take_snapshot(position, window, event, key, id, movements) end
  if event[REFERENCE] ~= NO_REFERENCE then return add_report(position, window, event, key, movements) end
  return add_delta(position, window, event, key, movements)
end

-- An event that may change something at its position: its outcome, and the reason if it is quarantined.
local function take_event(position, window, event, key, id, reverses, movements)
  if window.count >= WINDOW_EVENTS_LAST and event[OCCURRED] == window.newest_ms then
    return 'quarantined', 'window-full'
  end
  local outcome, reason = judge(position, window, event, key, id, reverses, movements)
  if outcome == 'quarantined' then return outcome, reason end
  position.exists, position.sku.known, position.dirty = true, true, true
  position.as_of_ms = max(position.as_of_ms, event[OCCURRED])
  if event[OCCURRED] > window.horizon_ms then remember(window, key, event) end
  compact(window)
  return outcome
end

-- Judges one event, packed as the journal is to have it, and journals it; replies an EventResult, and the outcome. The
-- event's own key is in it, so the operation has no other id.
function apply_event(packed, by_person, client)
  local _, key, source, id, kind, sku, location, quantity, occurred_at_ms, bucket, to_bucket, sequence, _, reservation,
    line, reverses = decode_some(packed, 15, 1)
  local place = location_of(location)
  if not place then return '\148' .. encode('quarantined', 'unknown-location', 0, 0) end
  local position, movements = position_at(sku, location), {}
  local previous = position[bucket]
  local event = {kind, bucket, whole(quantity, -1000000000, 1000000000), whole(occurred_at_ms, 0, NEVER_MS), sequence or -1,
    to_bucket or '', now_ms, reverses or '', id, NO_REFERENCE}
  event[REFERENCE] = reference_of(event, reservation, line, reverses)
  local window = window_of(position, key)
  local seen, verb, is_kept, outcome, reason = event_in(window, key), 'apply', true, nil, nil
  if seen then
    if same_event(seen, event) then outcome = 'duplicate' else outcome, reason = 'quarantined', 'conflict' end
  elseif kind == 'snapshot' and bucket == 'on_hand' and not by_person and not reverses
    and not is_authority(place[PLACE_AUTHORITY], source) and not is_retracted(window, key) then
    verb = 'view'
    outcome, reason, is_kept = see(position, event, source, id, key)
  else
    outcome, reason = take_event(position, window, event, key, id, reverses, movements)
    is_kept = outcome ~= 'quarantined'
  end
  if is_kept and not seen then
    journal[#journal + 1] = '\151' .. packed_word(verb) .. encode(sku .. '@' .. location, client) .. '\160\160'
      .. packed .. array_header(#movements) .. table.concat(movements)
  end
  return '\148' .. packed_word(outcome) .. encode(reason, position[bucket], previous), outcome
end

-- The ledger's own delta of a bucket (a shipment, a return): it is done in any case, and counts unless a later count has
-- it or, of a shipment, its WMS reported it. Units that ship leave on-hand by their own movement, so what does not count
-- is a movement back.
function record_own_delta(line, bucket, quantity, occurred_at_ms, key, movements, reference, units_before)
  local position = position_at(line[SKU], line[LOCATION])
  local window = window_of(position, key)
  local base = base_of(window, bucket)
  local counts, is_folded = occurred_at_ms > base[2], occurred_at_ms <= window.horizon_ms
  local event = {'delta', bucket, quantity, occurred_at_ms, -1, '', now_ms, '', key, reference or NO_REFERENCE}
  local record = reference and record_of_shipment(window, reference, units_before)
  if reference then event[SHIPPED_UNITS] = -quantity end
  if not is_folded then remember(window, key, event) end
  local change = is_folded and 0 or counts and quantity or 0
  if record then change = change + match_shipment(window, record, event, key) end
  if is_folded and counts then
    -- It happened before the horizon and after the base: it is folded at once.
    change = change + event[AMOUNT]
    name_base(window, bucket, base)
    window.folded[bucket] = {base[1] + event[AMOUNT], base[2], base[3], base[4], base[5]}
    window.bases[bucket], window.changed_meta = nil, true
  end
  position[bucket], position.dirty = position[bucket] + change, true
  local back = quantity < 0 and change - quantity or change
  if back ~= 0 then
    local reason = quantity > 0 and 'return' or counts and 'reported' or 'counted'
    movements[#movements + 1] = {line[SKU], line[LOCATION], 'outside', bucket, back, reason, key}
  end
  if not is_folded then compact(window) end
end

-- Units of a line, already moved, that leave the building.
function record_own_shipment(reservation, part, occurred_at_ms, movements)
  local line, quantity = part[1], part[3]
  local number = reservation.span and reservation.span[NUMBERS][part[4]] or part[4]
  local reference, units_before = line_reference(reservation.id, number), line[SHIPPED] + line[RETURNED] - quantity
  local key = shipment_key(reference, units_before)
  record_own_delta(line, 'on_hand', -quantity, occurred_at_ms, key, movements, reference, units_before)
end
