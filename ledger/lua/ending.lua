-- What a call ends with, after its decisions; the files that make it (library.py) keep the rest to themselves.

local journal_shortages   -- what is overcommitted now, or is no longer
local flush               -- the only place that writes
