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

-- Reads the records of these ids, which are not in the cache, in as few commands as can be.
local function read_records(ids)
  local head, keys = prefix .. 'op:', {}
  for i = 1, #ids do keys[i] = head .. ids[i] end
  for first = 1, #keys, ARGUMENTS_MAX do
    local found = call('MGET', unpack(keys, first, min(first + ARGUMENTS_MAX - 1, #keys)))
    for i = 1, #found do packed_records[ids[first + i - 1]] = found[i] end
  end
end

-- The record of an operation: a reservation (verb 'hold'), or {verb, client, fingerprint, reservation}; nil if none.
local function record_of(id)
  local record = records[id]
  if record == nil then
    local packed = packed_records[id]
    if packed == nil then packed = call('GET', prefix .. 'op:' .. id) end
    if packed then
      local fields = decode(packed)
      if fields[1] == 'hold' then
        record = reservation_from(id, fields)
        record.packed = packed
        record.open_counted, record.held_counted = claims_of(record)
        record.listed_ms = deadline_of(record)   -- wherever it holds units
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
