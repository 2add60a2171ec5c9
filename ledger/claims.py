"""What a reservation's units may do: the rules of the verbs that need nothing but the reservation itself."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from msgspec.structs import replace

from ledger import messages as m

TAKES = {
    "commit": ("held",),
    "extend": ("held",),
    "release": ("held",),
    "pick": ("committed",),
    "ship": ("picked", "committed"),
    "cancel": ("committed", "picked"),
    "return": ("shipped",),
    "move": ("held", "committed"),
}
"""The states whose units each verb takes."""
BECOMES = {
    "commit": "committed",
    "release": "released",
    "pick": "picked",
    "ship": "shipped",
    "cancel": "cancelled",
    "return": "returned",
}
"""The state that they go to."""
STATES = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")
LIVE = ("held", "committed", "picked")
OPERATIONS_MAX = 200
"""Operations on one reservation: its record names them all."""


class Place(NamedTuple):
    """One SKU at one location: what a position is the position of."""

    sku: str
    location: str


@dataclass
class Line:
    """A reservation's line; ``units`` counts its units by state."""

    place: Place
    quantity: int
    requested: int
    units: Counter[str]
    promise_day: int

    def allows(self, verb: str) -> bool:
        """Whether the verb would take units of this line."""
        # What was picked, shipped or returned was so at the old location: such a line stays there.
        if verb == "move" and any(self.units[state] for state in ("picked", "shipped", "returned")):
            return False
        return any(self.units[state] for state in TAKES[verb])


class Taken(NamedTuple):
    """Units that a verb takes: of which line (counted from 0), out of which state, how many."""

    line: int
    state: str
    quantity: int


@dataclass
class Claim:
    """A reservation, as the rules change it."""

    client: str
    fingerprint: str
    created_at_ms: int
    expires_at_ms: int
    channel: str | None
    customer: str | None
    lines: list[Line]
    order_id: str | None = None
    epoch: int = 1
    seq: int = 0
    operations: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, record: m.Reservation) -> Self:
        """The claim that the record is of."""
        return cls(
            record.client,
            record.fingerprint,
            record.created_at_ms,
            record.expires_at_ms,
            record.channel,
            record.customer,
            [
                Line(
                    Place(line.sku, line.location),
                    line.quantity,
                    line.requested,
                    Counter({state: getattr(line, state) for state in STATES}),
                    line.promise_day,
                )
                for line in record.lines
            ],
            record.order_id,
            record.epoch,
            record.seq,
            list(record.operations),
        )

    def record(self) -> m.Reservation:
        """The claim as the ledger keeps and answers it."""
        return m.Reservation(
            self.client,
            self.fingerprint,
            self.created_at_ms,
            self.expires_at_ms,
            self.order_id,
            self.channel,
            self.customer,
            self.epoch,
            self.seq,
            list(self.operations),
            [
                m.ReservationLine(
                    sku=line.place.sku,
                    location=line.place.location,
                    quantity=line.quantity,
                    requested=line.requested,
                    promise_day=line.promise_day,
                    **{state: line.units[state] for state in STATES},
                )
                for line in self.lines
            ],
        )

    def units(self, state: str) -> int:
        return sum(line.units[state] for line in self.lines)

    @property
    def is_live(self) -> bool:
        return any(self.units(state) for state in LIVE)

    def is_overdue(self, now_ms: int) -> bool:
        return self.expires_at_ms <= now_ms and self.units("held") > 0

    def expire(self) -> None:
        """Ends what is held."""
        for line in self.lines:
            line.units["expired"] += line.units.pop("held", 0)

    def units_to_take(self, wanted: list[m.UnitsOfLine] | None, states: tuple[str, ...]) -> list[Taken] | None:
        """The units that ``wanted``, or without it everything, takes; None when a line has fewer."""
        taken: list[Taken] = []
        left = [Counter(line.units) for line in self.lines]

        def take(index: int, quantity: int) -> int:
            for state in states:
                part = min(left[index][state], quantity)
                if part:
                    left[index][state] -= part
                    quantity -= part
                    taken.append(Taken(index, state, part))
            return quantity

        if wanted is None:
            for index, line in enumerate(self.lines):
                take(index, line.quantity)
            return taken
        for want in wanted:
            if want.line > len(self.lines) or take(want.line - 1, want.quantity) > 0:
                return None
        return taken

    def move(self, taken: list[Taken], target: str) -> None:
        """Moves units to another state."""
        for index, state, quantity in taken:
            units = self.lines[index].units
            units[state] -= quantity
            units[target] += quantity

    def judge(self, change: m.Change) -> list[Taken] | m.WrongState | m.ReservationExpired:
        """The units that any verb but ``move`` takes, or why it takes none."""
        verb = verb_of(change)
        if TAKES[verb] == ("held",) and not self.units("held"):
            if isinstance(change, m.Commit) and change.reacquire and self.units("expired"):
                return self.units_to_take(change.lines, ("expired",)) or self.wrong_state()
            return self.nothing_to_take()
        lines = None if isinstance(change, m.Extend | m.Move) else change.lines
        return self.units_to_take(lines, TAKES[verb]) or self.wrong_state()

    def nothing_to_take(self) -> m.WrongState | m.ReservationExpired:
        """What a verb says when it found no unit that it takes."""
        has_expired = not self.is_live and self.units("expired") > 0
        return m.ReservationExpired(self.expires_at_ms) if has_expired else self.wrong_state()

    def may_operate(self, change: m.Change) -> bool:
        """Whether one more operation is taken: at the limit, only one that takes all that it can, so an end is near."""
        takes_all = not isinstance(change, m.Extend | m.Move) and change.lines is None
        return takes_all or len(self.operations) < OPERATIONS_MAX

    def wrong_state(self) -> m.WrongState:
        """What the reservation is, and which verbs it would take."""
        allowed = [verb for verb in TAKES if any(line.allows(verb) for line in self.lines)]
        return m.WrongState(self.record().status, allowed)


def verb_of(change: m.Verb) -> str:
    """The name of the operation, as DESIGN 2 has it."""
    return type(change).__name__.lower()


def merged(parts: Mapping[int, m.Reservation]) -> m.Reservation:
    """The whole reservation, its lines in their order; the receipt is that of the first shard."""
    first = parts[min(parts)]
    if first.span is None:
        return first
    lines = {number: line for part in parts.values() for number, line in zip(part.numbers, part.lines, strict=True)}
    return replace(first, lines=[lines[number] for number in sorted(lines)], span=None)
