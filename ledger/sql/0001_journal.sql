-- The journal: what the ledger did, as numbered, hash-chained blobs, and the movements in them as rows.
-- Times are whole milliseconds since 1970 UTC, as everywhere in the ledger.

create type availability.bucket as enum (
    'available', 'held', 'committed', 'picked', 'shipped', 'released', 'expired', 'cancelled', 'returned',
    'on_hand', 'damaged', 'quality_hold', 'in_transit', 'outside'
);

-- Every entry of a shard's stream, readable or not, so that the numbers have no gap and the chain covers all of them.
create table availability.entry (
    shard smallint not null check (shard >= 0),
    epoch bigint not null check (epoch >= 0),
    seq bigint not null check (seq >= 0),
    at_ms bigint not null,                               -- of an unreadable entry: when the journaler met it
    body bytea not null,                                 -- the bytes as they stood in the stream
    hash bytea not null check (octet_length(hash) = 32), -- sha256(hash of the entry before || body)
    primary key (shard, epoch, seq)
);
-- Bodies above 2 kB are kept as they are: compressing them would cost the journaler's server more than the disk saves.
alter table availability.entry alter column body set storage external;

-- One row a movement; which are there is guarded by entry's key, as both are written in one transaction. There is no
-- key and no ordinary index here: each would cost more than the row. BRIN finds a range of entries or times, because
-- rows come in that order. Later partitions would go by at_ms.
create table availability.movement (
    shard smallint not null,
    epoch bigint not null,
    seq bigint not null,
    operation_index integer not null,
    movement_index integer not null,
    at_ms bigint not null,
    sku text not null,
    location text not null,
    from_bucket availability.bucket not null,
    to_bucket availability.bucket not null,
    quantity bigint not null,
    verb text not null,
    subject text not null,                               -- the reservation, sku@location or location
    client text not null,
    reason text not null,
    event text                                           -- the stock event's key, when there is one
);
create index movement_order on availability.movement using brin (epoch, seq, at_ms);

-- How far the journal of a shard has come; moved in the transaction that writes the rows. owner_epoch fences: it rises
-- with every writer that takes the shard's lock, and a writer moves the cursor only while it is still its own.
create table availability.cursor (
    shard smallint primary key check (shard >= 0),
    epoch bigint not null default 0,
    seq bigint not null default 0,
    hash bytea not null default decode(repeat('00', 32), 'hex') check (octet_length(hash) = 32),
    owner_epoch bigint not null default 0
) with (fillfactor = 50);

-- What could not be taken as it was. Nothing here ever stops the entries behind it.
create table availability.reject (
    shard smallint not null,
    epoch bigint not null,
    seq bigint not null,
    reason text not null check (reason in (
        'unreadable',  -- it does not decode: entry has the bytes, movement has nothing of it
        'unstorable',  -- it decodes, but Postgres refuses its movements: entry has the bytes, movement has nothing
        'conflict',    -- the journal already has this number with other content: raw is what came now
        'gap'          -- numbers are missing before this one: raw is empty
    )),
    raw bytea not null,
    raw_hash bytea not null check (octet_length(raw_hash) = 32),
    error text not null,
    at_ms bigint not null,
    primary key (shard, epoch, seq, reason, raw_hash)
);

-- How far the events of a shard have been announced to NATS.
create table availability.outbox_cursor (
    shard smallint primary key check (shard >= 0),
    epoch bigint not null default 0,
    seq bigint not null default 0
) with (fillfactor = 50);

-- What the journaler last saw of a shard's stream, about once a second.
create table availability.journal_status (
    shard smallint primary key check (shard >= 0),
    backlog_entries bigint not null check (backlog_entries >= 0),
    lag_ms bigint not null check (lag_ms >= 0),          -- age of the oldest entry that the journal has not got
    ledger_behind boolean not null,                      -- the ledger has lost entries that the journal has
    checked_at_ms bigint not null
) with (fillfactor = 50);
