-- Reservations, the records of other operations (one kind of key for both), and what a client has of them.

local function encode_reservation(r)
  return '\157' .. encode('hold', r.client, r.fingerprint, r.created_at_ms, r.expires_at_ms, r.order_id, r.channel,
    r.customer, r.epoch, r.seq, r.operations, r.lines, r.span)
end

-- When a reservation's held units end. A part that a change of the whole is pinned for waits for whoever ends that change,
-- or the change could be done on one shard and too late on another.
local function deadline_of(reservation)
  local span = reservation.span
  if not span then return reservation.expires_at_ms end
  if span[INTENT] ~= '' then return NEVER_MS end
  return max(reservation.expires_at_ms, span[PINNED_UNTIL])
end

-- Its fields as they are packed, from the client on.
local function reservation_from(id, client, fingerprint, created_at_ms, expires_at_ms, order_id, channel, customer,
    made_in, told_at, operations, lines, span)
  return {
    id = id, verb = 'hold', client = client, fingerprint = fingerprint, created_at_ms = created_at_ms,
    expires_at_ms = expires_at_ms, order_id = order_id, channel = channel, customer = customer,
    epoch = made_in, seq = told_at, operations = operations, lines = lines, span = span,
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
    -- `told`: how the entry names the client of a hold, whose record has the operation's id and fingerprint.
    client = {key = key, open = n[1], held = n[2], told = encode(name) .. '\160\160'}
    clients[name] = client
  end
  return client
end

-- Reads the records of these ids, which are not in the cache, in as few commands as can be.
local function read_records(ids)
  local head, keys = prefix .. 'op:', {}
  for i = 1, #ids do keys[i] = head .. ids[i] end
  for first = 1, #keys, ARGUMENTS_MAX do
    local found = call('MGET', unpack(keys, first, min(first + ARGUMENTS_MAX - 1, #keys)))
    for i = 1, #found do packed_records[ids[first + i - 1]] = found[i] end
  end
end

local function unpacked_record(id, packed)
  local _, verb, client, fingerprint, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13 = decode_some(packed, 13, 1)
  if verb ~= 'hold' then
    return {id = id, verb = verb, client = client, fingerprint = fingerprint, reservation = f4}
  end
  return reservation_from(id, client, fingerprint, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13)
end

-- The record of an operation: a reservation (verb 'hold'), or {verb, client, fingerprint, reservation}; nil if none.
local function record_of(id)
  local record = records[id]
  if record == nil then
    local packed = packed_records[id]
    if packed == nil then packed = call('GET', prefix .. 'op:' .. id) end
    if packed then
      record = unpacked_record(id, packed)
      if record.verb == 'hold' then
        record.packed = packed
        record.open_counted, record.held_counted = claims_of(record)
        record.listed_ms = deadline_of(record)   -- wherever it holds units
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
