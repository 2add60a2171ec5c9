-- What every verb shares: the caches of one call, the clock, expiry, and the one place that writes.
--
-- A call brings a batch of operations. Each verb decides on the tables cached here and never writes; when all
-- are decided, `flush` (flush.lua) writes every changed key once and appends one journal entry. Redis has no
-- rollback, so nothing that can fail may stand between the first write and the last.

-- Fields of a reservation's line (ReservationLine in messages.py).
local SKU, LOCATION, QUANTITY, HELD, COMMITTED, PICKED = 1, 2, 3, 5, 6, 7
local SHIPPED, RELEASED, EXPIRED, CANCELLED, RETURNED = 8, 9, 10, 11, 12
local STATES = {
  [HELD] = 'held', [COMMITTED] = 'committed', [PICKED] = 'picked', [SHIPPED] = 'shipped', [RELEASED] = 'released',
  [EXPIRED] = 'expired', [CANCELLED] = 'cancelled', [RETURNED] = 'returned',
}
local ENDINGS = {SHIPPED, RETURNED, CANCELLED, RELEASED, EXPIRED}

-- Fields of a reservation's span (Span in messages.py).
local SHARDS, NUMBERS, SEALED, TOKEN, INTENT, PINNED_UNTIL, RECLAIMED = 1, 2, 3, 4, 5, 6, 7

-- Fields of a location (Location in messages.py).
local PLACE_AUTHORITY, PLACE_ENABLED = 4, 8

local DUE_MAX = 2000               -- overdue reservations ended per call: about 20 ms
local OVERDUE_PLACES_MAX = 100     -- positions looked at per call for what is overdue anywhere
local OPERATIONS_MAX = 200         -- operations on one reservation: its record names them all
local ARGUMENTS_MAX = 1000         -- of one command; Lua's stack holds 8,000
local READABLE_MS = 24 * 3600000   -- how long an ended reservation can still be read
local DAY_MS = 24 * 3600000
local NEVER_MS = 253402300799999   -- the last millisecond of the year 9999

local verbs = {}
local hold_row   -- the verb `hold`, for many at once
local FIRST_HOLD, A_HOLD = 9, 3   -- where the holds of a row begin, and the fields of each

-- The call under way; `begin` sets every one of these anew, the borrowed functions too: no global exists while a
-- library is loaded.
local call, encode, decode, decode_some, floor, max, min
local prefix, now_ms, clock_jumped, epoch, seq, shards, backlog_entries_max, low_stock
local client_open_reservations_max, client_held_units_max
local skus, positions, records, packed_records, windows, places, clients, time_texts
local locks, marks, gone, part, kept, restoring, meters
local journal, granted, lifetimes
local deadlines, counts, backlog_full, due_left, overdue_left, look_only

-- ---------------------------------------------------------------------------------------------------------------
-- Keys (ledger/README.md lists type, fields, writer and life of each)

local function escaped(text)
  if text:find('[%%:{}]') then
    text = text:gsub('[%%:{}]', function(c) return ('%%%02X'):format(c:byte()) end)
  end
  return text
end

local function unescaped(text)
  return (text:gsub('%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
end

local function array_header(count)
  if count < 65536 then return '\220' .. string.char(floor(count / 256), count % 256) end
  return '\221' .. struct.pack('>I4', count)
end

-- Where the values of a packed array begin. `decode_some(packed, count, from)` replies where it stopped (-1 at the end) and
-- so many values; it makes no table, which would cost more than all of them.
local function header_length(packed) return packed:byte() < 160 and 1 or 3 end

-- A time as commands take it; a call has few of them, and to write a number costs as much as a command.
local function time_text(at_ms)
  local text = time_texts[at_ms]
  if not text then
    text = ('%.0f'):format(at_ms)
    time_texts[at_ms] = text
  end
  return text
end

local function whole(value, low, high)
  assert(type(value) == 'number' and value == floor(value) and value >= low and value <= high, 'not a whole number in range')
  return value
end
