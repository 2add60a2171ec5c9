"""Owns what the generators were told: each hold and what became of it, and what the service must therefore show."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bench import orders
from bench.opening import Position
from bench.orders import ENDING, HELD, NOT_DONE, REFUSED, UNKNOWN, Holds

STATUS: Final = {orders.NO_ENDING: "expired", orders.COMMITTED: "committed", orders.RELEASED: "released"}
"""What a reservation is in the end, by the ending that was acknowledged."""
UNSETTLED: Final = (orders.COMMIT_UNKNOWN, orders.RELEASE_UNKNOWN)


class Hold(NamedTuple):
    """One hold: ``key`` is its Idempotency-Key, ``client`` the position of its token."""

    key: str
    client: int
    process: int
    number: int
    identity: str | None
    state: int
    """Of the hold itself."""
    ending: int
    lines: Sequence[tuple[str, str, int]]

    @property
    def status(self) -> str:
        """What the service must show when its time is over."""
        return STATUS.get(self.ending, "expired")


@dataclass
class Account:
    """The holds of all processes, the first of which is number 1; ``name`` is the run's."""

    name: str
    clients: int
    told: list[Holds]

    def __post_init__(self) -> None:
        self._states = [bytearray(holds.states) for holds in self.told]
        self._asked = [memoryview(holds.asked).cast("H") for holds in self.told]

    def holds(self) -> Iterator[Hold]:
        """Each of them."""
        for process, states in enumerate(self._states):
            for number in range(len(states)):
                yield self._hold(process, number)

    def _hold(self, process: int, number: int) -> Hold:
        told, state = self.told[process], self._states[process][number]
        key = f"{self.name}-{process + 1}-{number}"
        lines = told.baskets[self._asked[process][number]]
        return Hold(
            *(key, number % self.clients, process, number, told.ids[number]),
            *(state % ENDING, state // ENDING, lines),
        )

    def unknown(self) -> list[Hold]:
        """Those of which it must be asked whether they were done, or whether their ending was."""
        return [hold for hold in self.holds() if hold.state == UNKNOWN or hold.ending in UNSETTLED]

    def settle(self, hold: Hold, found: Mapping[str, Any] | None) -> None:
        """Note what the service says of one that was unknown: its reservation, or None when it was not done."""
        if found is None:
            self._states[hold.process][hold.number] = NOT_DONE
            return
        told = self.told[hold.process]
        told.ids[hold.number] = found["id"]
        lines = found["lines"]
        ending = orders.NO_ENDING
        if any(line["committed"] for line in lines):
            ending = orders.COMMITTED
        elif any(line["released"] for line in lines):
            ending = orders.RELEASED
        self._states[hold.process][hold.number] = HELD + ENDING * ending

    def lost(self, hold: Hold) -> None:
        """It was acknowledged, and is not there."""
        self._states[hold.process][hold.number] = NOT_DONE

    def acknowledged(self) -> Iterator[Hold]:
        return (hold for hold in self.holds() if hold.state == HELD)

    def refused(self) -> Iterator[Hold]:
        return (hold for hold in self.holds() if hold.state == REFUSED)

    def committed(self) -> Counter[Position]:
        """Units that were acknowledged as committed; nothing ships in these scenarios."""
        units: Counter[Position] = Counter()
        for hold in self.acknowledged():
            if hold.ending == orders.COMMITTED:
                for location, sku, quantity in hold.lines:
                    units[Position(location, sku)] += quantity
        return units

    def raised(self, location: str) -> Counter[Position]:
        """Units that acknowledged stock events by HTTP added there."""
        units: Counter[Position] = Counter()
        for holds in self.told:
            for sku, quantity in holds.raised.items():
                units[Position(location, sku)] += quantity
        return units

    def odd(self) -> Iterable[dict[str, Any]]:
        """Refusals that cannot be right by themselves."""
        return (odd for holds in self.told for odd in holds.odd)
