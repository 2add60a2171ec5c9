-- Claim a line's held and committed units at another location instead, if they are there.

verbs.move = function(op)
  return operate('move', op, function(reservation, movements)
    local line, location = reservation.lines[op[6]], op[7]
    if not location_of(location) then return '\147' .. encode('unknown-location', op[6], location) end
    if not line or not allows(line, MOVE) then return wrong_state(reservation) end
    if line[LOCATION] == location then return nil end
    local target, wanted = position_at(line[SKU], location), line[HELD] + line[COMMITTED]
    local left = left_at(target, {})
    if left < wanted then
      if target.more_due then return BUSY end
      local short = {op[6], line[SKU], location, wanted, left, stock_status(left, target.held)}
      return insufficient({short})
    end
    local source = position_at(line[SKU], line[LOCATION])
    for _, state in ipairs({HELD, COMMITTED}) do
      local quantity, name = line[state], STATES[state]
      if quantity > 0 then
        source[name], target[name] = source[name] - quantity, target[name] + quantity
        movements[#movements + 1] = {line[SKU], line[LOCATION], name, 'available', quantity, 'move'}
        movements[#movements + 1] = {line[SKU], location, 'available', name, quantity, 'move'}
      end
    end
    source.dirty, target.dirty = true, true
    line[LOCATION] = location
    reservation.listed_ms = nil   -- not yet at the new position
  end)
end
