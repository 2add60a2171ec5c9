-- What this shard knows of an operation and of a reservation, before something is done on several shards.

local function looked(busy, record, reservation)
  local header = '\149' .. encode('looked', now_ms, busy)
  local operation, packed = '\192', '\192'
  if record and not (record.span and not record.span[SEALED]) then
    operation = '\147' .. encode(record.verb, record.fingerprint, record.verb == 'hold' and record.id or record.reservation)
  end
  if reservation then packed = reservation.packed end
  return header .. operation .. packed
end

verbs.look = function(op)
  local id, client, target, token, locks_it, intent, takes_over = op[2], op[3], op[4], op[5], op[6], op[7], op[8]
  local reservation = reservation_of(target, client)
  local span = reservation and reservation.span
  if span and intent ~= '' and span[TOKEN] ~= '' and span[TOKEN] ~= token and span[PINNED_UNTIL] > now_ms then
    return looked(true)
  end
  if locks_it and not take_lock(id, token) then return looked(true) end
  if span then
    if takes_over then pin(reservation, token, span[INTENT])
    elseif intent ~= '' and span[SEALED] and span[TOKEN] == '' then pin(reservation, token, intent) end
  end
  return looked(false, record_of(id), reservation)
end
