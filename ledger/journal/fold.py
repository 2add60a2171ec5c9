"""Owns the folding of a shard's journal: entry by entry into all that the live shard keeps, in bounded memory (P7)."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec

from ledger.claims import Place as At
from ledger.journal import records
from ledger.journal.records import Place
from ledger.messages import KeptOperation, KeyAfter, Location, Position, PositionAfter, Record, Reservation

READABLE_MS: Final = 24 * 3_600_000
"""How long an ended reservation can still be read (``lua/prelude.lua``)."""
COUNT_KEPT_MS: Final = 48 * 3_600_000
"""How long the fingerprint of a count is kept (``lua/prelude.lua``)."""
CLOCKS_APART_MS: Final = 60_000
"""How far the ledger's time, which entries tell, may be ahead of its server's, by which live keys go
(``server_clock.JUMP_MS``). So much later a fold forgets: what can still be changed live is still here."""
FORGOTTEN_AFTER_MS: Final = READABLE_MS + CLOCKS_APART_MS
COUNT: Final = "count:"

CHANGES: Final = frozenset({"extend", "commit", "release", "pick", "ship", "cancel", "return", "move"})
"""Verbs on a reservation whose own records answer their replays."""
LEAVING: Final = CHANGES | {"hold", "prepare", "expire", "reclaim", "restore"}
"""Verbs whose record after them is a reservation that stays."""

_RESERVATIONS: Final = msgspec.msgpack.Decoder(Reservation)
_LOCATIONS: Final = msgspec.msgpack.Decoder(Location)
_TEXTS: Final = msgspec.msgpack.Decoder(str)


class FoldedOperation(Record, frozen=True):
    """A ``JournalOperation`` as the fold reads it: what it leaves out is most of the work."""

    verb: str
    subject: str
    client: str
    operation_id: str
    fingerprint: str
    body: msgspec.Raw
    movements: msgspec.Raw


class FoldedEntry(Record, frozen=True):
    """A ``JournalEntry`` as the fold reads it."""

    epoch: int
    seq: int
    at_ms: int
    operations: list[FoldedOperation]
    positions: list[PositionAfter]
    keys: list[KeyAfter] = msgspec.field(default_factory=list)

    @property
    def movements(self) -> int:
        """How many there are."""
        return sum(_length(operation.movements) for operation in self.operations)


class Operation(Protocol):
    """What the fold wants of an operation."""

    @property
    def verb(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def client(self) -> str: ...
    @property
    def operation_id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def body(self) -> msgspec.Raw: ...


class Entry(Protocol):
    """What the fold wants of an entry: a ``JournalEntry`` has it, and a ``FoldedEntry``."""

    @property
    def at_ms(self) -> int: ...
    @property
    def operations(self) -> Iterable[Operation]: ...
    @property
    def positions(self) -> list[PositionAfter]: ...
    @property
    def keys(self) -> list[KeyAfter]: ...


_ENTRIES: Final = msgspec.msgpack.Decoder(FoldedEntry)


def read(place: Place, body: bytes) -> FoldedEntry:
    """The entry in ``body``; ``Unreadable`` when there is none, or one that names another place."""
    return records.decode_as(_ENTRIES, place, body)


class Packed(NamedTuple):
    """A reservation, or the shard's part of one, as its last operation left it; ``at_ms`` is when."""

    at_ms: int
    body: bytes

    @property
    def reservation(self) -> Reservation:
        return _RESERVATIONS.decode(self.body)


@dataclass
class Fold:
    """What one shard keeps after the entries taken so far, which begin with an epoch.

    A reservation is kept packed; one that has ended is forgotten, with its operations, when it could not be read any
    more, and so is a count. A part of one over several shards waits for the others: ``siblings`` are the folds of all
    shards, which must be taken forward side by side.
    """

    at_ms: int = 0
    positions: dict[At, Position] = field(default_factory=dict)
    locations: dict[str, Location] = field(default_factory=dict)
    reservations: dict[str, Packed] = field(default_factory=dict)
    operations: dict[str, KeptOperation] = field(default_factory=dict)
    """The records of the operations on reservations, by the operation's id."""
    hashes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """What no operation tells of, packed, by key and field: the windows of events."""
    counts: dict[str, tuple[int, str]] = field(default_factory=dict)
    """When each count was taken, and its fingerprint, by key; in the order of time."""
    ended: dict[str, int] = field(default_factory=dict)
    """When each reservation ended that has no live unit here, and is not yet to be forgotten; in the order of time."""
    siblings: "list[Fold]" = field(default_factory=list)

    def take(self, entry: Entry) -> None:
        """Goes on by one entry."""
        self.at_ms = max(self.at_ms, entry.at_ms)
        for operation in entry.operations:
            self._take_operation(operation)
        for after in entry.positions:
            self.positions[At(after.sku, after.location)] = after.position
        for key in entry.keys:
            if key.key.startswith(COUNT):
                self.counts.pop(key.key, None)
                self.counts[key.key] = entry.at_ms, _TEXTS.decode(key.fields[""])
                continue
            fields = self.hashes.setdefault(key.key, {})
            for name, value in key.fields.items():
                fields[name] = bytes(value)
            for name in key.gone:
                fields.pop(name, None)
        self._forget()

    def _take_operation(self, operation: Operation) -> None:
        subject = operation.subject
        if operation.verb in LEAVING:
            self._take_reservation(subject, bytes(operation.body))
            if operation.verb in CHANGES:
                self._remember(operation, operation.verb)
        elif operation.verb == "drop":
            self.drop(subject)
        elif operation.verb in ("put_location", "restore_location"):
            self.locations[subject] = _LOCATIONS.decode(operation.body)
        elif operation.verb == "restore_operation":
            self._remember(operation, _TEXTS.decode(operation.body))

    def _take_reservation(self, id_: str, body: bytes) -> None:
        packed = self.reservations[id_] = Packed(self.at_ms, body)
        self.ended.pop(id_, None)
        if not is_live(packed.reservation):
            self.ended[id_] = self.at_ms

    def _remember(self, operation: Operation, verb: str) -> None:
        id_ = operation.operation_id
        # Of verbs and clients there are few, and of operations many.
        verb, client = sys.intern(verb), sys.intern(operation.client)
        self.operations[id_] = KeptOperation(id_, verb, client, operation.fingerprint)

    def _forget(self) -> None:
        """Forgets what cannot be read any more."""
        for id_ in _older(self.ended.items(), self.at_ms - FORGOTTEN_AFTER_MS):
            del self.ended[id_]
            parts = [fold for fold in self.siblings or [self] if id_ in fold.reservations]
            # The part that ends last comes by here once more.
            if not any(fold.is_awaited(id_) for fold in parts):
                for fold in parts:
                    fold.drop(id_)
        taken = ((key, taken_ms) for key, (taken_ms, _) in self.counts.items())
        for key in _older(taken, self.at_ms - COUNT_KEPT_MS - CLOCKS_APART_MS):
            del self.counts[key]

    def is_awaited(self, id_: str) -> bool:
        """Whether the part is live, or ended less than a day ago."""
        return id_ in self.ended or is_live(self.reservations[id_].reservation)

    def drop(self, id_: str) -> None:
        self.ended.pop(id_, None)
        packed = self.reservations.pop(id_, None)
        for operation in packed.reservation.operations if packed else ():
            self.operations.pop(operation, None)

    def claims(self) -> dict[At, Counter[str]]:
        """The units of every position that reservations claim, by state: what the positions must say, too."""
        claimed: dict[At, Counter[str]] = {}
        for packed in self.reservations.values():
            for line in packed.reservation.lines:
                units = Counter(held=line.held, committed=line.committed, picked=line.picked)
                if +units:
                    claimed.setdefault(At(line.sku, line.location), Counter()).update(+units)
        return claimed


def is_live(reservation: Reservation) -> bool:
    """Whether any unit of it is held, committed or picked."""
    for line in reservation.lines:  # noqa: SIM110 any() takes twice as long, and this is asked of every operation
        if line.held or line.committed or line.picked:
            return True
    return False


def _older(things: Iterable[tuple[str, int]], before_ms: int) -> list[str]:
    """Those of things in the order of time that are from ``before_ms`` or earlier."""
    found = []
    for name, at_ms in things:
        if at_ms > before_ms:
            break
        found.append(name)
    return found


def _length(packed: msgspec.Raw) -> int:
    """How many a packed array has."""
    head = bytes(memoryview(packed)[:5])
    if head[0] < 0xA0:
        return head[0] & 0x0F
    return int.from_bytes(head[1:3] if head[0] == 0xDC else head[1:5], "big")
