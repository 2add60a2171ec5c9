-- The library's two functions: a batch of operations, decided in order, written at once.
--
-- KEYS: the shard's key, which carries its hash tag; one that never exists, see keys.py.  ARGV: one msgpack array
--   {now_ms or 0, expected_ms or 0, epoch or 0, backlog_entries_max, low_stock, {operation, ...}, look_only,
--    client_open_reservations_max, client_held_units_max}
-- With look_only what is overdue counts as ended in the answers, and nothing is written.
-- Replies one msgpack array {epoch, now_ms, clock_jumped, {outcome, ...}}, or an error whose first word is
--   EPOCH     the caller belongs to another generation of the ledger; nothing was done
--   DECISION  an operation broke a rule that the edges guarantee (a bug); nothing was done

-- The outcomes, or nil when another generation of the ledger is in force.
local function decide(shard_key, argument)
  local operations = begin(shard_key, argument)
  if not operations then return nil end
  local outcomes = {}
  for i, op in ipairs(operations) do outcomes[i] = verbs[op[1]](op) end
  if not look_only then journal_shortages() end
  return outcomes
end

local function batch(keys, args)
  local decided, outcomes = pcall(decide, keys[1], args[1])
  if not decided then return redis.error_reply('DECISION an operation could not be decided') end
  if not outcomes then return redis.error_reply('EPOCH another generation of the ledger is in force') end
  if not look_only then flush() end
  return '\148' .. encode(epoch, now_ms, clock_jumped) .. array_header(#outcomes) .. table.concat(outcomes)
end

redis.register_function{function_name = 'batch_VERSION', callback = batch}
-- The same for what gives memory back: a full server must still be able to free itself.
redis.register_function{function_name = 'batch_allow_oom_VERSION', callback = batch, flags = {'allow-oom'}}
