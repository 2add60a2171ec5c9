-- What keeps a window bounded: its oldest events fold into the bases, and the horizon moves.

local WINDOW_EVENTS_MAX = 512       -- more than this and the oldest fold into the base ...
local WINDOW_EVENTS_KEPT = 384      -- ... down to this many
local WINDOW_EVENTS_LAST = 4096     -- but events of one and the same time wait for each other up to here; no more of it
local WINDOW_MS = 48 * 3600000      -- and so does what was received longer ago
local WINDOW_SLACK_MS = 3600000     -- at most once an hour

-- Our own shipment folds as it counts now; the units reported of it are settled with it.
local function settle_report(window, event)
  local record = event[SHIPPED_UNITS] and window.events[REPORTED .. event[REFERENCE]]
  if not record then return end
  record[1] = record[1] - event[SHIPPED_UNITS] - event[AMOUNT]
  table.remove(record[2], 1)
  window.changed[REPORTED .. event[REFERENCE]] = true
end

-- Forgets what was reported of lines of which no event is left, and makes a record (reports.lua) of our own shipments
-- of a line that no longer lead from the first to the last.
local function renew_reports(window)
  local shipments = {}
  for _, item in ipairs(in_order(window)) do
    local reference = item.event[REFERENCE] or NO_REFERENCE
    if reference ~= NO_REFERENCE then
      local keys = shipments[reference] or {}
      if item.event[SHIPPED_UNITS] then keys[#keys + 1] = item.key end
      shipments[reference] = keys
    end
  end
  window.has_reports = false
  for reference, keys in pairs(shipments) do
    local mark = REPORTED .. reference
    if not window.events[mark] and (#keys > 1 or #keys == 1 and keys[1] ~= shipment_key(reference, 0)) then
      window.events[mark], window.changed[mark] = {0, keys}, true
    end
    if window.events[mark] then window.has_reports = true end
  end
  for key in pairs(window.events) do
    if key:sub(1, 1) == REPORTED and not shipments[key:sub(2)] then window.events[key], window.changed[key] = false, true end
  end
end

-- Folds the oldest events into the bases once the window is full or old. From then on, whatever happened before the
-- horizon comes too late to be judged.
local function compact(window)
  local aged = window.oldest_received_ms < now_ms - WINDOW_MS - WINDOW_SLACK_MS
  -- What is left after the horizon came to just before the newest time is all of that time, and waits.
  local is_of_one_time = window.horizon_ms >= window.newest_ms - 1 and window.count <= WINDOW_EVENTS_LAST
  if (window.count <= WINDOW_EVENTS_MAX or is_of_one_time) and not aged then return end
  load_all(window)
  local order = in_order(window)
  if #order > WINDOW_EVENTS_MAX then
    -- A time is folded whole or not at all, or its other events would come too late: a feed may tell only the day.
    local newest_ms, cut_ms = order[#order].event[OCCURRED], order[#order - WINDOW_EVENTS_KEPT].event[OCCURRED]
    if cut_ms == newest_ms and #order <= WINDOW_EVENTS_LAST then cut_ms = newest_ms - 1 end
    window.horizon_ms = max(window.horizon_ms, cut_ms)
  end
  for _, item in ipairs(order) do
    if item.event[RECEIVED] < now_ms - WINDOW_MS then window.horizon_ms = max(window.horizon_ms, item.event[OCCURRED]) end
  end
  window.count, window.oldest_received_ms = 0, now_ms
  for _, item in ipairs(order) do
    local event = item.event
    if event[OCCURRED] <= window.horizon_ms then
      for _, bucket in ipairs({event[BUCKET], event[TO_BUCKET]}) do
        if bucket ~= '' then
          local folded = add_to_base(window, window.folded[bucket] or NO_BASE, item, bucket)
          window.folded[bucket] = folded
          if base_of(window, bucket)[2] <= window.horizon_ms then window.bases[bucket] = nil end
        end
      end
      settle_report(window, event)
      window.events[item.key], window.changed[item.key] = false, true
      if window.events[RETRACTED .. item.key] then
        window.events[RETRACTED .. item.key], window.changed[RETRACTED .. item.key] = false, true
      end
    else
      window.count, window.oldest_received_ms = window.count + 1, min(window.oldest_received_ms, event[RECEIVED])
    end
  end
  renew_reports(window)
end
