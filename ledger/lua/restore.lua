-- Put back what was folded from the journal into an empty ledger under a new epoch, whose entries then tell all of it. The
-- stock comes first, unclaimed; then the reservations claim their units again. Nothing is decided: it was, before.

local function put_back_stock(after)
  local sku, location, numbers, movements = after[1], after[2], after[3], {}
  local position = position_at(sku, location)
  assert(not position.exists, 'the ledger is not empty')
  position.exists, position.sku.known, position.dirty = true, true, true
  position.safety_stock, position.as_of_ms = numbers[5], numbers[9]
  for bucket, quantity in pairs({
    on_hand = numbers[1], damaged = numbers[6], quality_hold = numbers[7], in_transit = numbers[8],
  }) do
    change_bucket(position, bucket, quantity, 'restore', nil, movements)
  end
  journal[#journal + 1] = '\151' .. encode('restore_stock', sku .. '@' .. location, '', '', '')
    .. encode({sku, location}) .. array_header(#movements) .. table.concat(movements)
end

local function put_back_operation(operation, reservation)
  local id, verb, client, fingerprint = operation[1], operation[2], operation[3], operation[4]
  records[id] = {
    id = id, verb = verb, client = client, fingerprint = fingerprint, reservation = reservation.id, dirty = true,
  }
  journal[#journal + 1] = '\151' .. encode('restore_operation', reservation.id, client, id, fingerprint, verb)
    .. encode({})
end

local function put_back_reservation(kept_reservation)
  local id, fields, operations, ended = unpack(kept_reservation, 1, 4)
  assert(record_of(id) == nil, 'the ledger is not empty')
  local reservation, movements = reservation_from(id, unpack(fields, 2, 13)), {}
  reservation.open_counted, reservation.held_counted = 0, 0
  for _, line in ipairs(reservation.lines) do
    local position = position_at(line[SKU], line[LOCATION])
    for state, name in pairs(COUNTED_IN) do
      if line[state] > 0 then
        position[name], position.dirty = position[name] + line[state], true
        movements[#movements + 1] = {line[SKU], line[LOCATION], 'available', name, line[state], 'restore'}
      end
    end
  end
  records[id] = reservation
  list_deadlines(reservation)
  -- What has ended is readable for another day; of a part, only when the whole has ended.
  if reservation.span and not is_live(reservation) then
    if ended then reservation.forgotten = true else marks[id] = now_ms + READABLE_MS end
  end
  record_change('restore', reservation, id, reservation.fingerprint, reservation.client, movements)
  for _, operation in ipairs(operations) do put_back_operation(operation, reservation) end
end

local function put_back_key(after)
  local key, set = prefix .. after[1], {}
  if after[1]:match('^count:') then
    counts[key] = after[2]['']
  else
    for name, value in pairs(after[2]) do set[#set + 1], set[#set + 2] = name, encode(value) end
    kept[#kept + 1] = {key = key, set = set, gone = {}}
  end
end

verbs.restore = function(op)
  restoring = true   -- what is overcommitted is put back, too, with its time
  for _, location in ipairs(op[2]) do
    location.dirty = true
    places[location[1]] = location
    journal[#journal + 1] = '\151' .. encode('restore_location', location[1], '', '', '')
      .. encode_location(location) .. encode({})
  end
  for _, after in ipairs(op[3]) do put_back_stock(after) end
  for _, reservation in ipairs(op[4]) do put_back_reservation(reservation) end
  for _, after in ipairs(op[5]) do put_back_key(after) end
  if #op[5] > 0 then journal[#journal + 1] = '\151' .. encode('restore_keys', '', '', '', '', {}, {}) end
  return '\145' .. encode('restored')
end
