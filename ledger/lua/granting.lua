-- What the holds of a call have in common when they are granted, or refused.

local GRANTED = '\145\167granted'   -- the caller knows the rest (ledger/packing.py)

-- When the holds of this call end that live for `ttl_ms`, and what their records have in common, packed.
local function lifetime_of(ttl_ms)
  local lifetime = lifetimes[ttl_ms]
  if not lifetime then
    local expires_at_ms, day = now_ms + whole(ttl_ms, 1, 86400000), encode(floor(now_ms / DAY_MS))
    lifetime = {
      expires_at_ms = expires_at_ms, times = encode(now_ms, expires_at_ms), receipt = encode(epoch, seq) .. '\144',
      day = day, ending = day .. '\192',
    }
    lifetimes[ttl_ms] = lifetime
  end
  return lifetime
end
