"""Owns what an audit asks of the journal's database: entries and hashes, movement rows, cursors, last touches."""

from dataclasses import dataclass
from hashlib import md5
from typing import Any, Final, NamedTuple

import asyncpg

from ledger.journal.postgres import open_pool
from ledger.journal.records import START, Cursor, Place
from ledger.messages import JournalEntry

REJECTS_MAX: Final = 10_000
TOUCHES: Final = 3

_ROWS = """
select epoch, seq, at_ms, body, hash from availability.entry
where shard = $1 and (epoch, seq) > ($2, $3) order by epoch, seq limit $4
"""
# The marks between fields and rows are no characters of ours; md5 tells differences apart, it guards nothing.
_DIGESTS = """
select seq, count(*) as rows, md5(string_agg(concat_ws(chr(31), operation_index, movement_index, at_ms, sku, location,
    from_bucket, to_bucket, quantity, verb, subject, client, reason, coalesce(event, '')), chr(30)
    order by operation_index, movement_index)) as digest
from availability.movement where shard = $1 and epoch = $2 and seq between $3 and $4 group by seq
"""
_OF_POSITION = """
select epoch, seq from availability.movement where shard = $1 and epoch = $2 and sku = $3 and location = $4
group by epoch, seq order by epoch desc, seq desc limit $5
"""
_OF_SUBJECT = """
select epoch, seq from availability.movement where shard = $1 and epoch = $2 and subject = $3
group by epoch, seq order by epoch desc, seq desc limit $4
"""
_UNANNOUNCED = """
select min(at_ms) from (
    select at_ms from availability.entry
    where shard = $1 and (epoch, seq) > (
        select coalesce(max(epoch), 0), coalesce(max(seq), 0) from availability.outbox_cursor where shard = $1
    ) order by epoch, seq limit 1
) as oldest
"""


class StoredEntry(NamedTuple):
    """An entry as the journal has it."""

    cursor: Cursor
    at_ms: int
    body: bytes


class Digest(NamedTuple):
    """Of the movements of an entry: how many, and a digest of all that their rows say."""

    rows: int
    digest: str


@dataclass
class Inspection:
    """Made by ``open``. Every method raises one of ``FAILED`` when Postgres is away."""

    _pool: asyncpg.Pool

    @classmethod
    async def open(cls, postgres_url: str) -> "Inspection":
        """Connect when first asked something."""
        return cls(await open_pool(postgres_url, size=1))

    async def close(self) -> None:
        self._pool.terminate()

    async def entries(self, shard: int, after: Place, entries_max: int) -> list[StoredEntry]:
        """The next entries of the shard behind ``after``; fewer than ``entries_max`` when there are no more."""
        rows = await self._pool.fetch(_ROWS, shard, *after, entries_max)
        return [
            StoredEntry(Cursor(Place(row["epoch"], row["seq"]), row["hash"]), row["at_ms"], row["body"]) for row in rows
        ]

    async def digests(self, shard: int, epoch: int, first: int, last: int) -> dict[int, Digest]:
        """Of the movement rows of each entry that has any, by its seq."""
        rows = await self._pool.fetch(_DIGESTS, shard, epoch, first, last)
        return {row["seq"]: Digest(row["rows"], row["digest"]) for row in rows}

    async def rejected(self, shard: int) -> set[Place]:
        """Entries that are known to have no movement rows: unreadable, or refused by Postgres."""
        rows = await self._pool.fetch(
            "select epoch, seq from availability.reject"
            " where shard = $1 and reason in ('unreadable', 'unstorable') limit $2",
            *(shard, REJECTS_MAX),
        )
        return {Place(row["epoch"], row["seq"]) for row in rows}

    async def ends(self, shard: int) -> tuple[Place, Place]:
        """The cursor and the place of the last entry, as of one moment."""
        row = await self._pool.fetchrow(
            "select cursor.epoch, cursor.seq, newest.epoch as newest_epoch, newest.seq as newest_seq"
            " from availability.cursor left join lateral (select epoch, seq from availability.entry"
            " where entry.shard = cursor.shard order by epoch desc, seq desc limit 1) as newest on true"
            " where cursor.shard = $1",
            shard,
        )
        if row is None:
            return START, START
        return Place(row["epoch"], row["seq"]), Place(row["newest_epoch"] or 0, row["newest_seq"] or 0)

    async def announced(self, shard: int) -> Place:
        """Up to which entry the shard's events were announced."""
        row = await self._pool.fetchrow("select epoch, seq from availability.outbox_cursor where shard = $1", shard)
        return Place(row["epoch"], row["seq"]) if row else START

    async def oldest_unannounced_ms(self, shard: int) -> int | None:
        """When the oldest entry was made whose events the outbox has not announced; None when there is none."""
        at_ms: int | None = await self._pool.fetchval(_UNANNOUNCED, shard)
        return at_ms

    async def touching_position(self, shard: int, epoch: int, sku: str, location: str) -> list[Place]:
        """The last entries with movements of the position, the newest first."""
        return _places(await self._pool.fetch(_OF_POSITION, shard, epoch, sku, location, TOUCHES))

    async def touching_subject(self, shard: int, epoch: int, subject: str) -> list[Place]:
        """The last entries with movements of the reservation, the newest first."""
        return _places(await self._pool.fetch(_OF_SUBJECT, shard, epoch, subject, TOUCHES))


def _places(rows: list[Any]) -> list[Place]:
    return [Place(row["epoch"], row["seq"]) for row in rows]


def digest_of(entry: JournalEntry) -> Digest:
    """What ``Inspection.digests`` must answer of an entry's rows."""
    rows = [
        f"{operation_index}\x1f{movement_index}\x1f{entry.at_ms}\x1f{move.sku}\x1f{move.location}\x1f{move.from_bucket}"
        f"\x1f{move.to_bucket}\x1f{move.quantity}\x1f{operation.verb}\x1f{operation.subject}\x1f{operation.client}"
        f"\x1f{move.reason}\x1f{move.event or ''}"
        for operation_index, operation in enumerate(entry.operations)
        for movement_index, move in enumerate(operation.movements)
    ]
    return Digest(len(rows), md5("\x1e".join(rows).encode(), usedforsecurity=False).hexdigest())
