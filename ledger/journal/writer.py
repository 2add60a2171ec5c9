"""Owns the writing of one shard's journal: one writer at a time, rows and cursor in one transaction."""

import hashlib
import logging
from dataclasses import dataclass

import asyncpg

from ledger.journal import records
from ledger.journal.postgres import REFUSED, connect, let_go, now_ms, take_lock
from ledger.journal.records import Cursor, Place, Prepared, RawEntry, Reject

_LOCKED = """
select exists (
    select from pg_locks join pg_database on pg_database.oid = pg_locks.database
    where locktype = 'advisory' and granted and datname = current_database()
    and classid::bigint = $1 and objid::bigint = $2
)
"""
WRITER_LOCK = 0x6A6F_7572
"""The class of the advisory locks that make a shard's writer the only one ("jour")."""

logger = logging.getLogger(__name__)


class Fenced(Exception):
    """Another writer has taken the shard: this one must stop, and has changed nothing."""


@dataclass
class Written:
    """What became of a batch."""

    entries: int = 0
    movements: int = 0
    rejects: int = 0
    """Unreadable or unstorable entries: in the journal, without movements."""
    conflicts: int = 0
    """Entries whose number the journal has with other content. An alarm."""
    held_back: int = 0
    """Entries that were not stored, because a conflict of their epoch is not settled."""
    gaps: int = 0
    """Places where entries are missing. An alarm."""


async def is_written(postgres_url: str, shard: int) -> bool:
    """Whether some process writes the shard's journal now. Raises one of ``FAILED``."""
    connection = await connect(postgres_url)
    try:
        there: bool = await connection.fetchval(_LOCKED, WRITER_LOCK, shard)
        return there
    finally:
        await let_go(connection)


class JournalWriter:
    """The writer of one shard's journal; made by ``open``. Every method raises one of ``FAILED``, or ``Fenced``.

    ``stopped_epoch`` is the newest one with a conflict that is not settled, 0 = none: who wrote that is not who wrote
    the journal, or one of them is damaged, so nothing more of it is stored. After a failure the writer cannot be used
    again: whether its last batch is stored is told by the next writer's cursor.
    """

    def __init__(self, connection: asyncpg.Connection, shard: int, owner_epoch: int, cursor: Cursor) -> None:
        self.shard = shard
        self.cursor = cursor
        self.stopped_epoch = 0
        self._connection = connection
        self._owner_epoch = owner_epoch

    @classmethod
    async def open(cls, postgres_url: str, shard: int) -> "JournalWriter":
        """Wait until no other writer has the shard, then take it, fencing off any that still thinks it has."""
        connection = await connect(postgres_url)
        try:
            await take_lock(connection, WRITER_LOCK, shard)
            return await cls._own(connection, shard)
        except BaseException:
            connection.terminate()
            raise

    @classmethod
    async def _own(cls, connection: asyncpg.Connection, shard: int) -> "JournalWriter":
        """Become the owner of the shard's cursor, and see that no entry lies beyond it."""
        row = await connection.fetchrow(
            "insert into availability.cursor (shard, owner_epoch) values ($1, 1)"
            " on conflict (shard) do update set owner_epoch = cursor.owner_epoch + 1"
            " returning owner_epoch, epoch, seq, hash",
            shard,
        )
        assert row is not None
        writer = cls(connection, shard, row["owner_epoch"], Cursor(Place(row["epoch"], row["seq"]), row["hash"]))
        newest = await connection.fetchrow(
            "select epoch, seq, hash from availability.entry where shard = $1 order by epoch desc, seq desc limit 1",
            shard,
        )
        if newest is not None and (place := Place(newest["epoch"], newest["seq"])) > writer.cursor.place:
            logger.error("shard %d: the cursor %s was behind the journal, now %s", shard, writer.cursor.place, place)
            await writer._move_cursor(place, newest["hash"])
            writer.cursor = Cursor(place, newest["hash"])
        writer.stopped_epoch = await stopped_epoch(connection, shard)
        return writer

    async def close(self) -> None:
        """Let go of the shard; safe after any failure."""
        await let_go(self._connection)

    async def write(self, entries: list[RawEntry]) -> Written:
        """Store a batch as it stands in the stream, in order, and move the cursor behind it.

        Entries that the journal already has are compared with what it has. Bad ones are noted among the rejects.
        Those of a ``stopped_epoch`` are left out.
        """
        written = Written()
        known = [entry for entry in entries if entry.place <= self.cursor.place]
        if known:
            await self._compare(known, written)
        met_at_ms = now_ms()
        prepared: list[Prepared] = []
        rejects: list[Reject] = []
        before = self.cursor
        for entry in entries[len(known) :]:
            if entry.place.epoch <= self.stopped_epoch:
                written.held_back += 1
                continue
            if not records.follows(before.place, entry.place):
                rejects.append(self._gap(before.place, entry.place))
                written.gaps += 1
            made = records.prepare(self.shard, before.hash, entry, met_at_ms)
            prepared.append(made)
            before = Cursor(entry.place, made.hash)
        if prepared:
            await self._store(prepared, rejects, written)
        return written

    def _gap(self, before: Place, after: Place) -> Reject:
        logger.error("shard %d: the journal has a gap, entry %s came after %s", self.shard, after, before)
        return Reject(after, "gap", b"", f"after {before} came {after}")

    async def _store(self, prepared: list[Prepared], rejects: list[Reject], written: Written) -> None:
        """Store entries that are new; halve the batch to find those that Postgres refuses."""
        try:
            await self._commit(prepared, rejects + [made.reject for made in prepared if made.reject])
        except REFUSED as error:
            if len(prepared) > 1:
                middle = len(prepared) // 2
                boundary = prepared[middle].raw.place
                await self._store(prepared[:middle], [gap for gap in rejects if gap.place < boundary], written)
                await self._store(prepared[middle:], [gap for gap in rejects if gap.place >= boundary], written)
                return
            await self._store_without_movements(prepared[0], rejects, error)
            written.rejects += 1
            written.entries += 1
            return
        written.entries += len(prepared)
        written.movements += sum(len(made.movements) for made in prepared)
        for made in prepared:
            if made.reject:
                logger.error("shard %d: entry %s is unreadable: %s", self.shard, made.raw.place, made.reject.error)
                written.rejects += 1

    async def _store_without_movements(self, made: Prepared, rejects: list[Reject], error: Exception) -> None:
        """Keep an entry of which Postgres refuses a movement, or even its time."""
        logger.error("shard %d: Postgres refuses the movements of entry %s: %s", self.shard, made.raw.place, error)
        refusal = Reject(made.raw.place, "unstorable", made.raw.body, f"{type(error).__name__}: {error}")
        epoch, seq = made.raw.place
        bare = made._replace(row=(self.shard, epoch, seq, now_ms(), made.raw.body, made.hash), movements=[])
        await self._commit([bare], [*rejects, refusal])

    async def _commit(self, prepared: list[Prepared], rejects: list[Reject]) -> None:
        """One transaction: the rows, the rejects and the cursor, or nothing of them."""
        last = prepared[-1]
        movements = [row for made in prepared for row in made.movements]
        async with self._connection.transaction():
            await self._connection.copy_records_to_table(
                "entry",
                schema_name="availability",
                columns=records.ENTRY_COLUMNS,
                records=[made.row for made in prepared],
            )
            if movements:
                await self._connection.copy_records_to_table(
                    "movement", schema_name="availability", columns=records.MOVEMENT_COLUMNS, records=movements
                )
            if rejects:
                await self._note(rejects)
            await self._move_cursor(last.raw.place, last.hash, len(movements))
        self.cursor = Cursor(last.raw.place, last.hash)

    async def _move_cursor(self, place: Place, after: bytes, movements: int = 0) -> None:
        """Only the owner moves it, and only from where it knows it to be."""
        moved = await self._connection.fetchval(
            "update availability.cursor set epoch = $1, seq = $2, hash = $3, movements = movements + $7"
            " where shard = $4 and owner_epoch = $5 and hash = $6 returning true",
            *(place.epoch, place.seq, after, self.shard, self._owner_epoch, self.cursor.hash, movements),
        )
        if not moved:
            raise Fenced(f"the journal of shard {self.shard} has a newer writer")

    async def _note(self, rejects: list[Reject]) -> None:
        await self._connection.executemany(
            "insert into availability.reject (shard, epoch, seq, reason, raw, raw_hash, error, at_ms)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
            [
                (
                    *(self.shard, *reject.place, reject.reason, reject.raw, hashlib.sha256(reject.raw).digest()),
                    # A text that quotes the entry may hold what Postgres just refused.
                    *(reject.error.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode(), now_ms()),
                )
                for reject in rejects
            ],
        )

    async def _compare(self, known: list[RawEntry], written: Written) -> None:
        """Hold entries that were stored before against what was stored."""
        rows = await self._connection.fetch(
            "select epoch, seq, body from availability.entry"
            " where shard = $1 and (epoch, seq) >= ($2, $3) and (epoch, seq) <= ($4, $5)",
            *(self.shard, *known[0].place, *known[-1].place),
        )
        stored = {Place(row["epoch"], row["seq"]): row["body"] for row in rows}
        conflicts = [
            Reject(entry.place, "conflict", entry.body, _difference(stored.get(entry.place), entry.body))
            for entry in known
            if stored.get(entry.place) != entry.body
        ]
        for conflict in conflicts:
            logger.error("shard %d: entry %s: %s", self.shard, conflict.place, conflict.error)
        written.conflicts += len(conflicts)
        if conflicts:
            await self._note(conflicts)
            self.stopped_epoch = await stopped_epoch(self._connection, self.shard)
            if self.stopped_epoch:
                logger.error("shard %d: nothing more is journaled: see `availability conflicts`", self.shard)


async def stopped_epoch(connection: asyncpg.Connection, shard: int) -> int:
    """The newest epoch of the shard with a conflict that is not settled; 0 = none."""
    epoch: int = await connection.fetchval(
        "select coalesce(max(epoch), 0) from availability.reject"
        " where shard = $1 and reason = 'conflict' and settled_at_ms is null",
        shard,
    )
    return epoch


def _difference(stored: bytes | None, came: bytes) -> str:
    if stored is None:
        return "it came when the journal was already past it, and the journal has nothing under this number"
    return f"the journal has other content under this number ({len(stored)} bytes, now {len(came)})"
