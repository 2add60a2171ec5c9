-- What is told of a SKU by sources that are not believed, at one location or at all of them.

verbs.views = function(op)
  local found = {}
  if op[3] then
    add_views(found, position_at(op[2], op[3]))
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
