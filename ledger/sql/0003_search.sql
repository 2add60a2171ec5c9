-- What reservations are searched by: each as its last journaled operation left it, and where its lines are. Made from
-- the journal, behind a cursor of its own, and can be made again: empty the three tables, and it is.
-- The names compare as bytes: it is the order that indexes are quickest in.

-- The key begins with the time, so new rows go to its end, and it is the order of "newest first" as well. The id is not in
-- the other indexes: the few reservations of one millisecond are sorted when they are read.
create table availability.reservation (
    client text collate "C" not null,
    created_at_ms bigint not null,
    id text collate "C" not null,
    shard smallint not null check (shard >= 0),
    status text collate "C" not null,
    order_id text collate "C",
    customer text collate "C",
    epoch bigint not null,                               -- of the entry that body is from
    seq bigint not null,
    body bytea not null,                                 -- the packed Reservation
    primary key (client, created_at_ms, id)
);
alter table availability.reservation alter column body set storage external;
create index reservation_status on availability.reservation (client, status, created_at_ms);
create index reservation_order on availability.reservation (client, order_id, created_at_ms) where order_id is not null;
create index reservation_customer on availability.reservation (client, customer, created_at_ms) where customer is not null;

-- Where the units of a reservation are or were claimed: one row a SKU and location, written by hold and move alone.
create table availability.reservation_line (
    client text collate "C" not null,
    sku text collate "C" not null,
    location text collate "C" not null,
    created_at_ms bigint not null,
    id text collate "C" not null,
    primary key (client, sku, location, created_at_ms, id)
);
create index reservation_line_location on availability.reservation_line (client, location, created_at_ms);

-- How far the journal of a shard has been made searchable: moved in the transaction that writes the rows above.
create table availability.search_cursor (
    shard smallint primary key check (shard >= 0),
    epoch bigint not null default 0,
    seq bigint not null default 0,
    at_ms bigint not null default 0                      -- the ledger's time at that entry
) with (fillfactor = 50);
