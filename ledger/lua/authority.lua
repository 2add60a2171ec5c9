-- Whom a location believes. What other sources than its authority say of it are their views, kept for reconciliation:
-- they change no number.

local VIEWS_MAX = 8   -- sources at a position
local VIEW_KEY, VIEW_SOURCE = 5, 6

-- Whether a source's snapshots set on-hand: it is the authority, or a part of it (`wms:/dc/1` of `wms`), or there is none.
local function is_authority(authority, source)
  return not authority or source == authority or source:sub(1, #authority + 1) == authority .. ':'
end

function view_key(sku_name) return prefix .. 'view:' .. escaped(sku_name) end

-- The views of a position, each {quantity, as_of_ms, sequence, event id, event key, source}.
local function views_at(position)
  if not position.views then
    local packed = call('HGET', view_key(position.sku.name), position.location)
    position.views = packed and decode(packed) or {}
  end
  return position.views
end

local function first_view(views, is_it)
  for i, view in ipairs(views) do
    if is_it(view) then return i end
  end
end

-- A snapshot that is not believed: the newest of its source is kept, of so many sources. Outcome, reason and whether
-- it is kept.
local function see(position, event, source, id, key)
  local views = views_at(position)
  local gives_way = first_view(views, function(view) return view[VIEW_SOURCE] == source end)
  local known = gives_way and views[gives_way]
  if known and known[VIEW_KEY] == key then
    local same = known[1] == event[AMOUNT] and known[2] == event[OCCURRED] and known[3] == event[SEQUENCE]
    if same then return 'duplicate' end
    return 'quarantined', 'conflict'
  end
  if not known and #views == VIEWS_MAX then
    gives_way = 1
    for i, view in ipairs(views) do
      local oldest = views[gives_way]
      if is_newer({[OCCURRED] = oldest[2], [SEQUENCE] = oldest[3]}, oldest[4], oldest[VIEW_KEY], view) then gives_way = i end
    end
  end
  local is_kept = not gives_way or is_newer(event, id, key, views[gives_way])
  if is_kept then
    views[gives_way or #views + 1] = {event[AMOUNT], event[OCCURRED], event[SEQUENCE], id, key, source}
    position.views_changed, position.sku.views_changed = true, true
  end
  return 'quarantined', 'not-authoritative', is_kept
end

-- Forgets the view that an event with this key was; whether there was one.
local function forget_view(position, key)
  local views = views_at(position)
  local found = first_view(views, function(view) return view[VIEW_KEY] == key end)
  if not found then return false end
  table.remove(views, found)
  position.views_changed, position.sku.views_changed = true, true
  return true
end

function add_views(found, position)
  local views, place = views_at(position), location_of(position.location)
  table.sort(views, function(a, b) return a[VIEW_SOURCE] < b[VIEW_SOURCE] end)
  for _, view in ipairs(views) do
    -- What an authority said before it became one is no view any more.
    if place and not is_authority(place[PLACE_AUTHORITY], view[VIEW_SOURCE]) then
      found[#found + 1] = '\151' .. encode(position.location, view[VIEW_SOURCE], view[1], view[2],
        view[3] >= 0 and view[3] or nil, view[4], position.exists and position.on_hand or nil)
    end
  end
end
