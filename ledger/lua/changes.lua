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

-- Lists holds at a position under their deadline. Nothing takes them off the list before that: what is found there by then
-- and is held no more, or longer, is passed over.
local function list_deadlines_of(position, ids, deadline_ms)
  local listed = position.listed
  if not listed then
    listed = {}
    position.listed = listed
  end
  local list = table.concat(ids, ' ')
  listed[deadline_ms] = listed[deadline_ms] and listed[deadline_ms] .. ' ' .. list or list
  if position.soonest_ms == 0 or deadline_ms < position.soonest_ms then
    position.soonest_ms, position.dirty = deadline_ms, true
  end
end

local function list_deadline(position, id, deadline_ms) list_deadlines_of(position, {id}, deadline_ms) end

-- Lists a reservation wherever it holds units, unless it is listed there under this deadline already. One that waits for
-- whoever ends a change is listed again by him.
local function list_deadlines(reservation)
  local deadline_ms = deadline_of(reservation)
  if deadline_ms == reservation.listed_ms or deadline_ms == NEVER_MS then return end
  reservation.listed_ms = deadline_ms
  local held_at = {}
  for _, line in ipairs(reservation.lines) do
    if line[HELD] > 0 then held_at[position_at(line[SKU], line[LOCATION])] = true end
  end
  for position in pairs(held_at) do list_deadline(position, reservation.id, deadline_ms) end
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
