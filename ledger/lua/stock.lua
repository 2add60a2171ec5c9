-- The stock rule, as far as others use it; the files that make it (library.py) keep the rest to themselves.

local apply_event           -- one event of a feed or a line of a count: judged and journaled; replies an EventResult
local record_own_delta      -- what the ledger itself puts into a bucket or takes out of it
local record_own_shipment   -- the same of units of a reservation's line that leave
local change_bucket         -- units that come into a bucket, or leave it, journaled
local add_views             -- what sources that are not believed say of a position
local view_key              -- where that is kept
local pack_field            -- a field of a window, as its hash keeps it ...
local pack_meta             -- ... and what it keeps of the whole window
