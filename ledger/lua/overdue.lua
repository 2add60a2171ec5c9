-- What ends by its deadline: in the very next decision that needs the units, wherever that is.

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
