-- What every verb shares: the caches of one call, the clock, expiry, and the one place that writes.
--
-- A call brings a batch of operations. Each verb decides on the tables cached here and never writes; when all
-- are decided, `flush` (flush.lua) writes every changed key once and appends one journal entry. Redis has no
-- rollback, so nothing that can fail may stand between the first write and the last.

-- Fields of a reservation's line (ReservationLine in messages.py).
local SKU, LOCATION, QUANTITY, HELD, COMMITTED, PICKED = 1, 2, 3, 5, 6, 7
local SHIPPED, RELEASED, EXPIRED, CANCELLED, RETURNED = 8, 9, 10, 11, 12
local STATES = {
  [HELD] = 'held', [COMMITTED] = 'committed', [PICKED] = 'picked', [SHIPPED] = 'shipped', [RELEASED] = 'released',
  [EXPIRED] = 'expired', [CANCELLED] = 'cancelled', [RETURNED] = 'returned',
}
local ENDINGS = {SHIPPED, RETURNED, CANCELLED, RELEASED, EXPIRED}

-- Fields of a reservation's span (Span in messages.py).
local SHARDS, NUMBERS, SEALED, TOKEN, INTENT, PINNED_UNTIL, RECLAIMED = 1, 2, 3, 4, 5, 6, 7

-- Fields of a location (Location in messages.py).
local PLACE_AUTHORITY, PLACE_ENABLED = 4, 8

local DUE_MAX = 2000               -- overdue reservations ended per call: about 20 ms
local OVERDUE_PLACES_MAX = 100     -- positions looked at per call for what is overdue anywhere
local OPERATIONS_MAX = 200         -- operations on one reservation: its record names them all
local JOURNAL_TAIL = 1000          -- entries that the journaler leaves in the stream
local READABLE_MS = 24 * 3600000   -- how long an ended reservation can still be read
local CLOCK_JUMP_MS = 60000        -- a larger step of the server's clock is not believed
local DAY_MS = 24 * 3600000
local NEVER_MS = 253402300799999   -- the last millisecond of the year 9999

local verbs = {}

-- The call under way; `begin` sets every one of these anew, the borrowed functions too: no global exists while a
-- library is loaded.
local call, encode, decode, floor, max, min
local prefix, now_ms, clock_jumped, epoch, seq, shards, backlog_entries_max, low_stock
local client_open_reservations_max, client_held_units_max
local skus, records, windows, places, clients
local locks, marks, gone, part, kept, restoring
local journal, deadlines, counts, backlog_full, due_left, overdue_left, look_only

-- ---------------------------------------------------------------------------------------------------------------
-- Keys (ledger/README.md lists type, fields, writer and life of each)

local function escaped(text)
  if text:find('[%%:{}]') then
    text = text:gsub('[%%:{}]', function(c) return ('%%%02X'):format(c:byte()) end)
  end
  return text
end

local function unescaped(text)
  return (text:gsub('%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
end

local function whole(value, low, high)
  assert(type(value) == 'number' and value == floor(value) and value >= low and value <= high, 'not a whole number in range')
  return value
end

-- ---------------------------------------------------------------------------------------------------------------
-- Positions

local function sku_of(name)
  local sku = skus[name]
  if not sku then
    sku = {name = name, key = prefix .. 'sku:' .. escaped(name), positions = {}}
    skus[name] = sku
  end
  return sku
end

-- `soonest_ms` is a time not later than the first deadline at the position, 0 when there is none: what is not overdue
-- need not be looked for. It is the only field that Python does not read.
local function cache_position(sku, location, packed)
  local place, waiting = escaped(sku.name) .. ':' .. escaped(location), 0
  -- Safety stock that was put before the first count waits for it under a key of its own.
  if not packed then
    local packed_waiting = call('HGET', prefix .. 'safety_stock', place)
    waiting = packed_waiting and decode(packed_waiting) or 0
  end
  local n = packed and decode(packed) or {0, 0, 0, 0, waiting, 0, 0, 0, 0, 0}
  local position = {
    sku = sku, location = location, exists = packed ~= nil, place = place, waiting_written = waiting,
    on_hand_before = n[1], claims_before = n[2] + n[3] + n[4],
    on_hand = n[1], held = n[2], committed = n[3], picked = n[4], safety_stock = n[5], damaged = n[6],
    quality_hold = n[7], in_transit = n[8], as_of_ms = n[9], soonest_ms = n[10], soonest_written_ms = n[10],
  }
  sku.positions[location] = position
  if packed then sku.known = true end
  return position
end

-- The position as the call has left it so far; `exists` is false where the SKU was never counted.
local function position_at(sku_name, location)
  local sku = sku_of(sku_name)
  return sku.positions[location] or cache_position(sku, location, call('HGET', sku.key, location) or nil)
end

-- Every position of a SKU, by location.
local function positions_of(sku_name)
  local sku = sku_of(sku_name)
  if not sku.complete then
    local flat = call('HGETALL', sku.key)
    for i = 1, #flat, 2 do
      if not sku.positions[flat[i]] then cache_position(sku, flat[i], flat[i + 1]) end
    end
    sku.complete, sku.known = true, sku.known or #flat > 0
  end
  return sku.positions
end

local function is_known(sku_name)
  local sku = sku_of(sku_name)
  if sku.known == nil then sku.known = call('EXISTS', sku.key) == 1 end
  return sku.known
end

local function available(position)
  return position.on_hand - position.held - position.committed - position.picked - position.safety_stock
end

local function encode_position(p)
  return '\154' .. encode(p.on_hand, p.held, p.committed, p.picked, p.safety_stock, p.damaged, p.quality_hold,
    p.in_transit, p.as_of_ms, p.soonest_ms)
end

local function location_of(id)
  local place = places[id]
  if place == nil then
    local packed = call('HGET', prefix .. 'locations', id)
    place = packed and decode(packed) or false
    places[id] = place
  end
  return place
end

-- ---------------------------------------------------------------------------------------------------------------
-- Reservations, and the records of other operations, under one kind of key

local function encode_reservation(r)
  return '\157' .. encode('hold', r.client, r.fingerprint, r.created_at_ms, r.expires_at_ms, r.order_id, r.channel,
    r.customer, r.epoch, r.seq, r.operations, r.lines, r.span)
end

local function reservation_from(id, fields)
  return {
    id = id, verb = 'hold', client = fields[2], fingerprint = fields[3], created_at_ms = fields[4],
    expires_at_ms = fields[5], order_id = fields[6], channel = fields[7], customer = fields[8],
    epoch = fields[9], seq = fields[10], operations = fields[11], lines = fields[12], span = fields[13],
  }
end

-- What a reservation counts for at its client: 1 if it is open, else 0, and its held units.
local function claims_of(reservation)
  local lines, held, others = reservation.lines, 0, 0
  for i = 1, #lines do
    local line = lines[i]
    held, others = held + line[HELD], others + line[COMMITTED] + line[PICKED]
  end
  return held + others > 0 and 1 or 0, held
end

-- The open reservations and held units of a client in this shard.
local function client_of(name)
  local client = clients[name]
  if not client then
    local key = prefix .. 'client:' .. escaped(name)
    local packed = call('GET', key)
    local n = packed and decode(packed) or {0, 0}
    client = {key = key, open = n[1], held = n[2]}
    clients[name] = client
  end
  return client
end

-- The record of an operation: a reservation (verb 'hold'), or {verb, client, fingerprint, reservation}; nil if none.
local function record_of(id)
  local record = records[id]
  if record == nil then
    local packed = call('GET', prefix .. 'op:' .. id)
    if packed then
      local fields = decode(packed)
      if fields[1] == 'hold' then
        record = reservation_from(id, fields)
        record.packed = packed
        record.open_counted, record.held_counted = claims_of(record)
      else
        record = {id = id, verb = fields[1], client = fields[2], fingerprint = fields[3], reservation = fields[4]}
      end
    end
    records[id] = record or false
  end
  return record or nil
end

local function units(reservation, state)
  local sum = 0
  for _, line in ipairs(reservation.lines) do sum = sum + line[state] end
  return sum
end

local function status_of(reservation)
  if units(reservation, HELD) > 0 then return 'held' end
  if units(reservation, COMMITTED) + units(reservation, PICKED) > 0 then return 'committed' end
  local most, ending = -1, nil
  for _, state in ipairs(ENDINGS) do
    local count = units(reservation, state)
    if count > most then most, ending = count, STATES[state] end
  end
  return ending
end

local function is_live(reservation)
  for _, line in ipairs(reservation.lines) do
    if line[HELD] + line[COMMITTED] + line[PICKED] > 0 then return true end
  end
  return false
end

-- ---------------------------------------------------------------------------------------------------------------
-- Changes: each verb makes them through these, so that positions, lines and journal cannot disagree

local COUNTED_IN = {[HELD] = 'held', [COMMITTED] = 'committed', [PICKED] = 'picked'}

-- Moves `quantity` units of a line from one state to another, in the line and in its position.
local function move_units(line, from, to, quantity, reason, movements)
  local position = position_at(line[SKU], line[LOCATION])
  line[from], line[to] = line[from] - quantity, line[to] + quantity
  if COUNTED_IN[from] then position[COUNTED_IN[from]] = position[COUNTED_IN[from]] - quantity end
  if COUNTED_IN[to] then position[COUNTED_IN[to]] = position[COUNTED_IN[to]] + quantity end
  position.dirty = true
  movements[#movements + 1] = {line[SKU], line[LOCATION], STATES[from], STATES[to], quantity, reason}
end

-- When a reservation's held units end. A part that a change of the whole is pinned for waits for whoever ends that change,
-- or the change could be done on one shard and too late on another.
local function deadline_of(reservation)
  local span = reservation.span
  if not span then return reservation.expires_at_ms end
  if span[INTENT] ~= '' then return NEVER_MS end
  return max(reservation.expires_at_ms, span[PINNED_UNTIL])
end

local function set_deadline(position, id, deadline_ms)
  position.deadlines = position.deadlines or {}
  position.deadlines[id] = deadline_ms
  if deadline_ms and (position.soonest_ms == 0 or deadline_ms < position.soonest_ms) then
    position.soonest_ms, position.dirty = deadline_ms, true
  end
end

-- Remembers a hold's deadline at each of its positions, or forgets it once no unit is held there.
local function set_deadlines(reservation)
  local held_at = {}
  for _, line in ipairs(reservation.lines) do
    if line[QUANTITY] > 0 then
      local position = position_at(line[SKU], line[LOCATION])
      held_at[position] = (held_at[position] or 0) + line[HELD]
    end
  end
  for position, quantity in pairs(held_at) do
    set_deadline(position, reservation.id, quantity > 0 and deadline_of(reservation) or false)
  end
end

-- Brings the client's counts to what the reservation has now, from what is counted of it so far.
local function count_claims(reservation)
  local open, held = claims_of(reservation)
  local more_open, more_held = open - reservation.open_counted, held - reservation.held_counted
  if more_open == 0 and more_held == 0 then return end
  local client = client_of(reservation.client)
  client.open, client.held, client.dirty = client.open + more_open, client.held + more_held, true
  reservation.open_counted, reservation.held_counted = open, held
end

-- Stamps the reservation with this call's receipt and writes the operation into the journal entry. Every change of a
-- reservation ends here, so its client's counts cannot drift from it.
local function record_change(verb, reservation, operation_id, fingerprint, client, movements)
  count_claims(reservation)
  reservation.epoch, reservation.seq, reservation.dirty = epoch, seq, true
  reservation.packed = encode_reservation(reservation)
  journal[#journal + 1] = '\151' .. encode(verb, reservation.id, client, operation_id, fingerprint)
    .. reservation.packed .. encode(movements)
end

-- Ends what is held of a reservation, as released or expired. Of a claim that was never sealed nothing stays.
local function end_held(reservation, ending, verb)
  local movements, span = {}, reservation.span
  local reason = span and span[RECLAIMED] and 'reacquire' or verb
  for _, line in ipairs(reservation.lines) do
    if line[HELD] > 0 then move_units(line, HELD, ending, line[HELD], reason, movements) end
  end
  set_deadlines(reservation)
  record_change(verb, reservation, '', '', reservation.client, movements)
end

local function drop(reservation, ending)
  assert(units(reservation, COMMITTED) + units(reservation, PICKED) == 0, 'an order has units of it')
  end_held(reservation, ending, 'drop')
  records[reservation.id], gone[reservation.id], marks[reservation.id] = false, true, false
end

local function expire_reservation(reservation)
  local span = reservation.span
  if span and not span[SEALED] then return drop(reservation, EXPIRED) end
  end_held(reservation, EXPIRED, 'expire')
  if span and not is_live(reservation) then marks[reservation.id] = now_ms + READABLE_MS end
end

local function is_overdue(reservation)
  return deadline_of(reservation) <= now_ms and units(reservation, HELD) > 0
end

-- The earliest deadline among the holds at a position that outlive this call, or nil.
local function next_expiry(position)
  local first = call('ZRANGEBYSCORE', prefix .. 'held:' .. position.place, '(' .. ('%.0f'):format(now_ms), '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)
  return first[2] and tonumber(first[2])
end

-- Ends what is overdue at a position, so that the next decision has its units. Once per position and call.
local function settle(position)
  if position.settled then return end
  position.settled = true
  if position.held == 0 then
    -- What was held is no more: the next deadline here is the first, and `deadlines` must hear of it.
    position.soonest_ms, position.soonest_written_ms = 0, 0
    return
  end
  if position.soonest_ms > now_ms then return end
  local limit = due_left
  local due = call('ZRANGEBYSCORE', prefix .. 'held:' .. position.place, '-inf', now_ms, 'LIMIT', 0, limit + 1)
  position.more_due = #due > limit
  if position.more_due then due[#due] = nil end
  due_left = due_left - #due
  for _, id in ipairs(due) do
    local reservation = record_of(id)
    if reservation and is_overdue(reservation) then expire_reservation(reservation) end
  end
  if position.more_due then return end
  -- Deadlines that this very call has set are not on the server yet; later ones come on top in `set_deadline`.
  position.soonest_ms = next_expiry(position) or 0
  for _, deadline_ms in pairs(position.deadlines or {}) do
    if deadline_ms and (position.soonest_ms == 0 or deadline_ms < position.soonest_ms) then
      position.soonest_ms = deadline_ms
    end
  end
end

-- Ends what is overdue anywhere in the shard, up to some `reservations_max`; whether more wait.
local function settle_all(reservations_max)
  local before, more = #journal, false
  local overdue = call('ZRANGEBYSCORE', prefix .. 'deadlines', '-inf', now_ms, 'LIMIT', 0, OVERDUE_PLACES_MAX)
  for _, place in ipairs(overdue) do
    if #journal - before >= reservations_max then more = true break end
    local sku, location = place:match('^(.*):(.*)$')
    local position = position_at(unescaped(sku), unescaped(location))
    settle(position)
    -- A deadline that is still due stays in front. Never later than the position's own idea of the next, or a hold that
    -- ends between the two would not be written here.
    if position.more_due then more = true else deadlines[place] = position.soonest_ms > 0 and position.soonest_ms end
  end
  return more or #overdue == OVERDUE_PLACES_MAX
end

-- What a position can still promise, overdue holds ended first, with the units of `taken` set aside.
local function left_at(position, taken)
  settle(position)
  local place = location_of(position.location)
  if not (place and place[PLACE_ENABLED]) then return 0 end
  return max(0, available(position) - (taken[position] or 0))
end

-- The client's reservation for a verb, overdue units ended first; nil if there is none.
local function reservation_of(id, client)
  local reservation = record_of(id)
  if not reservation or reservation.verb ~= 'hold' or reservation.client ~= client then return nil end
  if is_overdue(reservation) then expire_reservation(reservation) end
  return records[id] or nil
end

-- ---------------------------------------------------------------------------------------------------------------
-- Answers (the outcomes of messages.py)

local function array_header(count)
  if count < 65536 then return '\220' .. string.char(floor(count / 256), count % 256) end
  return '\221' .. struct.pack('>I4', count)
end

local NOT_FOUND = '\145\169not-found'
local BUSY = '\145\164busy'
local UNPINNED = '\145\168unpinned'
local FINISHED = '\145\168finished'
local JOURNAL_FULL = '\145\172journal-full'

local function done(replayed, reservation)
  return '\148' .. encode('done', replayed, reservation.id) .. reservation.packed
end

-- The refusal of `opened` more reservations and `held` more units of a client, or nil. What is overdue and was not ended
-- yet is no claim any more: it is ended before anybody is refused for it, in the next calls if it is too much for one.
local function over_limit(name, opened, held)
  local client = client_of(name)
  local too_many_open = client.open + opened > client_open_reservations_max
  local too_many_held = held > 0 and client.held + held > client_held_units_max
  if not (too_many_open or too_many_held) then return nil end
  if overdue_left == nil then
    overdue_left = settle_all(DUE_MAX)
    return over_limit(name, opened, held)
  end
  if overdue_left then return BUSY end
  if too_many_open then return '\147' .. encode('open-reservations-limit', client_open_reservations_max, client.open) end
  return '\148' .. encode('held-units-limit', client_held_units_max, client.held, held)
end

local function key_reused(record) return '\146' .. encode('key-reused', record.fingerprint) end

-- How a position with this much left is called to a buyer who wanted more.
local function stock_status(left, held)
  if left > 0 then return left <= low_stock and 'low' or 'in_stock' end
  return held > 0 and 'held_out' or 'sold_out'
end

-- The states whose units each verb takes.
local MOVE = {'move', {HELD, COMMITTED}}
local TAKES = {
  {'commit', {HELD}}, {'extend', {HELD}}, {'release', {HELD}}, {'pick', {COMMITTED}}, {'ship', {PICKED, COMMITTED}},
  {'cancel', {COMMITTED, PICKED}}, {'return', {SHIPPED}}, MOVE,
}

-- Whether a verb would take units of the line.
local function allows(line, rule)
  -- What was picked, shipped or returned was so at the old location: such a line stays there.
  if rule[1] == 'move' and line[PICKED] + line[SHIPPED] + line[RETURNED] > 0 then return false end
  for _, state in ipairs(rule[2]) do
    if line[state] > 0 then return true end
  end
  return false
end

local function wrong_state(reservation)
  local allowed = {}
  for _, rule in ipairs(TAKES) do
    for _, line in ipairs(reservation.lines) do
      if allows(line, rule) then allowed[#allowed + 1] = rule[1] break end
    end
  end
  return '\147' .. encode('wrong-state', status_of(reservation), allowed)
end

-- What a verb says when it found no unit that it takes.
local function nothing_to_take(reservation)
  if not is_live(reservation) and units(reservation, EXPIRED) > 0 then
    return '\146' .. encode('reservation-expired', reservation.expires_at_ms)
  end
  return wrong_state(reservation)
end

-- The answer to an operation whose key was used before, or nil for a new key.
local function answered_before(id, fingerprint)
  local record = record_of(id)
  if not record then return nil end
  if record.fingerprint ~= fingerprint then return key_reused(record) end
  if record.verb == 'hold' then return done(true, reservation_of(id, record.client)) end
  local reservation = reservation_of(record.reservation, record.client)
  return reservation and done(true, reservation) or NOT_FOUND
end

-- Where the verbs that can take a part have it.
local LINES_AT = {commit = 8, release = 6, pick = 6, ship = 6, cancel = 6, ['return'] = 6}

-- Runs one verb on a reservation: replay, ownership, the verb's own rule, then the record of the operation.
-- `apply(reservation, movements)` makes the change and returns nil, or changes nothing and returns a refusal.
-- `stamp(reservation)` sets what every part of a reservation over several shards has of it.
local function operate(verb, op, apply, stamp)
  local id, fingerprint, client, target = op[2], op[3], op[4], op[5]
  local before = answered_before(id, fingerprint)
  if before then return before end
  local reservation = reservation_of(target, client)
  if not reservation then return NOT_FOUND end
  -- At the limit only what takes all that it can goes on, so that every unit can still come to its end.
  local lines_at = LINES_AT[verb]
  local takes_all = lines_at and op[lines_at] == nil
  if #reservation.operations >= OPERATIONS_MAX and not takes_all and not reservation.span then
    return '\146' .. encode('operations-limit', OPERATIONS_MAX)
  end
  local span, movements = reservation.span, {}
  if span and (span[TOKEN] == '' or not part or part.token ~= span[TOKEN]) then return UNPINNED end
  local refusal
  if not span or part.takes then refusal = apply(reservation, movements) end
  if refusal then return refusal end
  if stamp then stamp(reservation) end
  if span then span[TOKEN], span[INTENT], span[PINNED_UNTIL] = '', '', 0 end
  reservation.operations[#reservation.operations + 1] = id
  set_deadlines(reservation)
  record_change(verb, reservation, id, fingerprint, client, movements)
  records[id] = {
    id = id, verb = verb, client = client, fingerprint = fingerprint, reservation = target, dirty = true,
  }
  return done(false, reservation)
end

-- The units that `wanted` (or, without it, everything) takes from a reservation in these states, each line's first
-- state first, as {line, state, quantity, number of the line}; nil when a line has fewer, an empty list when there is
-- nothing at all.
local function units_to_take(reservation, wanted, states)
  local taken, left = {}, {}
  local function take(number, line, quantity)
    for _, state in ipairs(states) do
      left[line] = left[line] or {}
      local has = left[line][state] or line[state]
      local part = min(has, quantity)
      if part > 0 then
        taken[#taken + 1] = {line, state, part, number}
        left[line][state], quantity = has - part, quantity - part
      end
    end
    return quantity
  end
  if not wanted then
    for number, line in ipairs(reservation.lines) do take(number, line, line[QUANTITY]) end
    return taken
  end
  for _, want in ipairs(wanted) do
    local line = reservation.lines[want[1]]
    if not line or take(want[1], line, whole(want[2], 1, 1000000)) > 0 then return nil end
  end
  return taken
end

-- ---------------------------------------------------------------------------------------------------------------
-- The call

-- The server's clock, never running back. A step of more than a minute against what the caller's own monotonic
-- clock expects is not believed: time goes on as the caller counts it, so that nothing expires en masse.
local function clock(given_ms, expected_ms, last_ms)
  clock_jumped = false
  if given_ms > 0 then return max(given_ms, last_ms) end
  local time = call('TIME')
  local server_ms = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
  if expected_ms > 0 and math.abs(server_ms - expected_ms) > CLOCK_JUMP_MS then
    clock_jumped, server_ms = true, expected_ms
  end
  return max(server_ms, last_ms)
end

-- The shard's own record: its epoch, the seq of its last journal entry, its clock, and how many shards the ledger has; 0
-- while it is being filled anew, and none before anything was written.
local function shard_at(shard_key)
  local packed = call('GET', shard_key)
  return packed and decode(packed) or {1, 0, 0}
end

-- Starts a call; the operations, or nil and why there are none: the caller belongs to another epoch, or to a ledger of
-- another number of shards.
local function begin(shard_key, argument)
  due_left, overdue_left = DUE_MAX, nil
  call, encode, decode = redis.call, cmsgpack.pack, cmsgpack.unpack
  floor, max, min = math.floor, math.max, math.min
  prefix = shard_key:match('^{s%d+}:')
  assert(prefix, 'the shard key has no hash tag')
  skus, records, windows, places, clients = {}, {}, {}, {}, {}
  journal, deadlines, counts, backlog_full = {}, {}, {}, nil
  locks, marks, gone, part, kept, restoring = {}, {}, {}, nil, {}, false
  local given_ms, expected_ms, caller_epoch, operations
  given_ms, expected_ms, caller_epoch, backlog_entries_max, low_stock, operations, look_only,
    client_open_reservations_max, client_held_units_max, shards = unpack(decode(argument))
  local shard = shard_at(shard_key)
  if shard[4] and shard[4] ~= shards then return nil, ('SHARDS %d'):format(shard[4]) end
  if caller_epoch ~= 0 and caller_epoch ~= shard[1] then
    return nil, 'EPOCH another generation of the ledger is in force'
  end
  epoch, seq, now_ms = shard[1], shard[2] + 1, clock(given_ms, expected_ms, shard[3])
  return operations
end

-- Whether the journal is so far ahead of Postgres that nothing new may be promised.
local function is_backlog_full()
  if backlog_full == nil then backlog_full = call('XLEN', prefix .. 'journal') - JOURNAL_TAIL >= backlog_entries_max end
  return backlog_full
end
