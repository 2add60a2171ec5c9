-- How many requests of a client are let through: GCRA, as rates.py has it. No promise hangs on it, so no entry tells of it.

verbs.admit = function(op)
  local name, count = op[2], whole(op[3], 1, 1000000)
  local per_second, burst = whole(op[4], 1, 1000000), whole(op[5], 1, 1000000)
  local meter = meters[name]
  if not meter then
    local key = prefix .. 'rate:' .. escaped(name)
    local packed = call('GET', key)
    local fields = packed and decode(packed) or {0, 0}
    meter = {key = key, filled = fields[1], at_ms = fields[2]}
    meters[name] = meter
  end
  local filled, full = max(0, meter.filled - per_second * max(0, now_ms - meter.at_ms)), burst * 1000
  local granted = max(0, min(count, floor((full - filled) / 1000)))
  filled = filled + granted * 1000
  meter.filled, meter.at_ms, meter.empty_after_ms = filled, now_ms, math.ceil(filled / per_second)
  return '\149' .. encode('admitted', granted, max(0, floor((full - filled) / 1000)),
    max(0, math.ceil((filled + 1000 - full) / per_second)), meter.empty_after_ms)
end
