"""Postgres' roles can do their work and nothing else (P10); the other tests open as them what their processes open."""

import re
from pathlib import Path

import asyncpg
import pytest
from servers import as_user

from availability import access
from ledger import JOURNAL_FAILED, ROLES, migrate
from ledger.journal.migrations import packaged_migrations
from ledger.journal.postgres import SchemaMissing
from ledger.journal.roles import GRANTS, LOOKING, SETTINGS

pytestmark = pytest.mark.anyio

ROLES_FILE = Path(__file__).parent.parent / "config" / "postgres-roles.sql"
USERS = [role.removeprefix("availability_") for role in ROLES]
FOR_EVER = ("entry", "movement", "reject")
"""What the journal is made of: nobody but its owner changes or removes a row, and rows come from who journals alone."""


async def has(database: asyncpg.Connection, user: str, table: str, privilege: str) -> bool:
    question = "select has_table_privilege($1, $2, $3)"
    answer: bool = await database.fetchval(question, f"availability_{user}", f"availability.{table}", privilege)
    return answer


async def test_the_journal_is_only_added_to(postgres_url: str, database: asyncpg.Connection) -> None:
    """P7: also a process that was taken over cannot change what has happened."""
    await migrate(postgres_url)
    for user in USERS:
        for table in ("entry", "movement"):
            for privilege in ("update", "delete", "truncate", "references", "trigger"):
                assert not await has(database, user, table, privilege), (user, table, privilege)
            added = await has(database, user, table, "insert")
            assert added == (user in {access.JOURNAL, access.OPERATOR}), (user, table)
        for table in ("migration", "quarantine", "cursor", "epoch"):
            assert not await has(database, user, table, "delete"), (user, table)
            assert not await has(database, user, table, "truncate"), (user, table)
        assert not await has(database, user, "migration", "insert")
    connection = await asyncpg.connect(as_user(postgres_url, access.JOURNAL))
    for statement in ("delete from availability.entry", "truncate availability.movement", "create table mine ()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_no_role_is_more_than_a_role(postgres_url: str, database: asyncpg.Connection) -> None:
    await migrate(postgres_url)
    powers = await database.fetch(
        "select rolname from pg_roles where rolname = any($1) and (rolsuper or rolcreatedb or rolcreaterole"
        " or rolreplication or rolbypassrls)",
        list(ROLES),
    )
    assert not powers
    members = await database.fetch(
        "select pg_roles.rolname, roleid::regrole::text as role from pg_auth_members"
        " join pg_roles on pg_roles.oid = member where rolname = any($1)",
        list(ROLES),
    )
    assert {tuple(row) for row in members} == {(role, SETTINGS) for role in LOOKING}
    assert not await database.fetchval("select has_database_privilege('public', current_database(), 'connect')")
    for user in USERS:
        may_create = "select has_schema_privilege($1, 'availability', 'create')"
        assert not await database.fetchval(may_create, f"availability_{user}")


async def test_every_table_is_granted_to_somebody_on_purpose(postgres_url: str, database: asyncpg.Connection) -> None:
    """A table that nobody named in roles.py would stop a process at its first use of it, in production alone."""
    await migrate(postgres_url)
    found = await database.fetch(
        "select relname from pg_class where relnamespace = 'availability'::regnamespace and relkind in ('r', 'v')"
    )
    named = {name for grants in GRANTS.values() for names in grants.values() for name in names}
    assert {row["relname"] for row in found} <= named


async def test_a_process_waits_for_the_schema_that_it_may_not_make(postgres_url: str) -> None:
    journal = as_user(postgres_url, access.JOURNAL)
    assert issubclass(SchemaMissing, JOURNAL_FAILED)
    with pytest.raises(SchemaMissing, match="run `availability migrate`"):
        await migrate(journal)
    names = sorted(packaged_migrations())
    assert await migrate(postgres_url) == names
    assert await migrate(journal) == []
    with pytest.raises(SchemaMissing, match=r"has not got 9999_next\.sql yet"):
        await migrate(journal, packaged_migrations() | {"9999_next.sql": "select 1"})


async def test_a_role_that_came_later_is_granted_its_own_at_the_next_migration(
    postgres_url: str, database: asyncpg.Connection
) -> None:
    """As at the first start of this version on the data of an older one."""
    await migrate(postgres_url)
    await database.execute("revoke all on all tables in schema availability from availability_api")
    assert await migrate(postgres_url) == []
    assert await has(database, access.API, "entry", "select")


def test_the_file_for_servers_of_your_own_makes_the_same_roles() -> None:
    made = re.findall(r"^create role (\w+) login;", ROLES_FILE.read_text(), re.MULTILINE)
    assert sorted(made) == sorted([access.OWNER, *ROLES])
    assert f"grant {SETTINGS} to {', '.join(LOOKING)};" in ROLES_FILE.read_text()
