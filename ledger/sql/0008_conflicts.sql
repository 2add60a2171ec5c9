-- A conflict stops the journal of its shard: nothing more of its epoch is stored until somebody has settled it, or the ledger was
-- made anew under another epoch. Only conflicts are ever settled.
alter table availability.reject add column settled_at_ms bigint;
create index reject_conflict on availability.reject (shard, epoch) where reason = 'conflict' and settled_at_ms is null;
