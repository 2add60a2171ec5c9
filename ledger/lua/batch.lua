-- The library's functions: a batch of operations, decided in order, written at once; and the fence.
--
-- KEYS: the shard's key, which carries its hash tag; one that never exists, see keys.py.  ARGV: one msgpack array
--   {now_ms or 0, expected_ms or 0, epoch, backlog_entries_max, low_stock, {operation, ...}, look_only,
--    client_open_reservations_max, client_held_units_max, shards of the ledger}
-- With look_only what is overdue counts as ended in the answers, and nothing is written.
-- Replies one msgpack array {epoch, now_ms, clock_jumped, {outcome, ...}, seq}, or an error whose first word is
--   EPOCH     the caller belongs to another generation of the ledger; nothing was done
--   SHARDS n  the ledger has another number of shards, 0 while it is filled anew; nothing was done
--   CLOCK     the server's clock is more than a minute off expected_ms, and it was not only to look; nothing was done
--   DECISION  an operation broke a rule that the edges guarantee (a bug); nothing was done

-- The outcomes, or nil and why the caller may do nothing here.
local function decide(shard_key, argument)
  local operations, refusal = begin(shard_key, argument)
  if not operations then return nil, refusal end
  local outcomes = {}
  for i = 1, #operations do
    local op = operations[i]
    if op[1] == 'row' then hold_row(op, outcomes) else outcomes[#outcomes + 1] = verbs[op[1]](op) end
  end
  if not look_only then journal_shortages() end
  return outcomes
end

local function batch(keys, args)
  local decided, outcomes, refusal = pcall(decide, keys[1], args[1])
  if not decided then return redis.error_reply('DECISION an operation could not be decided') end
  if not outcomes then return redis.error_reply(refusal) end
  if not look_only then flush() end
  return '\149' .. encode(epoch, now_ms, clock_jumped) .. array_header(#outcomes) .. table.concat(outcomes) .. encode(seq)
end

redis.register_function{function_name = 'batch_VERSION', callback = batch}
-- The same for what gives memory back: a full server must still be able to free itself.
redis.register_function{function_name = 'batch_allow_oom_VERSION', callback = batch, flags = {'allow-oom'}}

local OLDER = 'EPOCH another generation of the ledger is in force'

-- Says who may use the shard from now on: callers of `shards` and of `epoch`, which is only ever raised and begins its
-- entries at 1; 0 leaves it as it is, and who asks for an older one is refused. Replies the shard's record as it was.
local function fence(keys, args)
  call, encode, decode = redis.call, cmsgpack.pack, cmsgpack.unpack
  local asked_epoch, clock_ms, asked_shards = unpack(decode(args[1]))
  local shard = shard_at(keys[1])
  if asked_epoch > 0 and asked_epoch < shard[1] then return redis.error_reply(OLDER) end
  local raised = asked_epoch > shard[1]
  call('SET', keys[1], encode({raised and asked_epoch or shard[1], raised and 0 or shard[2], math.max(clock_ms, shard[3]),
    asked_shards}))
  return encode(shard)
end

redis.register_function{function_name = 'fence_VERSION', callback = fence}

-- Removes all keys but the first, the shard's own, for who fills it anew under this epoch: who began before another did,
-- and goes on after that, removes nothing.
local function clear(keys, args)
  call, decode = redis.call, cmsgpack.unpack
  local shard = shard_at(keys[1])
  if shard[1] ~= tonumber(args[1]) or shard[4] ~= 0 then return redis.error_reply(OLDER) end
  for i = 2, #keys do call('UNLINK', keys[i]) end
  return #keys - 1
end

redis.register_function{function_name = 'clear_VERSION', callback = clear}
