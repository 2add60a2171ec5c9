-- Where a shard's journal has stopped: the first conflict that is not settled, for who may not read what came then.
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
    outbox_cursor.seq as outbox_seq,
    stopped.epoch as stopped_epoch,
    stopped.seq as stopped_seq
from availability.cursor
left join availability.journal_status using (shard)
left join availability.outbox_cursor using (shard)
left join lateral (
    select reject.epoch, reject.seq from availability.reject
    where reject.shard = cursor.shard and reject.reason = 'conflict' and reject.settled_at_ms is null
    order by reject.epoch, reject.seq limit 1
) as stopped on true
where cursor.shard < (select shards from availability.shards);
