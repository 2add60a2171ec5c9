-- Every location, by id.

local function encode_location(l)
  return '\152' .. encode(l[1], l[2], l[3], l[4], l[5], l[6], l[7], l[8])
end

verbs.locations = function()
  local flat = call('HGETALL', prefix .. 'locations')
  local ids, packed = {}, {}
  for i = 1, #flat, 2 do
    if places[flat[i]] == nil then places[flat[i]] = decode(flat[i + 1]) end
  end
  for id, place in pairs(places) do
    if place then ids[#ids + 1] = id end
  end
  table.sort(ids)
  for i, id in ipairs(ids) do packed[i] = encode_location(places[id]) end
  return '\146' .. encode('location-list') .. array_header(#packed) .. table.concat(packed)
end
