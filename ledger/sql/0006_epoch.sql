-- The generations of the ledger: each was filled from the one before it, with so many shards. What an epoch's entries tell is
-- all of the ledger, once it is complete; one that is not was broken off, and counts for nothing.
create table availability.epoch (
    epoch bigint primary key,
    shards smallint not null check (shards > 0),
    reason text not null check (reason in ('first', 'rehome', 'rebuild')),
    began_at_ms bigint not null,
    completed_at_ms bigint
);

-- How many shards the ledger has now. Shards that are no more keep their journal, and are asked about nothing.
create view availability.shards as
select coalesce(max(shards), 64) as shards from availability.epoch
where epoch = (select max(epoch) from availability.epoch where completed_at_ms is not null);

create or replace view availability.status as
select
    cursor.shard,
    cursor.epoch,
    cursor.seq,
    journal_status.backlog_entries,
    journal_status.lag_ms,
    journal_status.ledger_behind,
    journal_status.checked_at_ms,
    outbox_cursor.epoch as outbox_epoch,
    outbox_cursor.seq as outbox_seq
from availability.cursor
left join availability.journal_status using (shard)
left join availability.outbox_cursor using (shard)
where cursor.shard < (select shards from availability.shards);
