"""Owns what reservations are searched by: rows made from one shard's journal, behind a cursor of its own.

Of a reservation over several shards, each shard's journal tells a part: its row is of the whole (``parts.py``).
"""

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import asyncpg
import msgspec

from ledger.journal import records
from ledger.journal.derived import take_cursor
from ledger.journal.parts import Part, part_of, store_parts
from ledger.journal.postgres import REFUSED, Row, arrays, let_go
from ledger.journal.records import Place, Unreadable
from ledger.messages import JournalEntry, JournalOperation, Overcommitted, Reservation

INDEXER_LOCK = 0x7365_6172
"""The class of the advisory locks that make a shard's indexer the only one ("sear")."""

OPERATIONS = 4_096
"""About as many are taken at once: many changes of one reservation are then one change of its row."""
ENTRIES_MIN, ENTRIES_MAX = 16, 2_048

NOT_OF_RESERVATIONS = frozenset(
    {
        "apply",
        "view",
        "count",
        "put_location",
        "put_safety_stock",
        "overcommitted",
        "restore_location",
        "restore_stock",
        "restore_operation",
        "restore_keys",
    }
)
"""Verbs whose record is not a reservation."""

CLAIMED = ("held", "committed", "picked")

logger = logging.getLogger(__name__)

_DECODER = msgspec.msgpack.Decoder(Reservation)
# A batch is a statement's arrays: staging tables would cost more than the rows of a small one.
_UPSERT = """
insert into availability.reservation as known
    (client, created_at_ms, id, shard, status, order_id, customer, epoch, seq, body)
select * from unnest(
    $1::text[], $2::bigint[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::bigint[], $10::bytea[]
)
on conflict (client, created_at_ms, id) do update set
    shard = excluded.shard, status = excluded.status, order_id = excluded.order_id, customer = excluded.customer,
    epoch = excluded.epoch, seq = excluded.seq, body = excluded.body
where (known.epoch, known.seq) <= (excluded.epoch, excluded.seq)
"""
_UPSERT_LINES = """
insert into availability.reservation_line (client, sku, location, created_at_ms, id)
select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) on conflict do nothing
"""
_DELETE_LINES = """
delete from availability.reservation_line as line using
    unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[])
    as gone (client, sku, location, created_at_ms, id)
where (line.client, line.sku, line.location, line.created_at_ms, line.id)
    = (gone.client, gone.sku, gone.location, gone.created_at_ms, gone.id)
"""
_INSERT_CLAIMS = """
insert into availability.claimed_line (client, sku, location, created_at_ms, id)
select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) on conflict do nothing
"""
_DELETE_CLAIMS = """
delete from availability.claimed_line as claim using
    unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[])
    as gone (client, sku, location, created_at_ms, id)
where (claim.sku, claim.location, claim.created_at_ms, claim.id)
    = (gone.sku, gone.location, gone.created_at_ms, gone.id)
"""
# No more than what changed: a position is in one row, and one that is short of nothing any more is in none.
_REPLACE_OVERCOMMITTED = """
with told (shard, sku, location, quantity, since_ms) as materialized (
    select * from unnest($1::smallint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
), gone as (
    delete from availability.overcommitted as known using told
    where (known.sku, known.location) = (told.sku, told.location) and told.quantity = 0
)
insert into availability.overcommitted as known (shard, sku, location, quantity, since_ms)
select * from told where quantity > 0
on conflict (sku, location) do update set
    shard = excluded.shard, quantity = excluded.quantity, since_ms = excluded.since_ms
"""

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
    is_new: bool = False
    claims: bool = False


@dataclass
class _Rows:
    """What a batch writes."""

    reservations: list[Row] = field(default_factory=list)
    lines: list[Row] = field(default_factory=list)
    left: list[Row] = field(default_factory=list)
    claims: list[Row] = field(default_factory=list)
    left_claims: list[Row] = field(default_factory=list)
    overcommitted: list[Row] = field(default_factory=list)
    parts: list[tuple[_Change, Part]] = field(default_factory=list)
    """Of reservations over several shards: what else is written is known when they are stored."""


def rows_of(shard: int, entries: Iterable[JournalEntry]) -> _Rows:
    """The rows of every reservation that the entries, which are in order, did something to; each once.

    So it is with the positions that began to be overcommitted, are by another amount, or are no longer.
    """
    changes: dict[str, _Change] = {}
    overcommitted: dict[SkuAt, Overcommitted] = {}
    for entry in entries:
        place = Place(entry.epoch, entry.seq)
        for operation in entry.operations:
            if operation.verb == "overcommitted":
                told = msgspec.msgpack.decode(operation.body, type=Overcommitted)
                overcommitted[told.sku, told.location] = told
            if operation.verb in NOT_OF_RESERVATIONS:
                continue
            change = changes.setdefault(operation.subject, _Change(place, operation))
            change.place, change.operation = place, operation
            taken_from = {moved.from_bucket for moved in operation.movements if moved.to_bucket in CLAIMED}
            # A hold over several shards claims its units before it is sealed as one, which moves nothing.
            change.is_new = change.is_new or (operation.verb in ("hold", "prepare") and "available" in taken_from)
            change.claims = change.claims or not taken_from.isdisjoint(("available", "expired"))
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
        id_, body = change.operation.subject, bytes(change.operation.body)
        try:
            reservation = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("shard %d: entry %s has no record of reservation %r: %s", shard, change.place, id_, error)
            continue
        if reservation.span is None:
            _add_rows(rows, shard, change, reservation, body, change.place)
        else:
            rows.parts.append((change, part_of(change.place, change.operation, reservation)))
    rows.overcommitted = [
        (shard, told.sku, told.location, told.quantity, told.since_ms) for told in overcommitted.values()
    ]
    return rows


def _add_rows(rows: _Rows, shard: int, change: _Change, reservation: Reservation, body: bytes, place: Place) -> None:
    id_, client, at_ms = change.operation.subject, reservation.client, reservation.created_at_ms
    rows.reservations.append(
        (
            *(client, at_ms, id_, shard, reservation.status, reservation.order_id, reservation.customer),
            *(*place, body),
        )
    )
    if change.placed:
        here = {(line.sku, line.location) for line in reservation.lines}
        rows.lines += [(client, sku, location, at_ms, id_) for sku, location in here]
        rows.left += [(client, sku, location, at_ms, id_) for sku, location in change.left - here]
    claimed = {(line.sku, line.location) for line in reservation.lines if line.held or line.committed or line.picked}
    if change.claims:
        rows.claims += [(client, sku, location, at_ms, id_) for sku, location in claimed]
    if not change.is_new:
        known = {(line.sku, line.location) for line in reservation.lines} | change.left
        rows.left_claims += [(client, sku, location, at_ms, id_) for sku, location in known - claimed]


class Index:
    """What one shard's reservations are searched by, for writing; made by ``open``.

    Every method raises one of ``FAILED`` or ``Superseded``; then make a new one.
    """

    def __init__(self, connection: asyncpg.Connection, shard: int, cursor: Place) -> None:
        self.shard = shard
        self.cursor = cursor
        self.is_behind = False
        """Whether the journal had more than the last batch took."""
        self._connection = connection
        self._entries_max = ENTRIES_MIN

    @classmethod
    async def open(cls, postgres_url: str, shard: int) -> "Index":
        """Wait until no other indexer has the shard, then take it."""
        settings = {"plan_cache_mode": "force_custom_plan"}
        connection, cursor = await take_cursor(postgres_url, "search_cursor", INDEXER_LOCK, shard, settings)
        return cls(connection, shard, cursor)

    async def close(self) -> None:
        """Let go of the shard; safe after any failure."""
        await let_go(self._connection)

    async def advance(self, entries_max: int | None = None) -> int:
        """Take the next entries of the journal, as many as are good to take at once; says how many there were.

        What cannot be read or stored is passed over and logged: it is among the journal's rejects.
        """
        limit = entries_max or self._entries_max
        rows = await self._connection.fetch(
            "select epoch, seq, at_ms, body from availability.entry"
            " where shard = $1 and (epoch, seq) > ($2, $3) order by epoch, seq limit $4",
            *(self.shard, *self.cursor, limit),
        )
        self.is_behind = len(rows) == limit
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
            if rows.parts:
                await self._make_whole(rows)
            for statement, its_rows in (
                (_UPSERT, rows.reservations),
                (_UPSERT_LINES, rows.lines),
                (_DELETE_LINES, rows.left),
                (_INSERT_CLAIMS, rows.claims),
                (_DELETE_CLAIMS, rows.left_claims),
                (_REPLACE_OVERCOMMITTED, rows.overcommitted),
            ):
                if its_rows:
                    await self._connection.execute(statement, *arrays(its_rows))
            moved = await self._connection.fetchval(
                "update availability.search_cursor set epoch = $1, seq = $2, at_ms = $3"
                " where shard = $4 and (epoch, seq) = ($5, $6) returning true",
                *(*end, at_ms, self.shard, *self.cursor),
            )
            if not moved:
                raise Superseded(f"the search of shard {self.shard} was moved on, or back, by somebody else")
        self.cursor = end

    async def _make_whole(self, rows: _Rows) -> None:
        """Store the parts, and add the rows of the reservations that are whole with them."""
        wholes = await store_parts(self._connection, self.shard, [part for _, part in rows.parts])
        for change, part in rows.parts:
            if found := wholes.get(part.id):
                whole = found.reservation
                body = msgspec.msgpack.encode(whole)
                # What an earlier batch or another shard's told is not known here: all claims are looked at.
                change.claims, change.is_new = True, False
                _add_rows(rows, found.shard, change, whole, body, Place(whole.epoch, whole.seq))
