"""Owns the comparison of what a live shard says with an audit's books, both as of one place of the journal."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import asdict, replace

from ledger.differences import Difference, Kind, Numbers
from ledger.journal.books import Books, Claims, Spot, decode_location
from ledger.journal.fold import COUNT_KEPT_MS, is_live
from ledger.journal.key_digests import LOCATIONS, subject_of
from ledger.journal.records import Place
from ledger.messages import Position, Reservation
from ledger.operation_audit import OF_OPERATION

GRACE_MS: Final = 60_000
"""What is overdue is ended by the keeper within a second or two; what is older than this was not seen by any."""

Thing = Literal["sku", "key", "count", "op", "client"]
"""What is compared: by their keys, the positions of a SKU, a hash that no operation tells of (the window of a position,
the views of a SKU, …), the fingerprint of a count, a reservation, the counts of a client."""

KEY_KINDS: Final[dict[str, Kind]] = {
    "feed": "window-differs",
    "view": "view-differs",
    "locations": "location-differs",
    "safety_stock": "safety-stock-differs",
    "overcommitted": "overcommitted-differs",
}
NAMED_MAX: Final = 5

_decode_position = msgspec.msgpack.Decoder(Position).decode
_decode_reservation = msgspec.msgpack.Decoder(Reservation).decode
_decode_counts = msgspec.msgpack.Decoder(tuple[int, int]).decode
UNREADABLE: Final[Numbers] = {"unreadable": True}


class Told(NamedTuple):
    """What the ledger said of one thing at a place, and the ledger's clock then."""

    place: Place
    now_ms: int
    thing: Thing
    name: str
    found: Any


@dataclass
class Comparison:
    """Of one shard with its books, which stand at the place of what is compared, or before it."""

    shard: int
    books: Books

    def known(self, thing: Thing) -> Mapping[str, object]:
        """The things that the books have, by name."""
        by_thing: dict[Thing, Mapping[str, object]] = {
            "sku": self.books.skus,
            "key": self.books.keys.hashes,
            "count": self.books.keys.counts,
            "op": self.books.reservations,
            "client": self.books.clients,
        }
        return by_thing[thing]

    def differences(self, told: Told) -> list[Difference]:
        """Where the books say otherwise, or what was told is wrong by itself."""
        compare: dict[Thing, Callable[[Told], Iterator[Difference]]] = {
            "sku": self._positions,
            "key": self._key,
            "count": self._count,
            "op": self._reservation,
            "client": self._client,
        }
        return list(compare[told.thing](told))

    def is_newer(self, told: Told) -> bool:
        """Whether it is a reservation whose last operation the books cannot know yet."""
        record = _record(told.found) if told.thing == "op" else None
        return isinstance(record, Reservation) and self.books.place < Place(record.epoch, record.seq) <= told.place

    def _positions(self, told: Told) -> Iterator[Difference]:
        spots: Mapping[str, Spot] = self.books.skus.get(told.name, {})
        for location in sorted(told.found.keys() | spots.keys()):
            spot, packed = spots.get(location), told.found.get(location)
            subject = f"{told.name}@{location}"
            journal = spot.position if spot else None
            live = _decoded(_decode_position, packed)
            if live != journal and self.books.scope != "claims":
                kind: Kind = "position-differs" if live and journal else "position-lost"
                if journal is None:
                    kind = "position-unjournaled"
                claims = {"claimed by reservations": sum(spot.claims)} if spot and self.books.scope == "all" else {}
                yield self._difference(kind, told, subject, *_unlike(live, journal, claims))
            if spot and self.books.scope != "stock" and (there := _claims_of(journal)) != spot.claims:
                yield self._difference("claims-unbalanced", told, subject, there._asdict(), spot.claims._asdict())

    def _reservation(self, told: Told) -> Iterator[Difference]:
        body = self.books.reservations.get(told.name)
        live: Reservation | Numbers | None
        if told.found is not None and told.found == body:
            live = _decode_reservation(told.found)
        else:
            live = _record(told.found)
            yield from self._otherwise(told, live, _decode_reservation(body) if body is not None else None)
        if isinstance(live, Reservation):
            yield from self._late(told, live)

    def _otherwise(
        self, told: Told, live: Reservation | Numbers | None, journal: Reservation | None
    ) -> Iterator[Difference]:
        if isinstance(live, dict):
            yield self._difference("reservation-differs", told, told.name, live, _shown(journal))
        elif journal is None:
            if live is not None and is_live(live):
                yield self._difference("reservation-unjournaled", told, told.name, _shown(live), None)
        elif live is None:
            yield self._difference("claim-without-reservation", told, told.name, None, _shown(journal))
        elif _unpinned(live) != _unpinned(journal):
            there, wanted = _unlike(_unpinned(live), _unpinned(journal), {})
            yield self._difference("reservation-differs", told, told.name, there, wanted)

    def is_late(self, told: Told) -> bool:
        """Whether a reservation, as it was read again, is still not what it should long be."""
        live = _record(told.found)
        return isinstance(live, Reservation) and any(self._late(told, live))

    def _late(self, told: Told, live: Reservation) -> Iterator[Difference]:
        span = live.span
        latest_ms = told.now_ms - GRACE_MS
        if span and (not span.sealed or span.token or span.intent) and span.pinned_until_ms < latest_ms:
            left = {"sealed": span.sealed, "pinned_until_ms": span.pinned_until_ms, "intent": span.intent}
            yield self._difference("spanning-leftover", told, told.name, left, None)
        elif live.expires_at_ms < latest_ms and (held := sum(line.held for line in live.lines)):
            overdue = {"held": held, "expires_at_ms": live.expires_at_ms, "now_ms": told.now_ms}
            yield self._difference("hold-overdue", told, told.name, overdue, None)

    def _key(self, told: Told) -> Iterator[Difference]:
        found: Mapping[str, Any] = told.found
        if told.name == LOCATIONS:
            found = {name: _decoded(decode_location, packed) for name, packed in found.items()}
        unlike = self.books.keys.unlike(told.name, {name: _hashable(value) for name, value in found.items()})
        if unlike is not None:
            shown = {
                name: texts[:NAMED_MAX]
                for name, texts in (("changed", unlike.changed), ("not in the journal", unlike.unknown))
                if texts
            }
            live: Numbers = {"fields": unlike.there, **shown}
            journal: Numbers = {"fields": unlike.known, "not in the ledger": unlike.lost}
            kind = KEY_KINDS[told.name.partition(":")[0]]
            yield self._difference(kind, told, subject_of(told.name), live, journal)

    def _count(self, told: Told) -> Iterator[Difference]:
        taken = self.books.keys.counts.get(told.name)
        if taken is None:
            return  # it was forgotten since
        if told.found is None and taken[0] > told.now_ms - COUNT_KEPT_MS + GRACE_MS:
            yield self._difference("count-differs", told, told.name, None, {"taken_at_ms": taken[0]})
        elif told.found is not None and not self.books.keys.is_fingerprint(told.name, _text(told.found)):
            there = {"fingerprint": _text(told.found)}
            yield self._difference("count-differs", told, told.name, there, {"taken_at_ms": taken[0]})

    def _client(self, told: Told) -> Iterator[Difference]:
        live, journal = _decoded(_decode_counts, told.found), self.books.clients.get(told.name)
        if live != journal:
            yield self._difference("client-differs", told, told.name, _counts(live), _counts(journal))

    def _difference(
        self, kind: Kind, told: Told, subject: str, live: Numbers | None, journal: Numbers | None
    ) -> Difference:
        return Difference(kind, self.shard, subject, str(told.place), live, journal)


def _decoded(decode: Callable[[bytes], Any], packed: bytes | None) -> Any:
    """What is packed; ``UNREADABLE`` when somebody else's bytes stand there."""
    if packed is None:
        return None
    try:
        return decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return UNREADABLE


def _hashable(value: Any) -> Any:
    return None if isinstance(value, dict) else value


def _text(packed: bytes) -> str:
    return packed.decode("utf-8", "replace")


def _record(packed: bytes | None) -> Reservation | Numbers | None:
    """The reservation of a record; None where there is none or it is another operation's."""
    if packed is None or packed.startswith(OF_OPERATION):
        return None
    try:
        return _decode_reservation(packed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return UNREADABLE


def _claims_of(position: Position | None) -> Claims:
    return Claims(position.held, position.committed, position.picked) if position else Claims()


def _unpinned(reservation: Reservation) -> Reservation:
    """Without what passes in seconds, which no entry tells of."""
    if reservation.span is None:
        return reservation
    return replace(reservation, span=replace(reservation.span, token="", intent="", pinned_until_ms=0))


def _unlike(live: Any, journal: Any, more: Numbers) -> tuple[Numbers | None, Numbers | None]:
    """Of two records of a kind what is not the same in both, and with the second ``more`` of what the books know."""
    if live is None or journal is None or isinstance(live, dict):
        return _shown(live), _shown(journal)
    there, wanted = _shown(live) or {}, _shown(journal) or {}
    names = [name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name)]
    return {name: there.get(name) for name in sorted(names)}, {
        **{name: wanted.get(name) for name in sorted(names)},
        **more,
    }


def _shown(record: Any) -> Numbers | None:
    """A record's fields by name; of a reservation each line by its number."""
    if record is None or isinstance(record, dict):
        return record
    fields = asdict(record)
    if isinstance(record, Reservation):
        del fields["lines"]
        fields["span"] = record.span and asdict(record.span)
        fields |= {f"line {number}": asdict(line) for number, line in zip(record.numbers, record.lines, strict=False)}
    return fields


def _counts(counts: Any) -> Numbers | None:
    return dict(zip(("open", "held"), counts, strict=True)) if isinstance(counts, tuple) else counts
