-- The roles of the service on a Postgres of your own (availability up makes them itself). Run it once as a superuser, give
-- each role a password of its own (\password availability_api), then run `availability migrate` as `availability`, who owns
-- the database: it grants each role what it needs, and nothing else, at every new version (ledger/journal/roles.py).

create role availability login;             -- owns the database: `availability migrate` alone
create role availability_api login;         -- reads; puts events into quarantine, and notes which sources were heard
create role availability_ingest login;      -- the same for events from NATS
create role availability_journal login;     -- adds to the journal and moves its cursors; never changes or removes an entry
create role availability_keeper login;      -- reads the journal
create role availability_operator login;    -- the operator's tools: quarantine, rehome, rebuild
create role availability_monitor login;     -- reads how far the journal is

grant pg_read_all_settings to availability_operator, availability_monitor;  -- how full the disk is, for `doctor`

create database availability owner availability;
revoke all on database availability from public;
