-- Checkpoints: what the journal of an epoch folds to, up to an entry of each shard; from there a rebuild goes on. All of it can be
-- made again from the journal, and what does not match its own hash, or the journal's, is not used.

-- One that is complete: its row is written last. Chunks without one are what is being made now, or was broken off.
create table availability.checkpoint (
    id bigint primary key,
    epoch bigint not null,
    folded_by text not null,                             -- the version of the fold: another one's are not used
    places bytea not null,                               -- packed, for each shard: seq, the chain's hash there, number of chunks
    hash bytea not null check (octet_length(hash) = 32), -- of all of the above and the hashes of all chunks, in order
    movements bigint not null,                           -- that the journal had when it was begun; see cursor
    made_at_ms bigint not null,
    bytes bigint not null
);

create table availability.checkpoint_chunk (
    checkpoint bigint not null,
    shard smallint not null check (shard >= 0),
    number integer not null,
    body bytea not null,
    primary key (checkpoint, shard, number)
);
alter table availability.checkpoint_chunk alter column body set storage external; -- it is compressed already

-- How many movements the journal has of a shard: what tells that a checkpoint is due. Those of before do not count.
alter table availability.cursor add column movements bigint not null default 0;
