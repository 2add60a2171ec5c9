-- Claim one shard's part of a hold that takes several shards, for seconds: all of its lines or none.

verbs.prepare = function(op)
  local id, fingerprint, client, token, lines, shards = op[2], op[3], op[4], op[5], op[6], op[7]
  if is_backlog_full() then return JOURNAL_FULL end
  if now_ms > whole(op[10], 0, NEVER_MS) then return UNPINNED end
  if record_of(id) then return UNPINNED end
  assert(#lines >= 1 and #lines <= CALL_LINES_MAX, 'too many lines')
  local units_held, taken, short, more_due = 0, {}, {}, false
  for _, line in ipairs(lines) do
    local number, sku, location, quantity = line[1], line[2], line[3], whole(line[4], 0, 1000000)
    if quantity > 0 then
      local position = position_at(sku, location)
      local left = left_at(position, taken)
      if left < quantity then
        more_due = more_due or position.more_due
        short[#short + 1] = {number, sku, location, quantity, left, stock_status(left, position.held)}
      end
      taken[position] = (taken[position] or 0) + quantity
      units_held = units_held + quantity
    end
  end
  if more_due then return BUSY end
  if #short > 0 then return insufficient(short) end
  local refused = over_limit(client, 1, units_held)
  if refused then return refused end

  local granted, numbers, movements = {}, {}, {}
  for i, line in ipairs(lines) do
    local sku, location, quantity = line[2], line[3], line[4]
    granted[i], numbers[i] = line_of(sku, location, quantity, whole(line[5], quantity, 1000000)), line[1]
    if quantity > 0 then
      local position = position_at(sku, location)
      position.held, position.dirty = position.held + quantity, true
      movements[#movements + 1] = {sku, location, 'available', 'held', quantity, 'hold'}
    end
  end
  local reservation = {
    id = id, verb = 'hold', client = client, fingerprint = fingerprint, created_at_ms = now_ms, expires_at_ms = now_ms,
    channel = op[8], customer = op[9], operations = {}, lines = granted,
    open_counted = 0, held_counted = 0,
    span = {shards, numbers, false, token, '', now_ms + PIN_MS},
  }
  records[id], marks[id] = reservation, now_ms + LOOK_AGAIN_MS
  list_deadlines(reservation)
  record_change('prepare', reservation, id, fingerprint, client, movements)
  return done(false, reservation)
end
