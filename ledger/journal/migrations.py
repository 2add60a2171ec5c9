"""Owns the schema's versions: runs the numbered files of ``ledger/sql`` forward, each once, whoever else starts too."""

import hashlib
from importlib.resources import files

import asyncpg

from ledger.journal.postgres import SchemaMissing, connect
from ledger.journal.roles import grant

LOCK_KEY = 0x6D69_6772_6174_65
"""The advisory lock under which the schema is changed ("migrate")."""

_BOOTSTRAP = """
create schema if not exists availability;
create table if not exists availability.migration (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz not null default now()
);
"""


class ChangedMigration(Exception):
    """An applied file differs from the one that was applied: the schema is not what the code thinks."""


async def migrate(postgres_url: str, migrations: dict[str, str] | None = None) -> list[str]:
    """Bring the schema up to date, grant each role its own, and return the names that were applied now.

    A role that may not create in the database only looks, and raises ``SchemaMissing`` unless all is there.

    Raises ``ChangedMigration`` before anything is done when an applied file was edited since. A file that fails leaves
    nothing of itself behind. One that only a newer version of this program knows is no concern of ours.
    """
    wanted = packaged_migrations() if migrations is None else migrations
    connection = await connect(postgres_url)
    try:
        if not await connection.fetchval("select has_database_privilege(current_database(), 'create')"):
            return await _only_look(connection, wanted)
        # Waits for another process's run; the lock goes with the session, so a crash cannot leave it behind.
        await connection.execute("select pg_advisory_lock($1)", LOCK_KEY)
        await connection.execute(_BOOTSTRAP)
        applied = await _apply_missing(connection, wanted)
        async with connection.transaction():
            await grant(connection)
        return applied
    finally:
        await connection.close()


def packaged_migrations() -> dict[str, str]:
    """The text of each numbered file, by its name."""
    folder = files("ledger") / "sql"
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".sql")}


async def _apply_missing(connection: asyncpg.Connection, wanted: dict[str, str]) -> list[str]:
    missing = await _missing(connection, wanted)
    for name in missing:
        async with connection.transaction():
            await connection.execute(wanted[name])
            await connection.execute(
                "insert into availability.migration (name, sha256) values ($1, $2)", name, _digest(wanted[name])
            )
    return missing


async def _only_look(connection: asyncpg.Connection, wanted: dict[str, str]) -> list[str]:
    try:
        missing = await _missing(connection, wanted)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError) as error:
        raise SchemaMissing("the journal's schema is not there: run `availability migrate`") from error
    if missing:
        raise SchemaMissing(f"the journal's schema has not got {missing[0]} yet: run `availability migrate`")
    return []


async def _missing(connection: asyncpg.Connection, wanted: dict[str, str]) -> list[str]:
    applied = {
        row["name"]: row["sha256"] for row in await connection.fetch("select name, sha256 from availability.migration")
    }
    for name, digest in applied.items():
        if name in wanted and _digest(wanted[name]) != digest:
            raise ChangedMigration(f"{name} was applied with other content: migrations are only ever added")
    return sorted(wanted.keys() - applied.keys())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
