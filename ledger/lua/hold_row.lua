-- Holds of one line each that are alike in all but who asks: in a sale most of a batch is one row of them, as the caller
-- packs it (ledger/packing.py). What they share is looked up once, and each does only what it cannot do without.

-- Fields of the row, and from FIRST_HOLD on of each hold in portions of A_HOLD: id, opening of its record, references.
local CLIENT, TTL_MS, THE_SKU, THE_LOCATION, THE_QUANTITY, RECORD, MOVED = 2, 3, 4, 5, 6, 7, 8

local told_befores = {}   -- by the length of the id

-- The refusal of one that wants more than is left: many are the same.
local function refusal_of(position, quantity, left, is_held)
  local refusals, status = position.refusals, stock_status(left, is_held and 1 or 0)
  if not refusals or refusals.left ~= left or refusals.status ~= status then
    refusals = {left = left, status = status}
    position.refusals = refusals
  end
  local refusal = refusals[quantity]
  if not refusal then
    refusal = insufficient({{1, position.sku.name, position.location, quantity, left, status}})
    refusals[quantity] = refusal
  end
  return refusal
end

-- The position that the row is about, or nil when each of its holds has to be looked at by itself.
local function position_of(row)
  local place = location_of(row[THE_LOCATION])
  local position = place and place[PLACE_ENABLED] and position_at(row[THE_SKU], row[THE_LOCATION])
  if not position or not position.exists or is_backlog_full() then return nil end
  settle(position)
  return not position.more_due and position or nil
end

-- The entry says {verb, subject, client, operation_id, fingerprint, record, movements}: this is the part before the subject.
local function told_before(id_length)
  local before = told_befores[id_length]
  if not before then
    before = '\151' .. encode('hold') .. encode(('x'):rep(id_length)):sub(1, -1 - id_length)
    told_befores[id_length] = before
  end
  return before
end

-- Decides the holds from the one at `first` on, up to one that is not like the others: the place of that.
local function decide_alike(row, first, outcomes)
  local position, quantity = position_of(row), whole(row[THE_QUANTITY], 1, 1000000)
  if not position then return first end
  local client, lifetime = client_of(row[CLIENT]), lifetime_of(row[TTL_MS])
  local left, count, id_length = available(position), 0, #row[first]
  local open_left, held_left = client_open_reservations_max - client.open, client_held_units_max - client.held
  local key_head, times, tail = prefix .. 'op:', lifetime.times, lifetime.receipt .. row[RECORD] .. lifetime.ending
  local before, between = told_before(id_length), client.told
  local ids, keys, entry, decided = {}, #granted, #journal, #outcomes
  local known, changed, set, told, moved = packed_records, records, granted, journal, row[MOVED]
  local i, last = first, #row
  while i <= last do
    local id = row[i]
    if known[id] or changed[id] or #id ~= id_length then break end
    if left < quantity then
      outcomes[decided + 1] = refusal_of(position, quantity, max(0, left), position.held + count > 0)
    elseif count < open_left and (count + 1) * quantity <= held_left then
      left, count = left - quantity, count + 1
      local packed = row[i + 1] .. times .. row[i + 2] .. tail
      known[id], ids[count] = packed, id
      set[keys + 1], set[keys + 2] = key_head .. id, packed
      keys = keys + 2
      told[entry + count] = before .. id .. between .. packed .. moved
      outcomes[decided + 1] = GRANTED
    else
      break
    end
    i, decided = i + A_HOLD, decided + 1
  end
  if count > 0 then
    local taken = count * quantity
    position.held, position.dirty = position.held + taken, true
    client.open, client.held, client.dirty = client.open + count, client.held + taken, true
    list_deadlines_of(position, ids, lifetime.expires_at_ms)
  end
  return i
end

-- Appends an outcome for each hold of the row.
function hold_row(row, outcomes)
  local i = FIRST_HOLD
  while i <= #row do
    i = decide_alike(row, i, outcomes)
    if i <= #row then
      outcomes[#outcomes + 1] = verbs.hold({
        'hold', row[i], row[CLIENT], row[TTL_MS], row[i + 1], row[i + 2], row[MOVED], false,
        row[THE_SKU], row[THE_LOCATION], row[THE_QUANTITY], row[RECORD],
      })
      i = i + A_HOLD
    end
  end
end
