-- Hold units for a buyer, once: every line is granted (mode all) or as much as there is (mode available).
--
-- Most holds ask for all of their lines at locations that they name, and are granted or refused as they stand. What can be
-- known of the record beforehand comes packed from the caller (ledger/packing.py); what this call decides goes between.

-- Fields of the operation; a line's own come in portions of A_LINE from FIRST_LINE on: SKU, location or false, quantity,
-- its record up to the day for which it is promised (the first with the header of the list).
local ID, CLIENT, TTL_MS, OPENING, REFERENCES, MOVED, TERMS, FIRST_LINE, A_LINE = 2, 3, 4, 5, 6, 7, 8, 9, 4

-- Makes the record of a hold that was granted, tells it, and counts it at its client; the record. `lines` lack the day of
-- the last one.
local function remember(op, client, lifetime, lines, units_held)
  local id = op[ID]
  local packed = op[OPENING] .. lifetime.times .. op[REFERENCES] .. lifetime.receipt .. lines .. lifetime.ending
  local keys = #granted
  packed_records[id], granted[keys + 1], granted[keys + 2] = packed, prefix .. 'op:' .. id, packed
  journal[#journal + 1] = told_before(#id) .. id .. client.told .. packed .. op[MOVED]
  client.open, client.held, client.dirty = client.open + 1, client.held + units_held, true
  return packed
end

local function give_back(op, before)
  for i = FIRST_LINE, before - 1, A_LINE do
    local position = position_at(op[i], op[i + 1])
    position.held = position.held - op[i + 2]
  end
end

-- Takes every line from where it was asked for, in the cached positions only; how many units, nil when one does not fit.
local function take_as_asked(op)
  local taken = 0
  for i = FIRST_LINE, #op, A_LINE do
    local location, quantity, sku = op[i + 1], op[i + 2], skus[op[i]]
    local place, position = places[location], sku and sku.positions[location]
    if not (place and position) then
      place = location_of(location)
      position = place and position_at(op[i], location)
    end
    if position and not position.settled then settle(position) end
    if not (position and place[PLACE_ENABLED]) or quantity > available(position) then return give_back(op, i) end
    position.held, taken = position.held + quantity, taken + quantity
  end
  return taken
end

-- Grants every line as it was asked for.
local function grant_as_asked(op, client, taken)
  local lifetime, lines = lifetime_of(op[TTL_MS]), op[FIRST_LINE + 3]
  for i = FIRST_LINE, #op, A_LINE do
    local position = skus[op[i]].positions[op[i + 1]]
    position.dirty = true
    list_deadline(position, op[ID], lifetime.expires_at_ms)
    if i > FIRST_LINE then lines = lines .. lifetime.day .. op[i + 3] end
  end
  remember(op, client, lifetime, lines, taken)
  return GRANTED
end

-- The lines as the plan wants them: {SKU, quantity, location or nil}.
local function lines_of(op)
  local lines = {}
  for i = FIRST_LINE, #op, A_LINE do lines[#lines + 1] = {op[i], whole(op[i + 2], 1, 1000000), op[i + 1] or nil} end
  assert(#lines >= 1 and #lines <= CALL_LINES_MAX, 'too many lines')
  return lines
end

-- A line that names something the ledger never heard of, as a refusal, or nil.
local function unknown_in(lines)
  for number, asked in ipairs(lines) do
    if asked[3] and not location_of(asked[3]) then return '\147' .. encode('unknown-location', number, asked[3]) end
    if not (asked[3] and position_at(asked[1], asked[3]).exists) and not is_known(asked[1]) then
      return '\147' .. encode('unknown-sku', number, asked[1])
    end
  end
end

-- Grants the lines as they were planned.
local function grant_planned(op, lines, plan)
  local lifetime, rows, movements = lifetime_of(op[TTL_MS]), {}, {}
  for number, asked in ipairs(lines) do
    local parts = plan.parts[number] or {{location = asked[3] or '', quantity = 0}}
    local missing = asked[2]
    for _, part in ipairs(parts) do missing = missing - part.quantity end
    for i, part in ipairs(parts) do
      -- What was asked for and not granted stays visible, on the last part.
      local requested = part.quantity + (i == #parts and missing or 0)
      rows[#rows + 1] = encode(line_of(asked[1], part.location, part.quantity, requested))
      if part.quantity > 0 then
        part.position.held, part.position.dirty = part.position.held + part.quantity, true
        list_deadline(part.position, op[ID], lifetime.expires_at_ms)
        movements[#movements + 1] = {asked[1], part.location, 'available', 'held', part.quantity, 'hold'}
      end
    end
  end
  op[MOVED] = encode(movements)
  lines = array_header(#rows) .. table.concat(rows)
  return remember(op, client_of(op[CLIENT]), lifetime, lines:sub(1, -1 - #lifetime.day), plan.units)
end

-- What is asked in another way than most, and every refusal.
local function hold_by_plan(op)
  local lines = lines_of(op)
  local unknown = unknown_in(lines)
  if unknown then return unknown end
  local mode, strategy, max_splits, near = 'all', nil, nil, nil
  if op[TERMS] then mode, strategy, max_splits, near = unpack(op[TERMS], 1, 4) end
  local plan = plan_lines(lines, mode, strategy, max_splits, near)
  if #plan.short > 0 and plan.more_due then return BUSY end
  if #plan.short > 0 and (mode == 'all' or next(plan.taken) == nil) then
    return insufficient(plan.short)
  end
  local refused = over_limit(op[CLIENT], 1, plan.units)
  if refused then return refused end
  return '\148' .. encode('done', false, op[ID]) .. grant_planned(op, lines, plan)
end

verbs.hold = function(op)
  if packed_records[op[ID]] or records[op[ID]] then
    local _, _, fingerprint = decode(op[OPENING]:sub(2))
    return answered_before(op[ID], fingerprint)
  end
  if is_backlog_full() then return JOURNAL_FULL end
  local taken = not op[TERMS] and take_as_asked(op)
  if not taken then return hold_by_plan(op) end
  local refused = over_limit(op[CLIENT], 1, taken)
  if refused then
    give_back(op, #op + 1)
    return refused
  end
  return grant_as_asked(op, client_of(op[CLIENT]), taken)
end
