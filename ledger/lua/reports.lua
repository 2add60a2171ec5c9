-- A shipment that we know and that its WMS reports too is one fact. A report always counts; of our own units of that line
-- as many as were reported do not, the earliest first: so it does not matter which of the two comes first. What was
-- reported of a line is in the window as {units reported, less those folded, {key of each of our own shipments, ...}}.

local NO_REFERENCE = ''

-- Whose shipment it is, if it is one that could be ours too.
local function reference_of(event, reservation, line, reverses)
  if reverses or not (reservation and line) or event[KIND] ~= 'delta' or event[BUCKET] ~= 'on_hand' or event[AMOUNT] >= 0 then
    return NO_REFERENCE
  end
  return reservation .. ':' .. ('%d'):format(line)
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

-- The record of a line; the first report of it has to look for our own shipments of it.
local function report_record(window, reference)
  local record = event_in(window, REPORTED .. reference)
  if record then return record end
  load_all(window)
  record = {0, {}}
  for _, item in ipairs(in_order(window)) do
    if item.event[SHIPPED_UNITS] and item.event[REFERENCE] == reference then record[2][#record[2] + 1] = item.key end
  end
  window.events[REPORTED .. reference], window.meta.reports = record, true
  return record
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
local function reported_of(window, event, key)
  local reference = event[REFERENCE]
  local record = window.meta.reports and reference ~= NO_REFERENCE and event_in(window, REPORTED .. reference)
  if not record then return 0 end
  if event[OCCURRED] > window.meta.horizon_ms then
    record[2][#record[2] + 1] = key
  else
    event[AMOUNT] = min(0, record[1] - event[SHIPPED_UNITS])
    record[1] = max(0, record[1] - event[SHIPPED_UNITS])
  end
  return match_reports(window, reference, record)
end
