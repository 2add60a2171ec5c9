-- How a verb is run on a reservation, whichever it is.

-- Runs one verb on a reservation: replay, ownership, the verb's own rule, then the record of the operation.
-- `apply(reservation, movements)` makes the change and returns nil, or changes nothing and returns a refusal.
-- `stamp(reservation)` sets what every part of a reservation over several shards has of it.
local function operate(verb, op, apply, stamp)
  local id, fingerprint, client, target = op[2], op[3], op[4], op[5]
  local before = answered_before(id, fingerprint)
  if before then return before end
  local reservation = reservation_of(target, client)
  if not reservation then return NOT_FOUND end
  -- At the limit only what takes all that it can goes on, so that every unit can still come to its end.
  local takes_all = verb ~= 'extend' and verb ~= 'move' and op[verb == 'commit' and 8 or 6] == nil
  if #reservation.operations >= OPERATIONS_MAX and not takes_all and not reservation.span then
    return '\146' .. encode('operations-limit', OPERATIONS_MAX)
  end
  local span, movements = reservation.span, {}
  if span and (span[TOKEN] == '' or not part or part.token ~= span[TOKEN]) then return UNPINNED end
  local refusal
  if not span or part.takes then refusal = apply(reservation, movements) end
  if refusal then return refusal end
  if stamp then stamp(reservation) end
  if span then span[TOKEN], span[INTENT], span[PINNED_UNTIL] = '', '', 0 end
  reservation.operations[#reservation.operations + 1] = id
  list_deadlines(reservation)
  record_change(verb, reservation, id, fingerprint, client, movements)
  records[id] = {
    id = id, verb = verb, client = client, fingerprint = fingerprint, reservation = target, dirty = true,
  }
  return done(false, reservation)
end

-- The units that `wanted` (or, without it, everything) takes from a reservation in these states, each line's first
-- state first, as {line, state, quantity, number of the line}; nil when a line has fewer, an empty list when there is
-- nothing at all.
local function units_to_take(reservation, wanted, states)
  local taken, left = {}, {}
  local function take(number, line, quantity)
    for _, state in ipairs(states) do
      left[line] = left[line] or {}
      local has = left[line][state] or line[state]
      local part = min(has, quantity)
      if part > 0 then
        taken[#taken + 1] = {line, state, part, number}
        left[line][state], quantity = has - part, quantity - part
      end
    end
    return quantity
  end
  if not wanted then
    for number, line in ipairs(reservation.lines) do take(number, line, line[QUANTITY]) end
    return taken
  end
  for _, want in ipairs(wanted) do
    local line = reservation.lines[want[1]]
    if not line or take(want[1], line, whole(want[2], 1, 1000000)) > 0 then return nil end
  end
  return taken
end
