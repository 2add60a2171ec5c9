-- A shipment that we know and that its WMS reports too is one fact. A report always counts; of our own units of that line
-- as many as were reported do not, the earliest first: so it does not matter which of the two comes first. What was
-- reported of a line is in the window as {units reported, less those folded, {key of each of our own shipments, ...}}.

local NO_REFERENCE = ''

local function line_reference(reservation, line) return reservation .. ':' .. ('%d'):format(line) end

-- Whose shipment it is, if it is one that could be ours too.
local function reference_of(event, reservation, line, reverses)
  if reverses or not (reservation and line) or event[KIND] ~= 'delta' or event[BUCKET] ~= 'on_hand' or event[AMOUNT] >= 0 then
    return NO_REFERENCE
  end
  return line_reference(reservation, line)
end

-- Lets count of our own shipments what was not reported; the units on hand that this gives back.
local function match_reports(window, reference, record)
  table.sort(record[2], function(a, b)
    local first_ms, second_ms = event_in(window, a)[OCCURRED], event_in(window, b)[OCCURRED]
    if first_ms ~= second_ms then return first_ms < second_ms end
    return a < b
  end)
  local unmatched, back, as_of_ms = record[1], 0, base_of(window, 'on_hand')[2]
  for _, key in ipairs(record[2]) do
    local event = event_in(window, key)
    local amount = min(0, unmatched - event[SHIPPED_UNITS])
    unmatched = max(0, unmatched - event[SHIPPED_UNITS])
    if event[OCCURRED] > as_of_ms then back = back + amount - event[AMOUNT] end
    if amount ~= event[AMOUNT] then event[AMOUNT], window.changed[key] = amount, true end
  end
  window.changed[REPORTED .. reference] = true
  return back
end

-- The key of our own shipment of a line, of which so many units had left before: so one leads to the next.
local function shipment_key(reference, units_before) return reference .. ':' .. ('%d'):format(units_before) end

-- What was reported of a line. Until something is, no record is needed: our own shipments lead from the first to the
-- last. Where one of them was folded, `compact` and the next shipment make a record of those that are left.
local function report_record(window, reference)
  local record = event_in(window, REPORTED .. reference)
  if record then return record end
  local keys, units_before = {}, 0
  while event_in(window, shipment_key(reference, units_before)) do
    keys[#keys + 1] = shipment_key(reference, units_before)
    units_before = units_before + window.events[keys[#keys]][SHIPPED_UNITS]
  end
  record = {0, keys}
  window.events[REPORTED .. reference], window.has_reports = record, true
  return record
end

-- The record that our own next shipment of a line belongs in, or nil where none is needed.
local function record_of_shipment(window, reference, units_before)
  if units_before > 0 and window.horizon_ms >= 0 then return report_record(window, reference) end
  return window.has_reports and event_in(window, REPORTED .. reference) or nil
end

-- So many more units of a line are reported (or, below 0, fewer): the units on hand that this gives back, and whether
-- they are ours.
local function report(window, reference, quantity)
  local record, own = report_record(window, reference), 0
  for _, key in ipairs(record[2]) do own = own + event_in(window, key)[SHIPPED_UNITS] end
  local before = record[1]
  record[1] = max(0, before + quantity)
  return match_reports(window, reference, record), min(own, record[1]) > min(own, before)
end

-- Our own shipment, now in the window, or before the horizon and to be folded by the caller: the units on hand that
-- reports of it give back.
local function match_shipment(window, record, event, key)
  if event[OCCURRED] > window.horizon_ms then
    record[2][#record[2] + 1] = key
  else
    event[AMOUNT] = min(0, record[1] - event[SHIPPED_UNITS])
    record[1] = max(0, record[1] - event[SHIPPED_UNITS])
  end
  return match_reports(window, event[REFERENCE], record)
end
