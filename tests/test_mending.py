"""What was removed from a journal comes back from the ledger's stream, as far as the chain proves it (P2, P7)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from journal_entries import STREAM, entry, following, put, put_raw
from redis.asyncio import Redis
from servers import as_owner, as_user
from waiting import wait_until

from availability import access
from ledger import Journal, Place, conflicts, migrate
from ledger.journal.mending import mend

pytestmark = pytest.mark.anyio

LAST = 9
CHAIN_ENDS = "delete from availability.entry where seq > 6"
CHAIN_BREAKS = "delete from availability.entry where seq between 3 and 5"
BEGINNING_IS_GONE = "delete from availability.entry where seq < 3"


@dataclass
class Journaled:
    """A journal of ``LAST`` entries, the last but one unreadable, and the stream that it came from."""

    redis: Redis
    journal: Journal
    database: asyncpg.Connection
    urls: tuple[str, str]

    async def rows(self) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
        return (
            await self.database.fetch("select epoch, seq, body, hash from availability.entry order by epoch, seq"),
            await self.database.fetch("select * from availability.movement order by epoch, seq, movement_index"),
        )

    async def mend(self) -> int:
        return await mend(*self.urls, 0)


@pytest.fixture
async def journaled(valkey_url: str, postgres_url: str, database: asyncpg.Connection) -> AsyncIterator[Journaled]:
    await migrate(postgres_url)
    redis = Redis.from_url(as_owner(valkey_url))
    journal = await Journal.open(postgres_url)
    await put(redis, *(entry(seq) for seq in range(1, LAST - 1)))
    await put_raw(redis, 1, LAST - 1, b"no entry")
    await put(redis, entry(LAST))

    async def complete() -> bool:
        return (await journal.cursor(0)).place == Place(1, LAST)

    async with following(valkey_url, postgres_url):
        await wait_until(complete)
    urls = as_user(valkey_url, access.OPERATOR), as_user(postgres_url, access.OPERATOR)
    yield Journaled(redis, journal, database, urls)
    await redis.aclose()
    await journal.close()


@pytest.mark.parametrize("removal", [CHAIN_ENDS, CHAIN_BREAKS, BEGINNING_IS_GONE])
async def test_what_was_removed_comes_back(journaled: Journaled, removal: str) -> None:
    before = await journaled.rows()
    assert await journaled.mend() == 0
    assert before[1] != []
    await journaled.database.execute(removal)
    await journaled.database.execute(removal.replace("entry", "movement"))
    assert await journaled.journal.verify_chain(0) != []
    assert await journaled.mend() in {2, 3}
    assert await journaled.rows() == before
    assert await journaled.journal.verify_chain(0) == []


async def test_movements_that_stayed_are_not_doubled(journaled: Journaled) -> None:
    before = await journaled.rows()
    await journaled.database.execute(CHAIN_BREAKS)
    assert await journaled.mend() == 3
    assert await journaled.rows() == before


@pytest.mark.parametrize(("removal", "lost"), [(CHAIN_ENDS, "1-9"), (CHAIN_ENDS, "1-7"), (CHAIN_BREAKS, "1-4")])
async def test_what_the_chain_does_not_prove_stays_away(journaled: Journaled, removal: str, lost: str) -> None:
    """One of the missing entries is in the stream no more: what is left of them cannot be told from an invention."""
    await journaled.database.execute(removal)
    await journaled.redis.xdel(STREAM, lost)
    left = await journaled.rows()
    assert await journaled.mend() == 0
    assert await journaled.rows() == left


async def test_other_entries_under_these_numbers_are_no_proof(journaled: Journaled) -> None:
    await journaled.database.execute(CHAIN_BREAKS)
    await journaled.redis.delete(STREAM)
    await put(journaled.redis, *(entry(seq, sku="OTHER") for seq in range(1, LAST + 1)))
    assert await journaled.mend() == 0


async def test_a_journaler_mends_it_when_it_starts(journaled: Journaled, valkey_url: str, postgres_url: str) -> None:
    await journaled.database.execute(CHAIN_ENDS)

    async def whole() -> bool:
        return await journaled.journal.verify_chain(0) == []

    async with following(valkey_url, postgres_url):
        await wait_until(whole)
    assert await conflicts(postgres_url) == []
