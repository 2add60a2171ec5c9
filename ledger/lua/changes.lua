-- Changes of reservations: each verb makes them through these, so that positions, lines and journal cannot disagree.

local COUNTED_IN = {[HELD] = 'held', [COMMITTED] = 'committed', [PICKED] = 'picked'}

-- Moves `quantity` units of a line from one state to another, in the line and in its position.
local function move_units(line, from, to, quantity, reason, movements)
  local position = position_at(line[SKU], line[LOCATION])
  line[from], line[to] = line[from] - quantity, line[to] + quantity
  if COUNTED_IN[from] then position[COUNTED_IN[from]] = position[COUNTED_IN[from]] - quantity end
  if COUNTED_IN[to] then position[COUNTED_IN[to]] = position[COUNTED_IN[to]] + quantity end
  position.dirty = true
  movements[#movements + 1] = {line[SKU], line[LOCATION], STATES[from], STATES[to], quantity, reason}
end

-- When a reservation's held units end. A part that a change of the whole is pinned for waits for whoever ends that change,
-- or the change could be done on one shard and too late on another.
local function deadline_of(reservation)
  local span = reservation.span
  if not span then return reservation.expires_at_ms end
  if span[INTENT] ~= '' then return NEVER_MS end
  return max(reservation.expires_at_ms, span[PINNED_UNTIL])
end

local function set_deadline(position, id, deadline_ms)
  position.deadlines = position.deadlines or {}
  position.deadlines[id] = deadline_ms
  if deadline_ms and (position.soonest_ms == 0 or deadline_ms < position.soonest_ms) then
    position.soonest_ms, position.dirty = deadline_ms, true
  end
end

-- Remembers a hold's deadline at each of its positions, or forgets it once no unit is held there.
local function set_deadlines(reservation)
  local held_at = {}
  for _, line in ipairs(reservation.lines) do
    if line[QUANTITY] > 0 then
      local position = position_at(line[SKU], line[LOCATION])
      held_at[position] = (held_at[position] or 0) + line[HELD]
    end
  end
  for position, quantity in pairs(held_at) do
    set_deadline(position, reservation.id, quantity > 0 and deadline_of(reservation) or false)
  end
end

-- Brings the client's counts to what the reservation has now, from what is counted of it so far.
local function count_claims(reservation)
  local open, held = claims_of(reservation)
  local more_open, more_held = open - reservation.open_counted, held - reservation.held_counted
  if more_open == 0 and more_held == 0 then return end
  local client = client_of(reservation.client)
  client.open, client.held, client.dirty = client.open + more_open, client.held + more_held, true
  reservation.open_counted, reservation.held_counted = open, held
end

-- Stamps the reservation with this call's receipt and writes the operation into the journal entry. Every change of a
-- reservation ends here, so its client's counts cannot drift from it.
local function record_change(verb, reservation, operation_id, fingerprint, client, movements)
  count_claims(reservation)
  reservation.epoch, reservation.seq, reservation.dirty = epoch, seq, true
  reservation.packed = encode_reservation(reservation)
  journal[#journal + 1] = '\151' .. encode(verb, reservation.id, client, operation_id, fingerprint)
    .. reservation.packed .. encode(movements)
end
