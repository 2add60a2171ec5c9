-- Answers (the outcomes of messages.py), and why something is refused.

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

-- The refusal that names every short line: {line, SKU, location, requested, left, status} each; a location may be nil.
local function insufficient(short)
  local packed = {}
  for i = 1, #short do packed[i] = '\150' .. encode(unpack(short[i], 1, 6)) end
  return '\146' .. encode('insufficient') .. array_header(#short) .. table.concat(packed)
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
