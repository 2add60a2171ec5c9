"""Owns the books of an audit: a shard's entries folded to what lives, and whether each entry's movements add up.

Less than ``Fold`` keeps, which makes a ledger again: of positions their numbers, of reservations only those with
claims, of clients what they have open, of windows and the like a digest of each field. So it is never more than the
live shard's positions and claims: about 300 bytes a position, 700 a live reservation, 16 an event of a window.
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from ledger.journal import records
from ledger.journal.fold import LEAVING, Fold, is_live
from ledger.journal.key_digests import LOCATIONS, KeyDigests
from ledger.journal.records import START, Place
from ledger.messages import (
    JournalEntry,
    JournalOperation,
    KeyAfter,
    Location,
    Movement,
    Position,
    PositionAfter,
    Record,
    Reservation,
)

BUCKETS: Final = ("on_hand", "held", "committed", "picked", "damaged", "quality_hold", "in_transit")
"""What movements move units between, in the order of the numbers here."""
PLACING: Final = ("put_location", "restore_location")
_AT: Final = {name: number for number, name in enumerate(BUCKETS)}
_ON_HAND: Final = 0

Scope = Literal["all", "stock", "claims"]
"""What books are of: ``stock`` is positions, windows and the like, for which entries need hardly be read; ``claims`` is
reservations and clients, and that movements add up, for which they must be."""


class SkimmedEntry(Record, frozen=True):
    """A ``JournalEntry`` as the books of ``stock`` read it: what it leaves out is nearly all of the work."""

    epoch: int
    seq: int
    at_ms: int
    operations: msgspec.Raw
    positions: list[PositionAfter]
    keys: list[KeyAfter] = msgspec.field(default_factory=list)


_SKIMMED: Final = msgspec.msgpack.Decoder(SkimmedEntry)


def skim(place: Place, body: bytes) -> SkimmedEntry:
    """The entry in ``body``; ``Unreadable`` when there is none, or one that names another place."""
    return records.decode_as(_SKIMMED, place, body)


decode_reservation = msgspec.msgpack.Decoder(Reservation).decode
decode_location = msgspec.msgpack.Decoder(Location).decode


class Claims(NamedTuple):
    """Units that reservations claim at a position."""

    held: int = 0
    committed: int = 0
    picked: int = 0


class Unbalanced(NamedTuple):
    """A position after an entry (None: the entry tells nothing of it), and the numbers that its movements lead to."""

    sku: str
    location: str
    said: dict[str, int] | None
    moved: dict[str, int]


class Spot:
    """One position of the books: its numbers as the last entry left them, and what reservations claim there."""

    __slots__ = ("committed", "held", "is_proved", "picked", "position")

    def __init__(self) -> None:
        self.position: Position | None = None
        self.held = self.committed = self.picked = 0
        self.is_proved = True

    @property
    def claims(self) -> Claims:
        return Claims(self.held, self.committed, self.picked)


class Books:
    """What a shard must have after the entries of its epoch up to ``place``, as far as the ``scope`` goes."""

    def __init__(self, scope: Scope = "all") -> None:
        self.scope = scope
        self.place = START
        self.keys = KeyDigests()
        """Of windows, views, counts and the like; in the scope ``claims`` of locations alone, which operations tell."""
        self._clear()

    def _clear(self) -> None:
        self.keys.clear()
        self.skus: dict[str, dict[str, Spot]] = {}
        self.reservations: dict[str, bytes] = {}
        """Those with claims, packed."""
        self.clients: dict[str, tuple[int, int]] = {}
        """Open reservations and held units of those that have any."""

    def take(self, entry: JournalEntry) -> list[Unbalanced]:
        """Goes on by one entry; where its movements do not lead from the positions before it to those after it."""
        self._come_to(Place(entry.epoch, entry.seq))
        if self.scope == "all":
            self.keys.take(entry)
        moved: dict[tuple[str, str], list[int]] = {}
        for operation in entry.operations:
            for movement in operation.movements:
                _move(moved, movement)
            if operation.verb in LEAVING:
                self._take_reservation(operation)
            elif operation.verb == "drop":
                self._claim(operation.subject, None)
            elif operation.verb in PLACING:
                self.keys.put(LOCATIONS, operation.subject, decode_location(operation.body))
        return list(self._take_positions(entry, moved))

    def take_stock(self, entry: SkimmedEntry) -> None:
        """Goes on by one entry, in the scope ``stock``."""
        self._come_to(Place(entry.epoch, entry.seq))
        self.keys.take(entry)
        for after in entry.positions:
            self.spot(after.sku, after.location).position = after.position

    def load(self, place: Place, fold: Fold) -> None:
        """Begin with what the entries up to ``place`` fold to."""
        self._clear()
        self.place = place
        self.keys.load(fold)
        for at, position in fold.positions.items():
            self.spot(*at).position = position
        for id_, packed in fold.reservations.items():
            reservation = packed.reservation
            if is_live(reservation):
                self._claim(id_, reservation, packed.body)
        for location, told in fold.locations.items():
            self.keys.put(LOCATIONS, location, told)

    def _come_to(self, place: Place) -> None:
        if place.epoch != self.place.epoch:
            self._clear()  # an epoch's entries begin with an empty ledger
        elif place.seq != self.place.seq + 1:
            self._doubt()
        self.place = place

    def _doubt(self) -> None:
        """Entries are missing: from which numbers the next one goes on is not known."""
        for spots in self.skus.values():
            for spot in spots.values():
                spot.is_proved = False

    def _take_positions(self, entry: JournalEntry, moved: dict[tuple[str, str], list[int]]) -> Iterator[Unbalanced]:
        for after in entry.positions:
            spot = self.spot(after.sku, after.location)
            before, spot.position = spot.position, after.position
            is_proved, spot.is_proved = spot.is_proved, True
            units = moved.pop((after.sku, after.location), None)
            said = _numbers(after.position)
            expected = _numbers(before) if before else _NOTHING
            if units is not None:
                expected = tuple(map(int.__add__, expected, units))
            if said != expected and is_proved:
                yield Unbalanced(after.sku, after.location, _named(said), _named(expected))
        for (sku, location), units in moved.items():
            if any(units):
                yield Unbalanced(sku, location, None, _named(units))

    def spot(self, sku: str, location: str) -> Spot:
        """The position, made when there was none."""
        spots = self.skus.get(sku)
        if spots is None:
            spots = self.skus[sku] = {}
        spot = spots.get(location)
        if spot is None:
            spot = spots[location] = Spot()
        return spot

    def _take_reservation(self, operation: JournalOperation) -> None:
        body = bytes(operation.body)
        reservation = decode_reservation(body)
        self._claim(operation.subject, reservation if is_live(reservation) else None, body)

    def _claim(self, id_: str, reservation: Reservation | None, body: bytes = b"") -> None:
        """The reservation claims what it says now, None: nothing, instead of what it claimed before."""
        before = self.reservations.pop(id_, None)
        if before is not None:
            self._count(decode_reservation(before), -1)
        if reservation is not None:
            self.reservations[id_] = body
            self._count(reservation, 1)

    def _count(self, reservation: Reservation, sign: int) -> None:
        all_held = 0
        for line in reservation.lines:
            if line.held or line.committed or line.picked:
                spot = self.spot(line.sku, line.location)
                spot.held += sign * line.held
                spot.committed += sign * line.committed
                spot.picked += sign * line.picked
                all_held += line.held
        opened, held = self.clients.pop(reservation.client, (0, 0))
        opened, held = opened + sign, held + sign * all_held
        if opened:
            self.clients[reservation.client] = opened, held


_NOTHING: Final = (0,) * len(BUCKETS)


def _numbers(position: Position) -> tuple[int, ...]:
    return (
        position.on_hand,
        position.held,
        position.committed,
        position.picked,
        position.damaged,
        position.quality_hold,
        position.in_transit,
    )


def _named(units: "tuple[int, ...] | list[int]") -> dict[str, int]:
    return dict(zip(BUCKETS, units, strict=True))


def _move(moved: dict[tuple[str, str], list[int]], movement: Movement) -> None:
    place = movement.sku, movement.location
    units = moved.get(place)
    if units is None:
        units = moved[place] = [0] * len(BUCKETS)
    leaves, arrives = _AT.get(movement.from_bucket), _AT.get(movement.to_bucket)
    if leaves is not None:
        units[leaves] -= movement.quantity
    if arrives is not None:
        units[arrives] += movement.quantity
    elif movement.to_bucket == "shipped":
        units[_ON_HAND] -= movement.quantity
