-- Create or replace a location; the next decision knows it.

verbs.put_location = function(op)
  if is_backlog_full() then return JOURNAL_FULL end
  local client, location = op[2], op[3]
  places[location[1]] = location
  location.dirty = true
  local packed = encode_location(location)
  journal[#journal + 1] = '\151' .. encode('put_location', location[1], client, '', '') .. packed .. encode({})
  return '\146' .. encode('location-stored') .. packed
end
