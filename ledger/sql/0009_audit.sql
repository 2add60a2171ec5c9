-- What the audit of the process `keeper` found in its last complete round: one row, for who asks how the ledger is.

create table availability.audit (
    only_row boolean primary key default true check (only_row),
    completed_at_ms bigint not null,
    differences bigint not null check (differences >= 0),
    counts text not null,                                -- JSON: kind of difference -> how many
    first text not null                                  -- JSON: the first of them, with their evidence
);
