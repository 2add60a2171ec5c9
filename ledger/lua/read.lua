-- The positions of some SKUs as they are now, with what is overdue ended first.

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
    if position.more_due then return nil end
    promisable = promisable + left_at(position, {})
    local enabled = location_of(position.location)[PLACE_ENABLED]
    parts[i] = '\147' .. encode(position.location) .. encode_position(position) .. encode(enabled)
  end
  if promisable == 0 then
    for _, position in ipairs(chosen) do
      local expiry, more = nil, false
      if position.held > 0 then expiry, more = next_expiry(position) end
      if more then return nil end
      if expiry and (not soonest or expiry < soonest) then soonest = expiry end
    end
  end
  return '\147' .. encode(is_known(item[1]), soonest) .. array_header(#parts) .. table.concat(parts)
end

verbs.read = function(op)
  local items = {}
  for i, item in ipairs(op[2]) do
    local packed = read_item(item)
    if not packed then return BUSY end
    items[i] = packed
  end
  return '\147' .. encode('positions', now_ms) .. array_header(#items) .. table.concat(items)
end
