"""The schema's versions: forward only, each once, the same for all."""

import asyncio

import asyncpg
import pytest

from ledger.journal import ChangedMigration, migrate
from ledger.journal.migrations import packaged_migrations

pytestmark = pytest.mark.anyio

FIRST = {"0001_one.sql": "create table availability.one (n integer)"}


async def test_many_starts_at_once_apply_each_file_once(postgres_url: str) -> None:
    applied = await asyncio.gather(*(migrate(postgres_url) for _ in range(8)))

    assert sorted(packaged_migrations()) == sorted(name for names in applied for name in names)
    assert await migrate(postgres_url) == []


async def test_changed_file_is_refused_before_anything_is_done(postgres_url: str) -> None:
    await migrate(postgres_url, FIRST)

    changed = {"0001_one.sql": "create table availability.one (n bigint)", "0002_two.sql": "create table two ()"}
    with pytest.raises(ChangedMigration, match="0001_one"):
        await migrate(postgres_url, changed)

    assert await migrate(postgres_url, FIRST | {"0003_three.sql": "select 1"}) == ["0003_three.sql"]


async def test_failing_file_leaves_nothing_behind(postgres_url: str) -> None:
    broken = FIRST | {"0002_two.sql": "create table availability.two (n integer); select 1 / 0;"}
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(postgres_url, broken)

    assert await migrate(postgres_url, FIRST | {"0002_two.sql": "create table availability.two ()"}) == ["0002_two.sql"]


async def test_older_program_runs_beside_a_newer_schema(postgres_url: str) -> None:
    await migrate(postgres_url, FIRST | {"0002_two.sql": "select 1"})

    assert await migrate(postgres_url, FIRST) == []
