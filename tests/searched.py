"""Owns a ledger with its journal and the search in it, for tests that say when each of them is brought up to date."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from ledgers import Clock, Shop
from servers import as_user

from availability import access
from ledger import Filters, FoundReservation, JournalWriter, Ledger, Reservations, migrate
from ledger import messages as m
from ledger.journal.index import Index
from ledger.journal.stream import JournalStream


class Searched:
    """A ledger with its journal and the search in it, which know what it did when ``journal`` has run."""

    def __init__(self, ledger: Ledger, clock: Clock, valkey_url: str, postgres_url: str, search: Reservations) -> None:
        self.ledger, self.clock, self.search = ledger, clock, search
        self.shop = Shop(ledger, clock)
        self.valkey_url, self.postgres_url = valkey_url, postgres_url
        self._streams = [JournalStream(as_user(valkey_url, access.JOURNAL), shard) for shard in range(ledger.shards)]

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()
        await self.search.close()
        await self.ledger.close()

    async def held(self, *lines: tuple[str, int, str], **fields: Any) -> str:
        """The id of a new reservation; each is a millisecond younger than the one before."""
        self.clock.now_ms += 1
        done = await self.shop.hold(*lines, **fields)
        assert isinstance(done, m.Done), done
        return done.id

    async def commit(self, reservation_id: str, order_id: str) -> None:
        done = await self.ledger.commit(m.Commit(self.shop.key(None), "call:c", "web", reservation_id, order_id))
        assert isinstance(done, m.Done), done

    async def journal(self) -> None:
        """Bring the journal and the search up to the ledger."""
        await self.write()
        await self.index()

    async def write(self) -> None:
        """Bring the journal up to the ledger."""
        for shard, stream in enumerate(self._streams):
            writer = await JournalWriter.open(as_user(self.postgres_url, access.JOURNAL), shard)
            while entries := await stream.read(block_ms=1):
                written = await writer.write(entries)
                assert (written.rejects, written.gaps, written.conflicts) == (0, 0, 0)
            await writer.close()

    async def index(self, *shards: int) -> None:
        """Bring the search up to the journal, of these shards or of all."""
        for shard in shards or range(self.ledger.shards):
            index = await Index.open(as_user(self.postgres_url, access.JOURNAL), shard)
            while await index.advance():
                pass
            await index.close()

    async def ids(self, client: str = "web", **filters: Any) -> list[str]:
        """What one large page finds."""
        return [found.id for found in await self.found(client, **filters)]

    async def found(self, client: str = "web", **filters: Any) -> list[FoundReservation]:
        return (await self.search.search(client, Filters(**filters), limit=100)).reservations

    async def pages(self, limit: int, **filters: Any) -> list[list[str]]:
        """All pages, one after the other."""
        pages, after = [], None
        while True:
            page = await self.search.search("web", Filters(**filters), limit=limit, after=after)
            pages.append([found.id for found in page.reservations])
            after = page.next
            if after is None:
                return pages

    async def live(self, reservation_id: str) -> m.Reservation:
        found = await self.ledger.find(m.Find(reservation_id, "web"))
        assert isinstance(found, m.Found)
        return found.reservation


@asynccontextmanager
async def stocked(valkey_url: str, postgres_url: str, *, shards: int = 1) -> AsyncIterator[Searched]:
    """One with stock of three SKUs, of four shards each on its own, at two locations."""
    clock = Clock()
    await migrate(postgres_url)
    ledger = await Ledger.open(valkey_url, shards=shards, now_ms=clock)
    search = await Reservations.open(as_user(postgres_url, access.API), shards=shards)
    made = Searched(ledger, clock, valkey_url, postgres_url, search)
    for location in ("S1", "S2"):
        await made.shop.open(location)
        for sku in ("SHOE", "BOOT", "SOCK"):
            await made.shop.stock(sku, 1_000, location)
    yield made
    await made.close()


async def contents(database: asyncpg.Connection, tables: Iterable[str]) -> list[list[dict[str, Any]]]:
    """All rows of these tables, in order."""
    return [
        sorted((dict(row) for row in await database.fetch(f"select * from availability.{table}")), key=repr)  # noqa: S608
        for table in tables
    ]
