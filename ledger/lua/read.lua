-- The positions of some SKUs as they are now, with what is overdue ended first. Where nothing may be written, what is too
-- much for one call stays as it was: to ask again would find the same.

-- The positions of an item as they are kept, {location, packed} by turns: those that it names, or all of the SKU.
local function kept_positions(item)
  local key, named = prefix .. 'sku:' .. escaped(item[1]), item[2]
  if not named then return call('HGETALL', key) end
  local found, flat = call('HMGET', key, unpack(named)), {}
  for i = 1, #named do
    if found[i] then flat[#flat + 1], flat[#flat + 2] = named[i], found[i] end
  end
  return flat
end

-- Most items are answered with their positions as they are kept: nothing is overdue there, something can be promised,
-- and this call has not touched the SKU. Nil for any other.
local function read_kept(item)
  if skus[item[1]] or (item[2] and #item[2] == 0) then return nil end
  local flat, promisable, parts, locations = kept_positions(item), 0, {}, {}
  for i = 1, #flat, 2 do
    local location, packed = flat[i], flat[i + 1]
    local place = location_of(location)
    if place and (item[2] or place[PLACE_ENABLED]) then
      local left, soonest_ms = left_in(packed)
      if soonest_ms > 0 and soonest_ms <= now_ms then return nil end
      local enabled = place[PLACE_ENABLED]
      if enabled then promisable = promisable + max(0, left) end
      locations[#locations + 1] = location
      parts[location] = '\147' .. encode(location) .. packed .. (enabled and '\195' or '\194')
    end
  end
  if promisable == 0 then return nil end
  if not item[2] and locations[2] then table.sort(locations) end
  for i = 1, #locations do locations[i] = parts[locations[i]] end
  return '\147\195\192' .. array_header(#locations) .. table.concat(locations)
end

local function read_item(item)
  local chosen = {}
  if item[2] then
    for _, location in ipairs(item[2]) do
      local position, place = position_at(item[1], location), location_of(location)
      if position.exists and place then chosen[#chosen + 1] = position end
    end
  else
    for location, position in pairs(positions_of(item[1])) do
      local place = location_of(location)
      if position.exists and place and place[PLACE_ENABLED] then chosen[#chosen + 1] = position end
    end
    table.sort(chosen, function(a, b) return a.location < b.location end)
  end
  local promisable, soonest, parts = 0, nil, {}
  for i, position in ipairs(chosen) do
    settle(position)
    if position.more_due and not look_only then return nil end
    promisable = promisable + left_at(position, {})
    local enabled = location_of(position.location)[PLACE_ENABLED]
    parts[i] = '\147' .. encode(position.location) .. encode_position(position) .. encode(enabled)
  end
  if promisable == 0 then
    for _, position in ipairs(chosen) do
      local expiry, more = nil, false
      if position.held > 0 then expiry, more = next_expiry(position) end
      if more and not look_only then return nil end
      if expiry and (not soonest or expiry < soonest) then soonest = expiry end
    end
  end
  return '\147' .. encode(is_known(item[1]), soonest) .. array_header(#parts) .. table.concat(parts)
end

verbs.read = function(op)
  local items = {}
  for i, item in ipairs(op[2]) do
    local packed = read_kept(item) or read_item(item)
    if not packed then return BUSY end
    items[i] = packed
  end
  return '\147' .. encode('positions', now_ms) .. array_header(#items) .. table.concat(items)
end
