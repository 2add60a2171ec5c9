"""Owns the answer to "why is it 7?": one position's number at any time, made of its parts, from the journal alone.

Only the entries are read that name the SKU (Postgres looks for its bytes in them), or put the location. What is kept is
the position's: its numbers, the reservations that claim it, its window of events, and the newest movements. The epoch
in force tells the first three by itself; those before it, what events are called and which movements were the last.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from msgspec import Struct

from ledger.journal import records
from ledger.journal.books import decode_reservation
from ledger.journal.fold import LEAVING
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
    """What the entries so far tell of one position; the epochs one after another."""

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
    is_first: bool = True
    """Nothing was taken of an epoch before this one, whose first entries put back what that one had come to."""

    def begin_epoch(self) -> None:
        """What follows tells again all that there is."""
        self.is_first = self.entry is None
        self.entry, self.position, self.is_enabled = None, None, True
        for known in (self.reservations, self.window, self.locations):
            known.clear()

    def take(self, entry: JournalEntry) -> None:
        place = Place(entry.epoch, entry.seq)
        for operation in entry.operations:
            self._take_operation(operation)
            told_before = operation.verb in _PUT_BACK and not self.is_first
            for move in () if told_before else operation.movements:
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
_PUT_BACK: Final = frozenset({"restore", "restore_stock"})
"""Verbs whose movements only bring a new epoch to where the one before it ended."""


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
    spans = [await _span(pool, *each, story.sku) for each in await _epochs_until(pool, at_ms, shards)]
    total = sum(span.last for span in spans)
    shard = spans[-1].shard
    done = last_ms = 0
    for span in spans:
        story.begin_epoch()
        async for place, body in _naming(pool, span, story, at_ms):
            if body is not None:
                entry = records.decode(place, body)
                last_ms = entry.at_ms
                story.take(entry)
            progress(done + place.seq, total)
        done += span.last
    then_ms = max(now_ms(), last_ms) if at_ms is None else at_ms
    if story.position is None:
        begins_at_ms = await pool.fetchval(
            "select at_ms from availability.entry where shard = $1 order by epoch, seq limit 1", shard
        )
        return Unexplained(shard, then_ms, begins_at_ms, sorted(story.locations))
    return story.explained(shard, then_ms)


class _Span(NamedTuple):
    """The entries of one shard's epoch."""

    shard: int
    epoch: int
    last: int


async def _epochs_until(pool: asyncpg.Pool, at_ms: int | None, shards: int) -> list[tuple[int, int]]:
    """The generations of the ledger, each with its number of shards; the last one was in force then."""
    epochs = await pool.fetch(_EPOCHS)
    if not epochs:
        return [(await pool.fetchval("select coalesce(max(epoch), 1) from availability.cursor"), shards)]
    # The first one is noted only when it is about to be followed by another.
    in_force = [row for row in epochs if at_ms is None or row["reason"] == "first" or row["completed_at_ms"] <= at_ms]
    return [(row["epoch"], row["shards"]) for row in in_force or epochs[:1]]


async def _span(pool: asyncpg.Pool, epoch: int, shards: int, sku: str) -> _Span:
    shard = shard_of(sku, shards)
    last = await pool.fetchval(
        "select coalesce(max(seq), 0) from availability.entry where shard = $1 and epoch = $2", shard, epoch
    )
    return _Span(shard, epoch, last)


async def _naming(
    pool: asyncpg.Pool, span: _Span, story: _Story, at_ms: int | None
) -> AsyncIterator[tuple[Place, bytes | None]]:
    """The entries that name the SKU, or say of the location whether it is open; now and then a place without one."""
    pack = msgspec.msgpack.encode
    sought = [story.sku.encode()]
    if escaped(story.sku) != story.sku:
        sought.append(escaped(story.sku).encode())
    sought += [pack(verb) + pack(story.location) for verb in ("put_location", "restore_location")]
    until_ms = TIME_MS_MAX if at_ms is None else at_ms
    for after in range(0, span.last, SPAN_ENTRIES):
        upto = min(after + SPAN_ENTRIES, span.last)
        for row in await pool.fetch(_NAMING, span.shard, span.epoch, after, upto, until_ms, sought):
            yield Place(row["epoch"], row["seq"]), row["body"]
        yield Place(span.epoch, upto), None
