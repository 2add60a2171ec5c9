"""Owns the reading of the journal: its entries in order, its cursor, its chain, and how the whole is doing."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from msgspec import Struct

from ledger.journal import records
from ledger.journal.postgres import now_ms, open_pool
from ledger.journal.records import START, Cursor, Place, RawEntry
from ledger.messages import JournalEntry

PAGE_BYTES = 4_000_000
PAGE_ENTRIES_FIRST, PAGE_ENTRIES_MAX = 16, 2_000


class ShardStatus(Struct, frozen=True):
    """How far a shard's journal has come; ``lag_ms`` and ``backlog_entries`` were seen ``checked_ms_ago``.

    ``checked_ms_ago`` is None when no journaler has ever looked; when it grows, none is running. ``stopped_at`` is the
    first entry that contradicts the journal and is not settled: nothing more is journaled.
    """

    shard: int
    epoch: int
    seq: int
    backlog_entries: int
    lag_ms: int
    ledger_behind: bool
    checked_ms_ago: int | None
    outbox_epoch: int
    outbox_seq: int
    stopped_at: str | None = None


class SourceStatus(Struct, frozen=True):
    """When a feed's source was last heard, and how new the newest thing was that it said."""

    source: str
    newest_occurred_at_ms: int
    heard_at_ms: int


class Status(Struct, frozen=True):
    """The journal's database at a glance, for metrics and readiness."""

    shards: list[ShardStatus]
    sources: list[SourceStatus]
    quarantine_open: int
    rejects: int
    overcommitted: int


class Problem(Struct, frozen=True):
    """A place where the journal is not what it must be. ``kind``: ``gap``, ``hash``, ``cursor``."""

    kind: str
    place: Place
    detail: str


def broken_links(before: Cursor, after: Cursor, body: bytes) -> list[Problem]:
    """What is wrong with an entry of this ``body`` and place behind the one ``before`` it: a gap, its hash, or both."""
    problems = []
    if not records.follows(before.place, after.place):
        problems.append(Problem("gap", after.place, f"after {before.place} comes {after.place}"))
    if records.chained(before.hash, body) != after.hash:
        problems.append(Problem("hash", after.place, f"entry {after.place} is not what the chain says"))
    return problems


class JournalEnd(Struct, frozen=True):
    """The last entry of a shard that is surely in the journal: its place, and its body, None before the first."""

    place: Place
    entry: bytes | None


class Generation(NamedTuple):
    """An epoch that is complete, and its shards."""

    epoch: int
    shards: int


class StoredBody(NamedTuple):
    """An entry as the journal has it, whatever is in it; ``hash`` is that of the chain up to it."""

    place: Place
    body: bytes
    hash: bytes


@dataclass
class Journal:
    """The journal as readers see it; made by ``open``. Every method raises one of ``FAILED`` when Postgres is away."""

    _pool: asyncpg.Pool

    @classmethod
    async def open(cls, postgres_url: str) -> "Journal":
        """Connect when first asked something."""
        return cls(await open_pool(postgres_url))

    async def close(self) -> None:
        self._pool.terminate()

    async def cursor(self, shard: int) -> Cursor:
        """The last entry of the shard that is surely in the journal, and the chain's hash there."""
        row = await self._pool.fetchrow("select epoch, seq, hash from availability.cursor where shard = $1", shard)
        return Cursor(Place(row["epoch"], row["seq"]), row["hash"]) if row else Cursor(START, records.GENESIS)

    async def end(self, shard: int) -> JournalEnd:
        """The last entry of the shard that is surely in the journal."""
        row = await self._pool.fetchrow(
            "select epoch, seq, body from availability.cursor left join availability.entry using (shard, epoch, seq)"
            " where shard = $1",
            shard,
        )
        return JournalEnd(Place(row["epoch"], row["seq"]), row["body"]) if row else JournalEnd(START, None)

    async def entries(self, shard: int, after: Place = START) -> AsyncIterator[JournalEntry]:
        """Every entry of the shard behind ``after``, in order; ``Unreadable`` at one that cannot be decoded."""
        async for row in self._rows(shard, after):
            yield records.decode(Place(row["epoch"], row["seq"]), row["body"])

    async def stored(self, shard: int, after: Place = START, page_bytes: int = PAGE_BYTES) -> AsyncIterator[StoredBody]:
        """Every entry of the shard behind ``after``, in order, as it stands; about ``page_bytes`` come at once."""
        async for row in self._rows(shard, after, page_bytes):
            yield StoredBody(Place(row["epoch"], row["seq"]), row["body"], row["hash"])

    async def generation(self, shards: int) -> Generation | None:
        """The epoch whose entries tell all of the ledger; None when nothing was ever written.

        A ledger that never had other ones does not tell its ``shards``: those are the caller's.
        """
        row = await self._pool.fetchrow(
            "select epoch, shards from availability.epoch where completed_at_ms is not null order by epoch desc limit 1"
        )
        if row:
            return Generation(row["epoch"], row["shards"])
        first = await self._pool.fetchval("select max(epoch) from availability.cursor where seq > 0")
        return Generation(first, shards) if first else None

    async def last_until(self, shard: int, place: Place) -> Cursor:
        """The last entry at ``place`` or before it, and the chain's hash there."""
        row = await self._pool.fetchrow(
            "select epoch, seq, hash from availability.entry"
            " where shard = $1 and (epoch, seq) <= ($2, $3) order by epoch desc, seq desc limit 1",
            *(shard, *place),
        )
        return Cursor(Place(row["epoch"], row["seq"]), row["hash"]) if row else Cursor(START, records.GENESIS)

    async def at_ms(self, shard: int, place: Place) -> int:
        """When the last entry at ``place`` or before it was made; 0 without one."""
        at_ms: int | None = await self._pool.fetchval(
            "select at_ms from availability.entry"
            " where shard = $1 and (epoch, seq) <= ($2, $3) order by epoch desc, seq desc limit 1",
            *(shard, *place),
        )
        return at_ms or 0

    async def lacking(self, shard: int, entries: Sequence[RawEntry]) -> list[RawEntry]:
        """Those of some entries, in order, that the journal does not have, or has with other content."""
        rows = await self._pool.fetch(
            "select epoch, seq, body from availability.entry"
            " where shard = $1 and (epoch, seq) >= ($2, $3) and (epoch, seq) <= ($4, $5)",
            *(shard, *entries[0].place, *entries[-1].place),
        )
        stored = {Place(row["epoch"], row["seq"]): row["body"] for row in rows}
        return [entry for entry in entries if stored.get(entry.place) != entry.body]

    async def verify_chain(self, shard: int) -> list[Problem]:
        """Every gap, every entry whose bytes or hash were changed, and a cursor that is not at the end."""
        problems: list[Problem] = []
        before = Cursor(START, records.GENESIS)
        async for row in self._rows(shard, START):
            after = Cursor(Place(row["epoch"], row["seq"]), row["hash"])
            problems += broken_links(before, after, row["body"])
            before = after
        cursor = await self.cursor(shard)
        if cursor != before:
            problems.append(
                Problem("cursor", cursor.place, f"the cursor is at {cursor.place}, the end at {before.place}")
            )
        return problems

    async def shards(self) -> list[ShardStatus]:
        """How the journal of each shard is doing; every role may ask this."""
        async with self._pool.acquire() as connection:
            return await _shards(connection)

    async def status(self) -> Status:
        """How the journal, the feeds and the quarantine are doing."""
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            shards = await _shards(connection)
            sources = await connection.fetch("select * from availability.feed_status order by source")
            quarantined = await connection.fetchval("select count(*) from availability.quarantine where state = 'open'")
            rejects = await connection.fetchval("select count(*) from availability.reject")
            overcommitted = await connection.fetchval("select count(*) from availability.overcommitted")
        return Status(
            shards=shards,
            sources=[SourceStatus(row["source"], row["newest_occurred_at_ms"], row["heard_at_ms"]) for row in sources],
            quarantine_open=quarantined,
            rejects=rejects,
            overcommitted=overcommitted,
        )

    async def _rows(self, shard: int, after: Place, page_bytes: int = PAGE_BYTES) -> AsyncIterator[asyncpg.Record]:
        """Entries page by page: no transaction is held open while the reader thinks."""
        entries = PAGE_ENTRIES_FIRST
        while True:
            rows = await self._pool.fetch(
                "select epoch, seq, body, hash from availability.entry"
                " where shard = $1 and (epoch, seq) > ($2, $3) order by epoch, seq limit $4",
                *(shard, after.epoch, after.seq, entries),
            )
            for row in rows:
                yield row
            if len(rows) < entries:
                return
            after = Place(rows[-1]["epoch"], rows[-1]["seq"])
            size = sum(len(row["body"]) for row in rows) // len(rows) + 1
            entries = min(max(page_bytes // size, PAGE_ENTRIES_FIRST), PAGE_ENTRIES_MAX)


async def _shards(connection: PoolConnectionProxy) -> list[ShardStatus]:
    rows = await connection.fetch("select * from availability.status order by shard")
    at_ms = now_ms()
    return [_shard_status(row, at_ms) for row in rows]


def _shard_status(row: asyncpg.Record, at_ms: int) -> ShardStatus:
    checked_at_ms = row["checked_at_ms"]
    return ShardStatus(
        shard=row["shard"],
        epoch=row["epoch"],
        seq=row["seq"],
        backlog_entries=row["backlog_entries"] or 0,
        lag_ms=row["lag_ms"] or 0,
        ledger_behind=bool(row["ledger_behind"]),
        checked_ms_ago=None if checked_at_ms is None else max(0, at_ms - checked_at_ms),
        outbox_epoch=row["outbox_epoch"] or 0,
        outbox_seq=row["outbox_seq"] or 0,
        stopped_at=None if row["stopped_epoch"] is None else str(Place(row["stopped_epoch"], row["stopped_seq"])),
    )
