-- What attempts at one change over several shards leave each other: a lock keeps two attempts at one operation apart, a
-- pin two attempts at one reservation, and a mark brings the keeper.

local LOCK_MS = 5000           -- longer than an attempt lives
local PIN_MS = 6000            -- held units of a part do not expire meanwhile ...
local LOOK_AGAIN_MS = 3000     -- ... so the keeper can finish what its coordinator left behind

local function lock(id, token)
  local holder = locks[id]
  if holder == nil then holder = call('GET', prefix .. 'lock:' .. id) end
  if holder and holder ~= token then return false end
  locks[id] = token
  return true
end

local function unlock(id, token)
  local holder = locks[id]
  if holder == nil then holder = call('GET', prefix .. 'lock:' .. id) end
  if holder == token then locks[id] = false end
end

local function rewrite(reservation)
  set_deadlines(reservation)
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
