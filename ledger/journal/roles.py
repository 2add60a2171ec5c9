"""Owns the roles of the journal's database: what each may read and write there, which is the least that it needs (P10).

The roles themselves are made once by a superuser (``config/postgres-roles.sql``). What they may do is granted here, by
the owner of the database, after each migration: a table that is new is nobody's until it is named below.
"""

from collections.abc import Mapping
from typing import Final

import asyncpg

from ledger.journal.postgres import connect

_COMMON: Final = ("migration", "epoch", "shards", "cursor", "entry", "status", "journal_status", "outbox_cursor")
_SEARCH: Final = (
    *("reservation", "reservation_line", "reservation_part", "claimed_line", "overcommitted"),
    "search_cursor",
)
_CHECKPOINTS: Final = ("checkpoint", "checkpoint_chunk")
"""Both can be made from the journal again, and old ones are removed."""
_CURSORS: Final = ("cursor", "outbox_cursor", "journal_status")
_JOURNAL: Final = ("entry", "movement", "reject")
_FEEDS: Final = ("quarantine", "feed_status")

_Grants = dict[str, tuple[str, ...]]

_WRITING: Final[_Grants] = {
    "select": (*_COMMON, *_JOURNAL, *_SEARCH, *_CHECKPOINTS, *_FEEDS, "audit"),
    "insert": (*_JOURNAL, *_CURSORS, *_SEARCH, *_CHECKPOINTS),
    "update": (*_CURSORS, *_SEARCH, *_CHECKPOINTS),
    "delete": (*_SEARCH, *_CHECKPOINTS),
}

GRANTS: Final[dict[str, _Grants]] = {
    "availability_api": {
        "select": (*_COMMON, "reject", *_SEARCH, *_FEEDS, "audit"),
        "insert": _FEEDS,
        "update": ("feed_status",),
    },
    "availability_ingest": {"select": (*_COMMON, *_FEEDS), "insert": _FEEDS, "update": ("feed_status",)},
    "availability_journal": _WRITING,
    "availability_keeper": {
        "select": (*_COMMON, *_JOURNAL, *_CHECKPOINTS, "audit"),
        "insert": ("audit",),
        "update": ("audit",),
    },
    "availability_operator": {
        "select": _WRITING["select"],
        "insert": (*_WRITING["insert"], *_FEEDS, "epoch"),
        "update": (*_WRITING["update"], *_FEEDS, "epoch", "reject"),
        "delete": _WRITING["delete"],
    },
    "availability_monitor": {"select": (*_COMMON, "feed_status", "audit")},
}
"""By role and privilege, the tables and views. Nobody but their owner may change or remove an entry or a movement."""

ROLES: Final = tuple(GRANTS)
LOOKING: Final = ("availability_operator", "availability_monitor")
"""Those as whom `doctor` comes; members of ``SETTINGS``, for where the server's data is, and how full that disk."""
SETTINGS: Final = "pg_read_all_settings"


async def make_roles(postgres_url: str, passwords: Mapping[str, str]) -> None:
    """Make the roles that are missing, and give all of them these passwords; as a superuser, of a server of our own.

    Raises one of ``JOURNAL_FAILED``.
    """
    connection = await connect(postgres_url)
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtext('availability roles'))")
            there = {row["rolname"] for row in await connection.fetch("select rolname from pg_roles")}
            for role, password in passwords.items():
                assert role in GRANTS, role
                assert password.isalnum(), "it goes into the statement's text"
                verb = "alter" if role in there else "create"
                await connection.execute(f"{verb} role {role} login password '{password}'")
                if role in LOOKING:
                    await connection.execute(f"grant {SETTINGS} to {role}")
    finally:
        await connection.close()


async def grant(connection: asyncpg.Connection) -> None:
    """Let each role that there is do what it may do here, and everybody else nothing; in the caller's transaction."""
    roles = await connection.fetch("select rolname from pg_roles where rolname = any($1)", list(GRANTS))
    tables = await connection.fetch(
        "select relname from pg_class where relnamespace = 'availability'::regnamespace and relkind in ('r', 'v')"
    )
    there = {row["relname"] for row in tables}
    database = await connection.fetchval("select quote_ident(current_database())")
    statements = [
        f"revoke all on database {database} from public",
        "revoke all on schema availability from public",
        "revoke all on all tables in schema availability from public",
    ]
    for role in sorted(row["rolname"] for row in roles):
        statements += [
            f"grant connect on database {database} to {role}",
            f"grant usage on schema availability to {role}",
            f"revoke all on all tables in schema availability from {role}",
        ]
        for privilege, names in GRANTS[role].items():
            granted = ", ".join(f"availability.{name}" for name in names if name in there)
            if granted:
                statements.append(f"grant {privilege} on {granted} to {role}")
    await connection.execute(";\n".join(statements))
