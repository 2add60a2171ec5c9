-- Positions whose claims exceed what is there, and whose claims these are. Made from the journal with the search's tables,
-- in the same transactions and behind the same cursor, and made again with them.

-- What the ledger last said of each; in no row once it is short of nothing.
create table availability.overcommitted (
    shard smallint not null check (shard >= 0),
    sku text collate "C" not null,
    location text collate "C" not null,
    quantity bigint not null check (quantity >= 0),      -- units short
    since_ms bigint not null,
    primary key (sku, location)
);

-- Where units are claimed now: one row a reservation, SKU and location, as long as any unit there is held, committed or
-- picked. So the claims of a position are found without looking at all that ever were there.
create table availability.claimed_line (
    client text collate "C" not null,
    sku text collate "C" not null,
    location text collate "C" not null,
    created_at_ms bigint not null,
    id text collate "C" not null,
    primary key (sku, location, created_at_ms, id)
);

-- Both are new: the journal is gone through once more.
update availability.search_cursor set epoch = 0, seq = 0, at_ms = 0;
