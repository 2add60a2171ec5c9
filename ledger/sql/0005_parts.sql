-- The parts of reservations over several shards. Each shard's journal tells of its own part; the indexer that stores one
-- makes the whole of them anew, and only that is a row of availability.reservation.

create table availability.reservation_part (
    id text collate "C" not null,
    shard smallint not null check (shard >= 0),
    epoch bigint not null,                               -- of the entry that body is from
    seq bigint not null,
    body bytea not null,                                 -- the packed Reservation, with its span
    primary key (id, shard)
);
alter table availability.reservation_part alter column body set storage external;
