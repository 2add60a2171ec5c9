"""Owns what the replay knows before it asks the service anything: baskets, stock, and who gets what. No I/O.

``Books`` is the independent bookkeeper: it decides from the data alone what each store can sell, and the service is
held to it afterwards.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

DAY_MS = 24 * 3_600_000
LINES_MAX = 100
"""Lines in one reservation; a basket with more becomes several."""
SHORT_ONE_IN = 200
"""One position in so many opens with half of what will be asked of it, so that some buyers are refused ..."""
SPARE_MAX = 4
"""... and all others with what will be asked and 0 to so many more."""

FUEL = "fuel: sold by volume, not in whole units"
AMOUNT = "miscellaneous: above 100 it is an amount, not units"
COUNTED_QUANTITY_MAX = 100


class Line(NamedTuple):
    """``refused`` tells why the replay does not even ask for it."""

    sku: str
    quantity: int
    refused: str | None = None


class Basket(NamedTuple):
    """What a household bought at a store at one moment; no SKU twice."""

    number: int
    store: int
    household: int
    at_ms: int
    lines: list[Line]

    @property
    def day(self) -> int:
        """Counted since 1970, in UTC."""
        return self.at_ms // DAY_MS

    @property
    def asked(self) -> list[Line]:
        """The lines that the service is asked for; those of quantity 0 are among them, and it must refuse them."""
        return [line for line in self.lines if line.refused is None]


class Place(NamedTuple):
    store: int
    sku: str


class Short(NamedTuple):
    """A line, counted from 1, of which there is not enough."""

    line: int
    available: int


def why_not(department: str, quantity: int) -> str | None:
    """The reason not to ask for a line: its quantity does not count units."""
    if department == "FUEL":
        return FUEL
    return AMOUNT if department == "MISCELLANEOUS" and quantity > COUNTED_QUANTITY_MAX else None


def opening_counts(baskets: Iterable[Basket]) -> dict[Place, int]:
    """What each position that appears has before the first basket; the same for the same baskets."""
    asked: Counter[Place] = Counter()
    for basket in baskets:
        for line in basket.asked:
            asked[Place(basket.store, line.sku)] += line.quantity
    return {place: _opening(place, quantity) for place, quantity in asked.items()}


def _opening(place: Place, asked: int) -> int:
    chance = zlib.crc32(f"{place.store}:{place.sku}".encode())
    if chance % SHORT_ONE_IN == 0:
        return asked // 2
    return asked + chance // SHORT_ONE_IN % (SPARE_MAX + 1)


def reservations_of(basket: Basket) -> list[list[Line]]:
    """The basket's lines as one reservation, or as several when there are too many."""
    asked = basket.asked
    return [asked[start : start + LINES_MAX] for start in range(0, len(asked), LINES_MAX)]


@dataclass
class Books:
    """Opening counts minus what was sold."""

    opening: dict[Place, int]
    sold: Counter[Place] = field(default_factory=Counter)
    moved: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The SKUs that buyers wanted from each store since its last recount."""

    def left(self, place: Place) -> int:
        return self.opening[place] - self.sold[place]

    def sell(self, store: int, lines: list[Line]) -> list[Short]:
        """Sell all of the lines, each of at least one unit, or none; those that fall short."""
        places = [Place(store, line.sku) for line in lines]
        self.moved[store].update(line.sku for line in lines)
        short = [
            Short(number, self.left(place))
            for number, (place, line) in enumerate(zip(places, lines, strict=True), 1)
            if self.left(place) < line.quantity
        ]
        if not short:
            for place, line in zip(places, lines, strict=True):
                self.sold[place] += line.quantity
        return short

    def recount(self, store: int) -> dict[str, int]:
        """What is truly there now of each SKU that was wanted since the last recount."""
        moved = sorted(self.moved.pop(store, set()))
        return {sku: self.left(Place(store, sku)) for sku in moved}
