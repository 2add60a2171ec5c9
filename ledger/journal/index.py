"""Owns what reservations are searched by: rows made from one shard's journal, behind a cursor of its own."""

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import asyncpg
import msgspec

from ledger.journal import records
from ledger.journal.postgres import FAILED, REFUSED, connect, take_lock
from ledger.journal.records import Place, Unreadable
from ledger.messages import JournalEntry, JournalOperation, Reservation

INDEXER_LOCK = 0x7365_6172
"""The class of the advisory locks that make a shard's indexer the only one ("sear")."""

OPERATIONS = 4_096
"""About as many are taken at once: many changes of one reservation are then one change of its row."""
ENTRIES_MIN, ENTRIES_MAX = 16, 2_048

NOT_OF_RESERVATIONS = frozenset(
    {"apply", "view", "count", "put_location", "restore_location", "restore_stock", "restore_operation", "restore_keys"}
)
"""Verbs whose record is not a reservation."""

logger = logging.getLogger(__name__)

_DECODER = msgspec.msgpack.Decoder(Reservation)
_RESERVATION_COLUMNS = (
    *("client", "created_at_ms", "id", "shard", "status", "order_id", "customer", "epoch", "seq", "body"),
)
_LINE_COLUMNS = ("client", "sku", "location", "created_at_ms", "id")

_STAGING = """
create temporary table staged (like availability.reservation) on commit delete rows;
create temporary table staged_line (like availability.reservation_line) on commit delete rows;
create temporary table left_line (like availability.reservation_line) on commit delete rows;
"""
_UPSERT = """
insert into availability.reservation as known select * from staged
on conflict (client, created_at_ms, id) do update set
    shard = excluded.shard, status = excluded.status, order_id = excluded.order_id, customer = excluded.customer,
    epoch = excluded.epoch, seq = excluded.seq, body = excluded.body
where (known.epoch, known.seq) <= (excluded.epoch, excluded.seq)
"""
_UPSERT_LINES = "insert into availability.reservation_line select * from staged_line on conflict do nothing"
_DELETE_LINES = """
delete from availability.reservation_line as line using left_line as gone
where (line.client, line.sku, line.location, line.created_at_ms, line.id)
    = (gone.client, gone.sku, gone.location, gone.created_at_ms, gone.id)
"""

Row = tuple[object, ...]
SkuAt = tuple[str, str]


class Superseded(Exception):
    """Another indexer has gone on with the shard: this one must stop, and has changed nothing."""


@dataclass
class _Change:
    """What a batch does to one reservation: its last operation, and where lines may have come to or gone from."""

    place: Place
    operation: JournalOperation
    placed: bool = False
    left: set[SkuAt] = field(default_factory=set)


@dataclass
class _Rows:
    """What a batch writes."""

    reservations: list[Row] = field(default_factory=list)
    lines: list[Row] = field(default_factory=list)
    left: list[Row] = field(default_factory=list)


def rows_of(shard: int, entries: Iterable[JournalEntry]) -> _Rows:
    """The rows of every reservation that the entries, which are in order, did something to; each once."""
    changes: dict[str, _Change] = {}
    for entry in entries:
        place = Place(entry.epoch, entry.seq)
        for operation in entry.operations:
            if operation.verb in NOT_OF_RESERVATIONS:
                continue
            change = changes.setdefault(operation.subject, _Change(place, operation))
            change.place, change.operation = place, operation
            if operation.verb in ("hold", "move", "restore"):
                change.placed = True
                # A move's movements come in pairs: out of the bucket at the old place, into it at the new one.
                change.left.update(
                    (movement.sku, movement.location)
                    for movement in operation.movements
                    if operation.verb == "move" and movement.to_bucket == "available"
                )
    rows = _Rows()
    for change in changes.values():
        _add_rows(rows, shard, change)
    return rows


def _add_rows(rows: _Rows, shard: int, change: _Change) -> None:
    id_, body = change.operation.subject, bytes(change.operation.body)
    try:
        reservation = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("shard %d: entry %s has no record of reservation %r: %s", shard, change.place, id_, error)
        return
    client, at_ms = reservation.client, reservation.created_at_ms
    rows.reservations.append(
        (
            *(client, at_ms, id_, shard, reservation.status, reservation.order_id, reservation.customer),
            *(*change.place, body),
        )
    )
    if change.placed:
        here = {(line.sku, line.location) for line in reservation.lines}
        rows.lines += [(client, sku, location, at_ms, id_) for sku, location in here]
        rows.left += [(client, sku, location, at_ms, id_) for sku, location in change.left - here]


class Index:
    """What one shard's reservations are searched by, for writing; made by ``open``.

    Every method raises one of ``FAILED`` or ``Superseded``; then make a new one.
    """

    def __init__(self, connection: asyncpg.Connection, shard: int, cursor: Place) -> None:
        self.shard = shard
        self.cursor = cursor
        self._connection = connection
        self._entries_max = ENTRIES_MIN

    @classmethod
    async def open(cls, postgres_url: str, shard: int) -> "Index":
        """Wait until no other indexer has the shard, then take it."""
        connection = await connect(postgres_url)
        try:
            await take_lock(connection, INDEXER_LOCK, shard)
            await connection.execute(_STAGING)
            row = await connection.fetchrow(
                "insert into availability.search_cursor (shard) values ($1)"
                " on conflict (shard) do update set shard = excluded.shard returning epoch, seq",
                shard,
            )
        except BaseException:
            connection.terminate()
            raise
        assert row is not None
        return cls(connection, shard, Place(row["epoch"], row["seq"]))

    async def close(self) -> None:
        """Let go of the shard; safe after any failure."""
        try:
            await self._connection.close(timeout=2.0)
        except FAILED:
            self._connection.terminate()

    async def advance(self, entries_max: int | None = None) -> int:
        """Take the next entries of the journal, as many as are good to take at once; says how many there were.

        What cannot be read or stored is passed over and logged: it is among the journal's rejects.
        """
        rows = await self._connection.fetch(
            "select epoch, seq, at_ms, body from availability.entry"
            " where shard = $1 and (epoch, seq) > ($2, $3) order by epoch, seq limit $4",
            *(self.shard, *self.cursor, entries_max or self._entries_max),
        )
        if not rows:
            return 0
        entries: list[JournalEntry] = []
        for row in rows:
            with contextlib.suppress(Unreadable):
                entries.append(records.decode(Place(row["epoch"], row["seq"]), row["body"]))
        await self._take(entries, Place(rows[-1]["epoch"], rows[-1]["seq"]), rows[-1]["at_ms"])
        operations = sum(len(entry.operations) for entry in entries)
        self._entries_max = min(max(OPERATIONS * len(rows) // max(1, operations), ENTRIES_MIN), ENTRIES_MAX)
        return len(rows)

    async def _take(self, entries: list[JournalEntry], end: Place, at_ms: int) -> None:
        """Store what the entries up to ``end`` did; halve them to find one that Postgres refuses."""
        try:
            await self._store(rows_of(self.shard, entries), end, at_ms)
        except REFUSED as error:
            if len(entries) > 1:
                middle = len(entries) // 2
                last = entries[middle - 1]
                await self._take(entries[:middle], Place(last.epoch, last.seq), last.at_ms)
                await self._take(entries[middle:], end, at_ms)
                return
            logger.warning("shard %d: entry %s cannot be made searchable: %s", self.shard, end, error)
            await self._store(_Rows(), end, at_ms)

    async def _store(self, rows: _Rows, end: Place, at_ms: int) -> None:
        """One transaction: the rows and the cursor, or nothing of them."""
        async with self._connection.transaction():
            if rows.reservations:
                await self._copy("staged", _RESERVATION_COLUMNS, rows.reservations)
                await self._connection.execute(_UPSERT)
            if rows.lines:
                await self._copy("staged_line", _LINE_COLUMNS, rows.lines)
                await self._connection.execute(_UPSERT_LINES)
            if rows.left:
                await self._copy("left_line", _LINE_COLUMNS, rows.left)
                await self._connection.execute(_DELETE_LINES)
            moved = await self._connection.fetchval(
                "update availability.search_cursor set epoch = $1, seq = $2, at_ms = $3"
                " where shard = $4 and (epoch, seq) = ($5, $6) returning true",
                *(*end, at_ms, self.shard, *self.cursor),
            )
            if not moved:
                raise Superseded(f"the search of shard {self.shard} was moved on, or back, by somebody else")
        self.cursor = end

    async def _copy(self, table: str, columns: tuple[str, ...], rows: list[Row]) -> None:
        await self._connection.copy_records_to_table(table, columns=columns, records=rows)
