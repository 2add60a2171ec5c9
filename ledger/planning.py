"""Which positions give how much to which line of a hold: the choice of locations, and what falls short."""

from collections import Counter
from collections.abc import Mapping
from math import cos, inf, radians
from typing import NamedTuple, Protocol

from ledger import messages as m
from ledger.claims import Place


class Part(NamedTuple):
    """A share of a line, from one place."""

    place: Place
    quantity: int


class Plan(NamedTuple):
    """The parts of each line (by index; a line that gets nothing is missing), and the lines that fall short."""

    parts: dict[int, list[Part]]
    short: list[m.ShortLine]

    @property
    def quantity(self) -> int:
        """All units that are granted."""
        return sum(part.quantity for parts in self.parts.values() for part in parts)

    @property
    def grants_nothing(self) -> bool:
        return self.quantity == 0

    def lines_of(self, index: int, asked: m.HoldLine) -> list[tuple[Part, int]]:
        """The lines that a line of the request becomes: the part granted, and how many were asked for."""
        parts = self.parts.get(index) or [Part(Place(asked.sku, asked.location or ""), 0)]
        missing = asked.quantity - sum(part.quantity for part in parts)
        # What was asked for and not granted stays visible, on the last part.
        return [*((part, part.quantity) for part in parts[:-1]), (parts[-1], parts[-1].quantity + missing)]


class Shelf(Protocol):
    """The stock to plan with."""

    low_stock: int

    @property
    def locations(self) -> Mapping[str, m.Location]: ...

    def is_known(self, sku: str) -> bool:
        """Whether the SKU was ever counted, anywhere."""

    def places(self, sku: str) -> list[Place]:
        """Where the SKU has a position and can be sold from, overdue holds there ended."""

    def position(self, place: Place) -> m.Position: ...

    def left(self, place: Place) -> int:
        """What can still be promised there, never below 0; nothing at a closed location."""


def unknown_in(hold: m.Hold, shelf: Shelf) -> m.UnknownLocation | m.UnknownSku | None:
    """A line that names something the ledger never heard of, as a refusal."""
    for number, asked in enumerate(hold.lines, 1):
        if asked.location is not None and asked.location not in shelf.locations:
            return m.UnknownLocation(number, asked.location)
        if not shelf.is_known(asked.sku):
            return m.UnknownSku(number, asked.sku)
    return None


def plan_of(hold: m.Hold, shelf: Shelf) -> Plan:
    """What each line gets, lines with a location first. Changes nothing."""
    return _Planner(hold, shelf).plan()


def stock_status(shelf: Shelf, left: int, held: int) -> m.StockStatus:
    """How a place with this much left is called to a buyer who wanted more."""
    if left > 0:
        return "low" if left <= shelf.low_stock else "in_stock"
    return "held_out" if held > 0 else "sold_out"


class _Planner:
    """One hold's plan in the making; ``taken`` is what its lines have set aside so far."""

    def __init__(self, hold: m.Hold, shelf: Shelf) -> None:
        self._hold = hold
        self._shelf = shelf
        self._taken: Counter[Place] = Counter()
        self._parts: dict[int, list[Part]] = {}
        self._short: list[m.ShortLine] = []

    def plan(self) -> Plan:
        sourced = {}
        for index, asked in enumerate(self._hold.lines):
            if asked.location is None:
                sourced[index] = self._candidates(asked.sku)
            else:
                place = Place(asked.sku, asked.location)
                self._grant(index, [Part(place, min(asked.quantity, self._left(place)))], [place])
        location = self._one_location(sourced)
        for index, places in sourced.items():
            asked = self._hold.lines[index]
            if location is not None:
                self._grant(index, [Part(Place(asked.sku, location), asked.quantity)], places)
            else:
                self._grant(index, self._shares(asked.quantity, places), places)
        return Plan(self._parts, sorted(self._short, key=lambda line: line.line))

    def _left(self, place: Place) -> int:
        return max(0, self._shelf.left(place) - self._taken[place])

    def _grant(self, index: int, shares: list[Part], places: list[Place]) -> None:
        """Sets the shares aside, unless they fall short of a line that wants all or nothing."""
        asked = self._hold.lines[index]
        total = sum(share.quantity for share in shares)
        if total < asked.quantity:
            status = stock_status(self._shelf, total, sum(self._shelf.position(place).held for place in places))
            self._short.append(m.ShortLine(index + 1, asked.sku, asked.location, asked.quantity, total, status))
        if total and (total == asked.quantity or self._hold.mode == "available"):
            self._parts[index] = shares
            self._taken.update({share.place: share.quantity for share in shares})

    def _candidates(self, sku: str) -> list[Place]:
        """Where a line without a location may come from, best first."""
        hold, shelf = self._hold, self._shelf

        def rank(place: Place) -> tuple[float, int, str]:
            location = shelf.locations[place.location]
            first: float = 0
            if hold.strategy in ("most_stock", "fewest_splits"):
                first = -shelf.position(place).available
            elif hold.strategy == "nearest":
                first = _distance(location, hold.near)
            return first, location.priority, location.id

        return sorted(shelf.places(sku), key=rank)

    def _one_location(self, sourced: dict[int, list[Place]]) -> str | None:
        """The first location that can give every line without a location, whole."""
        for first in next(iter(sourced.values()), []):
            need: Counter[Place] = Counter()
            for index in sourced:
                need[Place(self._hold.lines[index].sku, first.location)] += self._hold.lines[index].quantity
            has = {place for index in sourced for place in sourced[index]}
            if all(place in has and self._left(place) >= quantity for place, quantity in need.items()):
                return first.location
        return None

    def _shares(self, quantity: int, places: list[Place]) -> list[Part]:
        """A line whole from one place if possible, else from several.

        They go as the order says, or the largest first where the limit would make the order fall short.
        """
        lefts = [Part(place, self._left(place)) for place in places]
        for part in lefts:
            if part.quantity >= quantity:
                return [Part(part.place, quantity)]
        lefts = [part for part in lefts if part.quantity]
        count = len(lefts) if self._hold.max_splits is None else self._hold.max_splits + 1
        if sum(part.quantity for part in lefts[:count]) < quantity:
            lefts.sort(key=lambda part: -part.quantity)
        shares = []
        for part in lefts[:count]:
            share = min(quantity, part.quantity)
            quantity -= share
            if share:
                shares.append(Part(part.place, share))
        return shares


def _distance(location: m.Location, near: tuple[float, float] | None) -> float:
    """Equirectangular: good enough to rank the nodes of one country; unknown coordinates come last."""
    if location.lat is None or location.lon is None or near is None:
        return inf
    x = radians(location.lon - near[1]) * cos(radians((location.lat + near[0]) / 2))
    return x * x + radians(location.lat - near[0]) ** 2
