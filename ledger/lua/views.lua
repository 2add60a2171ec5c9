-- What is told of a SKU by sources that are not believed, at one location or at all of them.

local function add_views(found, position)
  local place = location_of(position.location)
  table.sort(position.views, function(a, b) return a[VIEW_SOURCE] < b[VIEW_SOURCE] end)
  for _, view in ipairs(position.views) do
    -- What an authority said before it became one is no view any more.
    if place and not is_authority(place[PLACE_AUTHORITY], view[VIEW_SOURCE]) then
      found[#found + 1] = '\151' .. encode(position.location, view[VIEW_SOURCE], view[1], view[2],
        view[3] >= 0 and view[3] or nil, view[4], position.exists and position.on_hand or nil)
    end
  end
end

verbs.views = function(op)
  local found = {}
  if op[3] then
    local position = position_at(op[2], op[3])
    views_at(position)
    add_views(found, position)
  else
    local sku, at = sku_of(op[2]), {}
    positions_of(op[2])
    local flat = call('HGETALL', view_key(op[2]))
    for i = 1, #flat, 2 do
      local position = position_at(op[2], flat[i])
      position.views = position.views or decode(flat[i + 1])
    end
    for _, position in pairs(sku.positions) do
      if position.views then at[#at + 1] = position end
    end
    table.sort(at, function(a, b) return a.location < b.location end)
    for _, position in ipairs(at) do add_views(found, position) end
  end
  return '\146' .. encode('view-list') .. array_header(#found) .. table.concat(found)
end
