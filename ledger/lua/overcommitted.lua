-- Overcommitted positions: their claims exceed what is there, because a feed, a count or the time of a shipment lowered it
-- (DESIGN 2). Looked for once a call, where claims or on-hand changed; a position that is fine, before and after, costs a
-- comparison. Safety stock is there like any other unit, and where nothing is claimed nothing is short.

local shortages   -- of this call, by place: {units short, since_ms}, or false where it is over

local function claims_of(position) return position.held + position.committed + position.picked end

local function shortage(position)
  local claims = claims_of(position)
  return claims > 0 and max(0, claims - position.on_hand) or 0
end

-- The positions of the call whose claims or on-hand are not what they were before it. What is short among them is settled
-- first: overdue holds are no claims any more, and to end them may change further positions.
local function touched()
  local found, i = {}, 1
  while i <= #positions do
    local position = positions[i]
    local claims = position.held + position.committed + position.picked
    if claims ~= position.claims_before or position.on_hand ~= position.on_hand_before then
      if claims > position.on_hand and not position.settled then
        settle(position)
        return touched()
      end
      found[#found + 1] = position
    end
    i = i + 1
  end
  return found
end

local function is_or_was_short(position)
  return shortage(position) > 0 or position.claims_before > position.on_hand_before
end

local function journal_shortage(position)
  local units = shortage(position)
  -- Some overdue holds are still to be ended; the call that ends the last of them will know.
  if units > 0 and position.more_due then return end
  local packed = call('HGET', prefix .. 'overcommitted', position.place)
  local known = packed and decode(packed) or {0, now_ms}
  if units == known[1] then return end
  shortages[position.place] = units > 0 and {units, known[2]} or false
  local sku, location = position.sku.name, position.location
  journal[#journal + 1] = '\151' .. encode('overcommitted', sku .. '@' .. location, '', '', '')
    .. encode({sku, location, units, known[2]}) .. encode({})
end

-- Journals what begins to be overcommitted, is by another amount, or is no longer.
function journal_shortages()
  shortages = {}
  if restoring then return end
  for _, position in ipairs(touched()) do
    if is_or_was_short(position) then journal_shortage(position) end
  end
end

local function collect_shortages()
  local set, gone = {}, {}
  for place, known in pairs(shortages) do
    if known then set[#set + 1], set[#set + 2] = place, encode(known) else gone[#gone + 1] = place end
  end
  if #set + #gone > 0 then kept[#kept + 1] = {key = prefix .. 'overcommitted', set = set, gone = gone} end
end
