-- Positions and locations as the call has them so far: each is read once.

local function sku_of(name)
  local sku = skus[name]
  if not sku then
    local tag = escaped(name)
    sku = {name = name, tag = tag, key = prefix .. 'sku:' .. tag, positions = {}}
    skus[name] = sku
  end
  return sku
end

-- `soonest_ms` is a time not later than the first deadline at the position, 0 when there is none: what is not overdue
-- need not be looked for. It is the only field that Python does not read.
local function cache_position(sku, location, packed)
  local place, waiting = sku.tag .. ':' .. escaped(location), 0
  -- Safety stock that was put before the first count waits for it under a key of its own.
  if not packed then
    local packed_waiting = call('HGET', prefix .. 'safety_stock', place)
    waiting = packed_waiting and decode(packed_waiting) or 0
  end
  local _, on_hand, held, committed, picked, safety_stock, damaged, quality_hold, in_transit, as_of_ms, soonest_ms =
    nil, 0, 0, 0, 0, waiting, 0, 0, 0, 0, 0
  if packed then
    _, on_hand, held, committed, picked, safety_stock, damaged, quality_hold, in_transit, as_of_ms, soonest_ms =
      decode_some(packed, 10, 1)
  end
  local position = {
    sku = sku, location = location, exists = packed ~= nil, place = place, waiting_written = waiting,
    on_hand_before = on_hand, claims_before = held + committed + picked,
    on_hand = on_hand, held = held, committed = committed, picked = picked, safety_stock = safety_stock,
    damaged = damaged, quality_hold = quality_hold, in_transit = in_transit, as_of_ms = as_of_ms,
    soonest_ms = soonest_ms, soonest_written_ms = soonest_ms,
  }
  sku.positions[location], positions[#positions + 1] = position, position
  if packed then sku.known = true end
  return position
end

-- The position as the call has left it so far; `exists` is false where the SKU was never counted.
local function position_at(sku_name, location)
  local sku = sku_of(sku_name)
  return sku.positions[location] or cache_position(sku, location, call('HGET', sku.key, location) or nil)
end

-- Every position of a SKU, by location.
local function positions_of(sku_name)
  local sku = sku_of(sku_name)
  if not sku.complete then
    local flat = call('HGETALL', sku.key)
    for i = 1, #flat, 2 do
      if not sku.positions[flat[i]] then cache_position(sku, flat[i], flat[i + 1]) end
    end
    sku.complete, sku.known = true, sku.known or #flat > 0
  end
  return sku.positions
end

local function is_known(sku_name)
  local sku = sku_of(sku_name)
  if sku.known == nil then sku.known = call('EXISTS', sku.key) == 1 end
  return sku.known
end

local function available(position)
  return position.on_hand - position.held - position.committed - position.picked - position.safety_stock
end

-- The same of a position as it is kept, and its `soonest_ms`.
local function left_in(packed)
  local _, on_hand, held, committed, picked, safety_stock, _, _, _, _, soonest_ms = decode_some(packed, 10, 1)
  return on_hand - held - committed - picked - safety_stock, soonest_ms
end

local function encode_position(p)
  return '\154' .. encode(p.on_hand, p.held, p.committed, p.picked, p.safety_stock, p.damaged, p.quality_hold,
    p.in_transit, p.as_of_ms, p.soonest_ms)
end

local function location_of(id)
  local place = places[id]
  if place == nil then
    local packed = call('HGET', prefix .. 'locations', id)
    place = packed and decode(packed) or false
    places[id] = place
  end
  return place
end
