-- What the journal's database keeps about the feeds: events that could not be applied, and who was last heard when.

create table availability.quarantine (
    id bigint generated always as identity primary key,
    received_at_ms bigint not null,
    source text not null,
    event text,                                          -- the source's own id of it, when it could be read
    reason text not null,
    detail text not null,
    raw bytea not null,                                  -- the message as it came; of one with several events, this one
    envelope text,                                       -- JSON: what the message said around raw, for trying it again
    transport text not null check (transport in ('nats', 'http')),
    subject text,
    owner text not null,                                 -- who is to look at it
    state text not null default 'open' check (state in ('open', 'replayed', 'discarded')),
    resolved_at_ms bigint,
    check ((state = 'open') = (resolved_at_ms is null))
);
create index quarantine_open on availability.quarantine (id) where state = 'open';
-- A redelivered event waits once; when it comes again after it was dealt with, it waits again.
create unique index quarantine_once on availability.quarantine (
    source, coalesce(event, ''), reason, md5(raw), (case when event is null then md5(coalesce(envelope, '')) else '' end)
) where state = 'open';

create table availability.feed_status (
    source text primary key,
    newest_occurred_at_ms bigint not null,               -- when the newest event that it sent had happened
    heard_at_ms bigint not null
) with (fillfactor = 50);

-- A row a shard: what the API's metrics and readiness ask for.
create view availability.status as
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
left join availability.outbox_cursor using (shard);
