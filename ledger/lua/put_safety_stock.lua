-- Set how many units of some positions are never promised: of all of them or, when a location is unknown, of none. A
-- position that was never counted is not made by this; what is put waits for its first count.

verbs.put_safety_stock = function(op)
  local client, items = op[2], op[3]
  if is_backlog_full() then return JOURNAL_FULL end
  for number, item in ipairs(items) do
    whole(item[3], 0, 1000000000)
    if not location_of(item[2]) then return '\147' .. encode('unknown-location', number, item[2]) end
  end
  for _, item in ipairs(items) do
    local position = position_at(item[1], item[2])
    if position.safety_stock ~= item[3] then
      position.safety_stock, position.dirty = item[3], position.dirty or position.exists
      journal[#journal + 1] = '\151' .. encode('put_safety_stock', item[1] .. '@' .. item[2], client, '', '')
        .. encode(item) .. encode({})
    end
  end
  return '\146' .. encode('safety-stock-stored', items)
end
