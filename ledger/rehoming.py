"""Which shard has what when their number changes: the folds of all old shards, given out to the new ones."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from ledger import messages as m
from ledger.claims import Place, merged
from ledger.journal.fold import COUNT, Fold, is_live
from ledger.keys import shard_of, unescaped

RESERVATIONS_IN_PORTION = 200
POSITIONS_IN_PORTION = 500
FIELDS_IN_PORTION = 1_000
"""What is put back in one call: some milliseconds of the server's time, about a hundred kilobytes."""
REHOMED = "?"
"""Before the fingerprint of a count that was taken with another number of shards (``lua/prelude.lua``)."""

Thing = TypeVar("Thing")


class Rehoming:
    """What each of ``shards`` new shards gets of the folds of the old ones, which are as of one time.

    ``torn`` counts reservations over several shards of which a change was done on some shards only. A hold that was
    never sealed on any shard, or whose parts are not all there, was never answered: nothing of it is given out.
    """

    def __init__(self, folds: Sequence[Fold], shards: int) -> None:
        self._folds = folds
        self._shards = shards
        self._same = shards == len(folds)
        self.torn = 0
        self.reservations = 0
        self._ids: list[list[str]] = [[] for _ in range(shards)]
        for id_ in dict.fromkeys(id_ for fold in folds for id_ in fold.reservations):
            parts = self._parts(id_)
            if (whole := _whole(parts)) is not None:
                self.reservations += 1
                self.torn += len({tuple(part.operations) for part in parts.values()}) > 1
                for shard in self._shards_of(whole):
                    self._ids[shard].append(id_)

    @property
    def weight(self) -> int:
        """About how much there is to put back, in the measure of ``weight_of``."""
        positions = sum(len(fold.positions) for fold in self._folds)
        keys = sum(len(fold.hashes) for fold in self._folds)
        return positions + keys + sum(map(len, self._ids))

    @staticmethod
    def weight_of(portion: m.Restore) -> int:
        return len(portion.positions) + len(portion.reservations) + len(portion.keys)

    def portions(self, shard: int) -> Iterator[m.Restore]:
        """All that a new shard gets, in the order in which it must be put back."""
        locations = {id_: location for fold in self._folds for id_, location in fold.locations.items()}
        yield m.Restore(list(locations.values()), [], [], [])
        positions = ((place, position) for place, position in self._positions() if self._is_home(place.sku, shard))
        for some in _in_portions(positions, POSITIONS_IN_PORTION):
            yield m.Restore([], [m.PositionAfter(*place, position) for place, position in some], [], [])
        for ids in _in_portions(self._ids[shard], RESERVATIONS_IN_PORTION):
            yield m.Restore([], [], [self.kept(id_, shard) for id_ in ids], [])
        for keys in _in_portions(self._keys(shard), FIELDS_IN_PORTION, lambda key: len(key.fields)):
            yield m.Restore([], [], [], keys)

    def kept(self, id_: str, shard: int) -> m.KeptReservation:
        """A new shard's part of a reservation, or all of it where it takes no other, and the operations on it."""
        parts = self._parts(id_)
        whole = _whole(parts)
        assert whole is not None
        shards = self._shards_of(whole)
        if len(shards) > 1:
            numbers = [i for i, line in enumerate(whole.lines, 1) if shard_of(line.sku, self._shards) == shard]
            span = m.Span(shards, numbers, sealed=True, token="", intent="", pinned_until_ms=0)
            part = replace(whole, lines=[whole.lines[number - 1] for number in numbers], span=span)
        else:
            part = whole
        known = {
            name: fold.operations[name] for fold in self._folds for name in whole.operations if name in fold.operations
        }
        return m.KeptReservation(id_, part, list(known.values()), ended=not is_live(whole))

    def expected(self, shard: int) -> tuple[dict[Place, m.Position], int]:
        """The positions of a new shard once all is put back, and how many reservations and operations it knows."""
        claims: dict[Place, Counter[str]] = {}
        records = 0
        for id_ in self._ids[shard]:
            kept = self.kept(id_, shard)
            records += 1 + len(kept.operations)
            for line in kept.reservation.lines:
                units = claims.setdefault(Place(line.sku, line.location), Counter())
                units.update(held=line.held, committed=line.committed, picked=line.picked)
        none: Counter[str] = Counter()
        return {
            place: replace(
                position, **{state: claims.get(place, none)[state] for state in ("held", "committed", "picked")}
            )
            for place, position in self._positions()
            if self._is_home(place.sku, shard)
        }, records

    def _is_home(self, sku: str, shard: int) -> bool:
        return shard_of(sku, self._shards) == shard

    def _positions(self) -> Iterator[tuple[Place, m.Position]]:
        for fold in self._folds:
            yield from fold.positions.items()

    def _parts(self, id_: str) -> dict[int, m.Reservation]:
        return {
            shard: fold.reservations[id_].reservation
            for shard, fold in enumerate(self._folds)
            if id_ in fold.reservations
        }

    def _shards_of(self, whole: m.Reservation) -> list[int]:
        return sorted({shard_of(line.sku, self._shards) for line in whole.lines})

    def _keys(self, shard: int) -> Iterator[m.KeyAfter]:
        for old, fold in enumerate(self._folds):
            for key, fields in fold.hashes.items():
                here = {name: value for name, value in fields.items() if self._is_home(_sku_of(key, name), shard)}
                if here:
                    yield m.KeyAfter(key, {name: msgspec.Raw(value) for name, value in here.items()}, [])
            for key, (_, fingerprint) in fold.counts.items():
                home, told = self._home_of_count(old, key, fingerprint)
                if home == shard:
                    yield m.KeyAfter(key, {"": msgspec.Raw(msgspec.msgpack.encode(told))}, [])

    def _home_of_count(self, old: int, key: str, fingerprint: str) -> tuple[int | None, str]:
        """Where a count's fingerprint belongs, and as what; its further portions would be others now."""
        if self._same:
            return old, fingerprint
        *names, portion = key.removeprefix(COUNT).split(":")
        if portion != "0":
            return None, fingerprint
        return shard_of(" ".join(map(unescaped, names)), self._shards), REHOMED + fingerprint.removeprefix(REHOMED)


def _sku_of(key: str, name: str) -> str:
    """The SKU that a field of a hash is about: named in the key or, in a hash of the whole shard, in the field."""
    _, named, rest = key.partition(":")
    return unescaped((rest if named else name).split(":")[0])


def _whole(parts: dict[int, m.Reservation]) -> m.Reservation | None:
    """The reservation of which these are the parts; None when it was never answered as held."""
    spans = [part.span for part in parts.values() if part.span]
    if spans and (set(spans[0].shards) != set(parts) or not any(span.sealed for span in spans)):
        return None
    operations = list(dict.fromkeys(name for part in parts.values() for name in part.operations))
    # Where a change, or its seal, was done on some shards only, what was done counts.
    return replace(
        merged(parts),
        operations=operations,
        expires_at_ms=max(part.expires_at_ms for part in parts.values()),
        order_id=next((part.order_id for part in parts.values() if part.order_id), None),
    )


def _in_portions(
    things: Iterable[Thing], size: int, weight: Callable[[Thing], int] = lambda _thing: 1
) -> Iterator[list[Thing]]:
    """Lists of things of about ``size`` together."""
    portion: list[Thing] = []
    total = 0
    for thing in things:
        portion.append(thing)
        total += weight(thing)
        if total >= size:
            yield portion
            portion, total = [], 0
    if portion:
        yield portion
