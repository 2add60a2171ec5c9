-- The call: whose it is, and what time it is in it.

-- The shard's own record: its epoch, the seq of its last journal entry, its clock, and how many shards the ledger has; 0
-- while it is being filled anew, and none before anything was written.
local function shard_at(shard_key)
  local packed = call('GET', shard_key)
  return packed and decode(packed) or {1, 0, 0}
end

local begin
do
  local CLOCK_JUMP_MS = 60000   -- a larger step of the server's clock is not believed

  -- The server's clock, never running back. A step of more than a minute against what the caller's own monotonic
  -- clock expects is not believed: nothing may be changed by it, and who only looks does so in the time that it counts.
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

  -- Operations that begin with a look at the records of their own id and of the reservation that they are for.
  local CHANGES = {
    extend = true, commit = true, release = true, pick = true, ship = true, cancel = true, ['return'] = true,
    move = true,
  }

  -- Reads in one command the records that the operations will ask for.
  local function read_ahead(operations)
    local ids, count = {}, 0
    for i = 1, #operations do
      local op = operations[i]
      local verb = op[1]
      if verb == 'part' then
        op = op[6]
        verb = op[1]
      end
      if verb == 'row' then
        for at = FIRST_HOLD, #op, A_HOLD do
          count = count + 1
          ids[count] = op[at]
        end
      elseif verb == 'hold' or verb == 'find' then
        count = count + 1
        ids[count] = op[2]
      elseif CHANGES[verb] then
        ids[count + 1], ids[count + 2] = op[2], op[5]
        count = count + 2
      end
    end
    read_records(ids)
  end

  -- Starts a call; the operations, or nil and why there are none: the caller belongs to another epoch, or to a ledger of
  -- another number of shards.
  function begin(shard_key, argument)
    due_left, overdue_left = DUE_MAX, nil
    call, encode, decode = redis.call, cmsgpack.pack, cmsgpack.unpack
    decode_some = cmsgpack.unpack_limit
    floor, max, min = math.floor, math.max, math.min
    prefix = shard_key:match('^{s%d+}:')
    assert(prefix, 'the shard key has no hash tag')
    skus, positions, records, packed_records, windows, places, clients, time_texts = {}, {}, {}, {}, {}, {}, {}, {}
    journal, granted, lifetimes = {}, {}, {}
    deadlines, counts, backlog_full = {}, {}, nil
    locks, marks, gone, part, kept, restoring, meters = {}, {}, {}, nil, {}, false, {}
    local given_ms, expected_ms, caller_epoch, operations
    given_ms, expected_ms, caller_epoch, backlog_entries_max, low_stock, operations, look_only,
      client_open_reservations_max, client_held_units_max, shards = unpack(decode(argument))
    local shard = shard_at(shard_key)
    if shard[4] and shard[4] ~= shards then return nil, ('SHARDS %d'):format(shard[4]) end
    if caller_epoch ~= shard[1] then
      return nil, 'EPOCH another generation of the ledger is in force'
    end
    epoch, seq, now_ms = shard[1], shard[2] + 1, clock(given_ms, expected_ms, shard[3])
    if clock_jumped and not look_only then return nil, 'CLOCK it is not the time that the caller counts' end
    read_ahead(operations)
    return operations
  end
end

local JOURNAL_TAIL = 1000   -- entries that the journaler leaves in the stream

-- Whether the journal is so far ahead of Postgres that nothing new may be promised.
local function is_backlog_full()
  if backlog_full == nil then backlog_full = call('XLEN', prefix .. 'journal') - JOURNAL_TAIL >= backlog_entries_max end
  return backlog_full
end
