-- The audit's rounds of reservations are apart from those of stock, because a sale may be faster than they can follow: when the
-- last of them ended, and how far behind the ledger they were when they last told.
alter table availability.audit alter column completed_at_ms drop not null;
alter table availability.audit add column claims_completed_at_ms bigint;
alter table availability.audit add column claims_behind_entries bigint not null default 0 check (claims_behind_entries >= 0);
alter table availability.audit add column claims_behind_ms bigint not null default 0 check (claims_behind_ms >= 0);
alter table availability.audit add column claims_left_out bigint not null default 0 check (claims_left_out >= 0);
