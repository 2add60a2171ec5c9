-- What ends by its deadline: in the very next decision that needs the units, wherever that is.

-- Ends what is held of a reservation, as released or expired. Of a claim that was never sealed nothing stays.
local function end_held(reservation, ending, verb)
  local movements, span = {}, reservation.span
  local reason = span and span[RECLAIMED] and 'reacquire' or verb
  for _, line in ipairs(reservation.lines) do
    if line[HELD] > 0 then move_units(line, HELD, ending, line[HELD], reason, movements) end
  end
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

local next_expiry, settle
do
  local LISTS_AT_ONCE = 32   -- of holds with one deadline

  -- The holds that are listed at a position between two scores, but for the first `passed_over` lists: up to `count` lists
  -- of ids, each before its deadline.
  local function listed_at(position, low, high, passed_over, count)
    return call('ZRANGEBYSCORE', prefix .. 'held:' .. position.place, low, high, 'WITHSCORES', 'LIMIT', passed_over,
      count)
  end

  local function ids_in(list)
    local ids, unread = {}, {}
    for id in list:gmatch('%S+') do
      ids[#ids + 1] = id
      if packed_records[id] == nil and records[id] == nil then unread[#unread + 1] = id end
    end
    read_records(unread)
    return ids
  end

  local function is_held_until(id, position, deadline_ms)
    local reservation = record_of(id)
    if not reservation or deadline_of(reservation) ~= deadline_ms then return false end
    for _, line in ipairs(reservation.lines) do
      if line[HELD] > 0 and line[SKU] == position.sku.name and line[LOCATION] == position.location then return true end
    end
    return false
  end

  -- The first of these that is still held, by its number, or nil.
  local function first_held(ids, position, deadline_ms)
    for number, id in ipairs(ids) do
      if is_held_until(id, position, deadline_ms) then return number end
      due_left = due_left - 1
    end
  end

  -- The earliest deadline among the holds at a position that outlive this call, or nil; and whether it must be asked for
  -- again, because too many that have ended otherwise are listed before it. Those are taken off the list.
  function next_expiry(position)
    local first, passed_over = nil, 0
    for deadline_ms, list in pairs(position.listed or {}) do
      local is_sooner = deadline_ms > now_ms and (not first or deadline_ms < first)
      if is_sooner and first_held(ids_in(list), position, deadline_ms) then first = deadline_ms end
    end
    position.unlisted = position.unlisted or {}
    while due_left > 0 do
      local list, score = unpack(listed_at(position, '(' .. ('%.0f'):format(now_ms), '+inf', passed_over, 1))
      local deadline_ms = tonumber(score)
      if not list or (first and deadline_ms >= first) then return first, false end
      if not position.unlisted[list] then
        local ids = ids_in(list)
        local held = first_held(ids, position, deadline_ms)
        if held == 1 then return deadline_ms, false end
        position.unlisted[list] = true
        if held then
          list_deadlines_of(position, {unpack(ids, held)}, deadline_ms)
          return deadline_ms, false
        end
      end
      passed_over = passed_over + 1
    end
    return nil, true
  end

  -- The first deadline that is listed after this call, whatever has become of its holds; 0 = none.
  local function first_listed(position)
    local first = tonumber(listed_at(position, '(' .. ('%.0f'):format(now_ms), '+inf', 0, 1)[2]) or 0
    for deadline_ms in pairs(position.listed or {}) do
      if first == 0 or deadline_ms < first then first = deadline_ms end
    end
    return first
  end

  -- Ends what is overdue at a position, so that the next decision has its units. Once per position and call.
  function settle(position)
    if position.settled then return end
    position.settled = true
    if position.held == 0 then
      -- What was held is no more: the next deadline here is the first, and `deadlines` must hear of it.
      position.forgets_listed = position.soonest_ms > 0
      position.soonest_ms, position.soonest_written_ms = 0, 0
      return
    end
    if position.soonest_ms > now_ms then return end
    local lists, passed_over = nil, 0
    position.unlisted = position.unlisted or {}
    repeat
      lists = listed_at(position, '-inf', ('%.0f'):format(now_ms), passed_over, LISTS_AT_ONCE)
      for i = 1, #lists, 2 do
        position.more_due = due_left <= 0
        if position.more_due then return end
        local ids = ids_in(lists[i])
        for _, id in ipairs(ids) do
          local reservation = record_of(id)
          if reservation and is_overdue(reservation) then expire_reservation(reservation) end
        end
        due_left = due_left - #ids
        position.unlisted[lists[i]] = true
      end
      passed_over = passed_over + LISTS_AT_ONCE
    until #lists < 2 * LISTS_AT_ONCE
    position.soonest_ms, position.dirty = first_listed(position), true
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
