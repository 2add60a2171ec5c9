-- Where the units of a hold come from: its lines at the locations that they name, or sourced by a strategy.

local PLACE_LAT, PLACE_LON, PLACE_PRIORITY = 5, 6, 7   -- of a location

-- Where a line without a location may come from, best first: enabled locations that have the SKU.
local function candidates_of(sku_name, strategy, near)
  local found = {}
  for location, position in pairs(positions_of(sku_name)) do
    local place = location_of(location)
    if position.exists and place and place[PLACE_ENABLED] then
      settle(position)
      local rank = 0
      if strategy == 'most_stock' or strategy == 'fewest_splits' then
        rank = -available(position)
      elseif strategy == 'nearest' then
        rank = math.huge
        if place[PLACE_LAT] and place[PLACE_LON] then
          -- Equirectangular: good enough to rank the nodes of one country by distance.
          local x = math.rad(place[PLACE_LON] - near[2]) * math.cos(math.rad((place[PLACE_LAT] + near[1]) / 2))
          local y = math.rad(place[PLACE_LAT] - near[1])
          rank = x * x + y * y
        end
      end
      found[#found + 1] = {position = position, rank = rank, priority = place[PLACE_PRIORITY]}
    end
  end
  table.sort(found, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    if a.priority ~= b.priority then return a.priority < b.priority end
    return a.position.location < b.position.location
  end)
  return found
end

-- A plan says which positions give how much to which line; nothing is changed before the whole plan stands.
local function new_plan() return {units = 0, taken = {}, parts = {}, short = {}, more_due = false} end

local function take(plan, number, position, quantity)
  plan.units = plan.units + quantity
  plan.taken[position] = (plan.taken[position] or 0) + quantity
  local parts = plan.parts[number] or {}
  parts[#parts + 1] = {position = position, location = position.location, quantity = quantity}
  plan.parts[number] = parts
end

local function fall_short(plan, number, asked, left, held)
  plan.short[#plan.short + 1] = {number, asked[1], asked[3], asked[2], left, stock_status(left, held)}
end

-- A line that names its location.
local function plan_located(plan, number, asked, mode)
  local position = position_at(asked[1], asked[3])
  local left = left_at(position, plan.taken)
  if left >= asked[2] then
    take(plan, number, position, asked[2])
  else
    plan.more_due = plan.more_due or position.more_due
    fall_short(plan, number, asked, left, position.held)
    if mode == 'available' and left > 0 then take(plan, number, position, left) end
  end
end

-- Lines without a location, all from one location: the first in order that can give every one of them.
local function plan_from_one_location(plan, numbers, lines, candidates)
  for _, candidate in ipairs(candidates[numbers[1]]) do
    local location, need, fits = candidate.position.location, {}, true
    for _, number in ipairs(numbers) do
      local position = sku_of(lines[number][1]).positions[location]
      if not (position and position.exists) then fits = false break end
      need[position] = (need[position] or 0) + lines[number][2]
      if left_at(position, plan.taken) < need[position] then fits = false break end
    end
    if fits then
      for _, number in ipairs(numbers) do
        take(plan, number, sku_of(lines[number][1]).positions[location], lines[number][2])
      end
      return true
    end
  end
  return false
end

-- One line without a location: whole from one if possible, else split over as few as the order and the limit allow.
local function plan_sourced(plan, number, asked, candidates, mode, max_splits)
  local total, held = 0, 0
  local by_left = {}
  for _, candidate in ipairs(candidates) do
    local left = left_at(candidate.position, plan.taken)
    if left >= asked[2] then return take(plan, number, candidate.position, asked[2]) end
    held = held + candidate.position.held
    plan.more_due = plan.more_due or candidate.position.more_due
    if left > 0 then by_left[#by_left + 1] = {position = candidate.position, left = left, order = #by_left} end
  end
  local parts_max = max_splits and max_splits + 1 or #by_left
  -- The order of the strategy is kept where it suffices; where the limit would make it fall short, the largest go first.
  local in_order = 0
  for i = 1, min(parts_max, #by_left) do in_order = in_order + by_left[i].left end
  if in_order < asked[2] then
    table.sort(by_left, function(a, b)
      if a.left ~= b.left then return a.left > b.left end
      return a.order < b.order
    end)
  end
  for i = 1, min(parts_max, #by_left) do total = total + by_left[i].left end
  if total < asked[2] then
    fall_short(plan, number, asked, total, held)
    if mode == 'all' then return end
  end
  local wanted = min(asked[2], total)
  for i = 1, min(parts_max, #by_left) do
    local quantity = min(wanted, by_left[i].left)
    if quantity > 0 then take(plan, number, by_left[i].position, quantity) end
    wanted = wanted - quantity
  end
end

local function plan_lines(lines, mode, strategy, max_splits, near)
  local plan, unlocated, candidates = new_plan(), {}, {}
  for number, asked in ipairs(lines) do
    if asked[3] then
      plan_located(plan, number, asked, mode)
    else
      unlocated[#unlocated + 1] = number
      candidates[number] = candidates_of(asked[1], strategy, near)
    end
  end
  if #unlocated > 0 and not plan_from_one_location(plan, unlocated, lines, candidates) then
    for _, number in ipairs(unlocated) do
      plan_sourced(plan, number, lines[number], candidates[number], mode, max_splits)
    end
    table.sort(plan.short, function(a, b) return a[1] < b[1] end)
  end
  return plan
end
