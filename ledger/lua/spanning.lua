-- What attempts at one change over several shards leave each other: a lock keeps two attempts at one operation apart, a
-- pin two attempts at one reservation, and a mark brings the keeper.

local LOCK_MS = 5000           -- an attempt begins nothing that would be done later than that
local PIN_MS = 6000            -- a claim that is not sealed by then ends
local LOOK_AGAIN_MS = 3000     -- before that, the keeper finishes what its coordinator left behind

-- Whether an attempt may still be at work: what is older was left behind.
local function is_young(span) return span[TOKEN] ~= '' and span[PINNED_UNTIL] - now_ms > PIN_MS - LOOK_AGAIN_MS end

-- The operation that a part is pinned for: the hold itself while it is not sealed, else the intent's (JSON of the message).
local function pinned_for(reservation)
  return reservation.span[SEALED] and reservation.span[INTENT]:match('^%["[^"]*","([^"]*)"') or reservation.id
end

-- The lock in force on an operation, {token, until_ms}, or false.
local function lock_of(id)
  local lock = locks[id]
  if lock == nil then
    local packed = call('GET', prefix .. 'lock:' .. id)
    lock = packed and decode(packed) or false
  end
  return lock and lock[2] > now_ms and lock
end

local function take_lock(id, token)
  local lock = lock_of(id)
  if lock and lock[1] ~= token then return false end
  locks[id] = {token, now_ms + LOCK_MS}
  return true
end

local function let_go_of_lock(id, token)
  local lock = lock_of(id)
  if lock and lock[1] == token then locks[id] = false end
end

local function rewrite(reservation)
  list_deadlines(reservation)
  reservation.dirty, reservation.packed = true, encode_reservation(reservation)
end

local function pin(reservation, token, intent)
  local span = reservation.span
  span[TOKEN], span[INTENT], span[PINNED_UNTIL] = token, intent, now_ms + PIN_MS
  marks[reservation.id] = now_ms + LOOK_AGAIN_MS
  rewrite(reservation)
end

-- A part that is not pinned any more: what the pin alone kept held has expired. The keeper comes back for what has
-- ended here, because only all parts of a reservation are forgotten.
local function unpin(reservation)
  local span = reservation.span
  span[TOKEN], span[INTENT], span[PINNED_UNTIL] = '', '', 0
  if is_overdue(reservation) then expire_reservation(reservation) end
  marks[reservation.id] = not is_live(reservation) and now_ms + READABLE_MS
  rewrite(reservation)
end
