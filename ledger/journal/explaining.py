"""Owns the answer to "why is it 7?": one position's number at any time, made of its parts, from the journal alone.

Of a shard's epoch only the entries are read that name the SKU (Postgres looks for its bytes in them), or put the
location. What is kept is the position's: its numbers, the reservations that claim it, its window of events, and the
newest movements.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Struct

from ledger.journal import records
from ledger.journal.books import LEAVING, decode_reservation
from ledger.journal.postgres import now_ms, open_pool
from ledger.journal.records import Place
from ledger.journal.windows import Base, Delta, parts_of
from ledger.keys import escaped, shard_of
from ledger.messages import (
    TIME_MS_MAX,
    JournalEntry,
    JournalOperation,
    Location,
    Position,
    Reservation,
    StockEvent,
)

SPAN_ENTRIES: Final = 5_000
"""Entries that Postgres looks through at once."""

_EPOCHS: Final = (
    "select epoch, shards, reason, completed_at_ms from availability.epoch"
    " where completed_at_ms is not null order by epoch"
)
_NAMING: Final = """
select epoch, seq, body from availability.entry where shard = $1 and epoch = $2 and seq > $3 and seq <= $4
    and at_ms <= $5 and exists (select from unnest($6::bytea[]) as sought where position(sought in body) > 0)
order by seq
"""
_decode_location = msgspec.msgpack.Decoder(Location).decode
_decode_event = msgspec.msgpack.Decoder(StockEvent).decode


class ClaimOn(Struct, frozen=True):
    """The units that a reservation claims at the position; ``is_overdue``: the held ones are free already."""

    reservation: str
    client: str
    order_id: str | None
    expires_at_ms: int
    held: int
    committed: int
    picked: int
    is_overdue: bool


class PositionMovement(Struct, frozen=True):
    """A movement of the position: when, by which operation and entry, and who asked for it."""

    at_ms: int
    entry: str
    verb: str
    from_bucket: str
    to_bucket: str
    quantity: int
    reason: str
    subject: str
    event: str | None
    source: str | None
    client: str


class Explanation(Struct, frozen=True):
    """A position at ``at_ms``, as entry ``entry`` left it.

    ``on_hand`` = ``base`` + the deltas + ``other`` (0 unless the window tells less than all). ``available`` = on_hand
    - held - committed - picked - safety_stock + overdue, not below 0, and 0 where the location ``is_enabled`` not.
    ``movements`` are the newest ones, the newest first.
    """

    sku: str
    location: str
    shard: int
    at_ms: int
    entry: str
    position: Position
    is_enabled: bool
    overdue: int
    available: int
    base: Base | None
    deltas: list[Delta]
    other: int
    claims: list[ClaimOn]
    movements: list[PositionMovement]


class Unexplained(Struct, frozen=True):
    """The journal knows nothing of the position by then: where it begins, and where else it knows the SKU."""

    shard: int
    at_ms: int
    begins_at_ms: int | None
    locations: list[str]


@dataclass
class _Story:
    """What the entries so far tell of one position."""

    sku: str
    location: str
    movements: deque[PositionMovement]
    entry: Place | None = None
    position: Position | None = None
    is_enabled: bool = True
    reservations: dict[str, Reservation] = field(default_factory=dict)
    window: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, tuple[str, str]] = field(default_factory=dict)
    locations: set[str] = field(default_factory=set)

    def take(self, entry: JournalEntry) -> None:
        place = Place(entry.epoch, entry.seq)
        for operation in entry.operations:
            self._take_operation(operation)
            for move in operation.movements:
                if (move.sku, move.location) == (self.sku, self.location):
                    source = self.sources.get(move.event or "", (None,))[0]
                    self.movements.append(
                        PositionMovement(
                            *(entry.at_ms, str(place), operation.verb, move.from_bucket, move.to_bucket, move.quantity),
                            *(move.reason, operation.subject, self._name(move.event), source, operation.client),
                        )
                    )
        for after in entry.positions:
            if after.sku == self.sku:
                self.locations.add(after.location)
                if after.location == self.location:
                    self.position, self.entry = after.position, place
        name = f"feed:{escaped(self.sku)}:{escaped(self.location)}"
        for key in entry.keys:
            if key.key == name:
                self.window.update((field_, msgspec.msgpack.decode(packed)) for field_, packed in key.fields.items())
                for field_ in key.gone:
                    self.window.pop(field_, None)

    def _name(self, event: str | None) -> str | None:
        """The event's own id, where its source told one."""
        return self.sources[event][1] if event in self.sources else event

    def _take_operation(self, operation: JournalOperation) -> None:
        verb, subject = operation.verb, operation.subject
        if verb in LEAVING:
            reservation = decode_reservation(operation.body)
            if any(self._claimed(line) for line in reservation.lines):
                self.reservations[subject] = reservation
            else:
                self.reservations.pop(subject, None)
        elif verb == "drop":
            self.reservations.pop(subject, None)
        elif verb == "apply" and subject == f"{self.sku}@{self.location}":
            event = _decode_event(operation.body)
            self.sources[event.key] = event.source, event.id
        elif verb in ("put_location", "restore_location") and subject == self.location:
            self.is_enabled = _decode_location(operation.body).enabled

    def _claimed(self, line: Any) -> int:
        is_here = (line.sku, line.location) == (self.sku, self.location)
        return line.held + line.committed + line.picked if is_here else 0

    def explained(self, shard: int, at_ms: int) -> Explanation:
        position = self.position
        assert position is not None
        base, deltas = parts_of(self.window, self.sources)
        claims = [self._claim(id_, reservation, at_ms) for id_, reservation in self.reservations.items()]
        overdue = sum(claim.held for claim in claims if claim.is_overdue)
        return Explanation(
            sku=self.sku,
            location=self.location,
            shard=shard,
            at_ms=at_ms,
            entry=str(self.entry),
            position=position,
            is_enabled=self.is_enabled,
            overdue=overdue,
            available=max(0, position.available + overdue) if self.is_enabled else 0,
            base=base,
            deltas=deltas,
            other=position.on_hand - (base.quantity if base else 0) - sum(delta.quantity for delta in deltas),
            claims=claims,
            movements=list(reversed(self.movements)),
        )

    def _claim(self, id_: str, reservation: Reservation, at_ms: int) -> ClaimOn:
        here = [line for line in reservation.lines if self._claimed(line)]
        held, committed, picked = (sum(getattr(line, state) for line in here) for state in _CLAIMS)
        ends_ms = max(reservation.expires_at_ms, reservation.span.pinned_until_ms if reservation.span else 0)
        return ClaimOn(
            *(id_, reservation.client, reservation.order_id, ends_ms, held, committed, picked),
            is_overdue=held > 0 and ends_ms <= at_ms,
        )


_CLAIMS: Final = ("held", "committed", "picked")


async def explain(
    postgres_url: str,
    shards: int,
    sku: str,
    location: str,
    *,
    at_ms: int | None = None,
    movements_max: int = 10,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Explanation | Unexplained:
    """The position at ``at_ms``, None: now. ``shards`` is their number where the journal does not tell it.

    Raises one of ``JOURNAL_FAILED``, or ``Unreadable`` at an entry that cannot be decoded.
    """
    pool = await open_pool(postgres_url, size=1)
    try:
        return await _explain(pool, shards, _Story(sku, location, deque(maxlen=movements_max)), at_ms, progress)
    finally:
        pool.terminate()


async def _explain(
    pool: asyncpg.Pool, shards: int, story: _Story, at_ms: int | None, progress: Callable[[int, int], None]
) -> Explanation | Unexplained:
    epoch, shards = await _epoch_at(pool, at_ms, shards)
    shard = shard_of(story.sku, shards)
    last_ms = 0
    async for place, body in _naming(pool, shard, epoch, story, at_ms, progress):
        entry = records.decode(place, body)
        last_ms = entry.at_ms
        story.take(entry)
    then_ms = max(now_ms(), last_ms) if at_ms is None else at_ms
    if story.position is None:
        begins_at_ms = await pool.fetchval(
            "select at_ms from availability.entry where shard = $1 order by epoch, seq limit 1", shard
        )
        return Unexplained(shard, then_ms, begins_at_ms, sorted(story.locations))
    return story.explained(shard, then_ms)


async def _epoch_at(pool: asyncpg.Pool, at_ms: int | None, shards: int) -> tuple[int, int]:
    """The generation of the ledger that was in force, and its number of shards."""
    epochs = await pool.fetch(_EPOCHS)
    if not epochs:
        return await pool.fetchval("select coalesce(max(epoch), 1) from availability.cursor"), shards
    # The first one is noted only when it is about to be followed by another.
    in_force = [row for row in epochs if at_ms is None or row["reason"] == "first" or row["completed_at_ms"] <= at_ms]
    row = in_force[-1] if in_force else epochs[0]
    return row["epoch"], row["shards"]


async def _naming(
    pool: asyncpg.Pool, shard: int, epoch: int, story: _Story, at_ms: int | None, progress: Callable[[int, int], None]
) -> AsyncIterator[tuple[Place, bytes]]:
    """The entries that name the SKU, or say of the location whether it is open."""
    pack = msgspec.msgpack.encode
    sought = [story.sku.encode()]
    if escaped(story.sku) != story.sku:
        sought.append(escaped(story.sku).encode())
    sought += [pack(verb) + pack(story.location) for verb in ("put_location", "restore_location")]
    last = await pool.fetchval(
        "select coalesce(max(seq), 0) from availability.entry where shard = $1 and epoch = $2", shard, epoch
    )
    until_ms = TIME_MS_MAX if at_ms is None else at_ms
    for after in range(0, last, SPAN_ENTRIES):
        rows = await pool.fetch(_NAMING, shard, epoch, after, after + SPAN_ENTRIES, until_ms, sought)
        for row in rows:
            yield Place(row["epoch"], row["seq"]), row["body"]
        progress(min(after + SPAN_ENTRIES, last), last)
