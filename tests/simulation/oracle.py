"""Owns the comparison of each call with the plain rules, at the very instant at which the server ran it (one shard)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from ledger import messages as m
from ledger.claims import LIVE, Claim, Place
from ledger.convergence import History
from ledger.packing import done_of
from ledger.rules import Balances, Rules, Stock
from simulation.network import Ran

if TYPE_CHECKING:
    from _collections_abc import dict_values

UNTOUCHED: Final = (m.Busy, m.JournalFull)
"""Answers that the rules do not know: nothing was done, for want of room."""


class QuickHistory(History):
    """Counts anew only after another event."""

    def __init__(self) -> None:
        super().__init__()
        self._events, self._numbers = 0, dict[m.Bucket, int]()

    def number(self, bucket: m.Bucket) -> int:
        if self._events != len(self.events):  # none is ever taken out
            self._events, self._numbers = len(self.events), {}
        if bucket not in self._numbers:
            self._numbers[bucket] = super().number(bucket)
        return self._numbers[bucket]


@dataclass
class QuickStock(Stock):
    """Stands in for ``ledger.rules.Stock``."""

    history: History = field(default_factory=QuickHistory)


class _Claims(dict[str, Claim]):
    """All claims by id. Who looks through them sees the live ones, of one place where that is all he wants."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[Place | None, dict[str, Claim]] = defaultdict(dict)
        self.wanted: Place | None = None

    def values(self) -> "dict_values[str, Claim]":
        return dict(self.at[self.wanted]).values()


class QuickRules(Rules):
    """The rules as they are, but for their sums over all claims: kept at each change of one, not counted each time."""

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.claims = self._claims = _Claims()
        self._open, self._held, self._claimed = Counter[str](), Counter[str](), Counter[Place]()
        self._counted: dict[str, tuple[int, Counter[Place]]] = {}
        """Of each claim, as it was counted last: what it held, and its units by place."""

    def _stamp(self, claim: Claim) -> None:
        super()._stamp(claim)
        name = str(id(claim))  # no claim is ever forgotten
        held, claimed = self._counted.pop(name, (0, Counter[Place]()))
        self._held[claim.client] -= held
        self._claimed.subtract(claimed)
        self._open[claim.client] -= bool(claimed)
        for place in (None, *claimed):
            self._claims.at[place].pop(name, None)
        if claim.is_live:
            held, claimed = claim.units("held"), Counter()
            for line in claim.lines:
                claimed[line.place] += sum(line.units[state] for state in LIVE)
            self._counted[name] = held, claimed
            self._held[claim.client] += held
            self._claimed.update(claimed)
            self._open[claim.client] += 1
            for place in (None, *claimed):
                self._claims.at[place][name] = claim

    def _balances(self) -> Balances:
        claimed = ((place, units) for place, units in self._claimed.items() if units)
        return {place: (self.stock[place].history.number("on_hand"), units) for place, units in claimed}

    def position(self, place: Place) -> m.Position:
        with self._only(place):
            return super().position(place)

    def _settle(self, place: Place) -> bool:
        with self._only(place):
            return super()._settle(place)

    @contextmanager
    def _only(self, place: Place) -> Iterator[None]:
        self._claims.wanted = place
        yield
        self._claims.wanted = None

    def open_reservations(self, client: str) -> int:
        return self._open[client]

    def held_units(self, client: str) -> int:
        return self._held[client]

    def place(self, hold: str, as_told: m.Reservation) -> bool:
        """Moves a hold to where the server took it from; whether there was enough for it."""
        claim = self.claims[hold]
        claim.lines = Claim.of(as_told).lines
        self._stamp(claim)
        return all(self.position(line.place).available >= 0 for line in claim.lines)

    def miscounted(self) -> str | None:
        """Where a sum is not what the rules count themselves, or None."""
        counted = Rules()
        counted.claims, counted.stock, counted.safety_stock = dict(self.claims), self.stock, self.safety_stock
        places = [place for place in self.stock if self.position(place) != counted.position(place)]
        clients = [
            client
            for client in self._open
            if (self._open[client], self._held[client])
            != (counted.open_reservations(client), counted.held_units(client))
        ]
        wrong = places or clients or self._balances() != counted._balances()  # noqa: SLF001 - it is a twin of ours
        return f"the sums of {places} {clients} are wrong" if wrong else None


class Oracle:
    """Decides what the server decided, in the same order, and insists on the same outcomes (P1, P3, P5).

    Not compared are the receipts: the rules write an entry an operation, the server one a call, and what is overdue may
    be ended by either before the other. ``passes_over``: a call can end so few overdue holds that it may take units
    from another location than the one that had been first, were all of them ended.
    """

    def __init__(self, *, passes_over: bool, **limits: int) -> None:
        self.rules = QuickRules(**limits)
        self.answers: Counter[str] = Counter()
        self._passes_over = passes_over

    def ran(self, call: Ran) -> str | None:
        """What is wrong with it, or None."""
        if call.only_looks or call.outcomes is None:
            return None
        for operation, outcome in zip(call.operations, call.outcomes, strict=True):
            told = self._whole(operation, outcome, call)
            self.answers[f"{type(operation).__name__} {type(told).__name__}"] += 1
            if isinstance(told, UNTOUCHED):
                continue
            expected = self.rules.decide(operation, call.now_ms)
            if _comparable(expected) == _comparable(told):
                continue
            if not self._is_from_elsewhere(operation, expected, told):
                return f"the server says {told} to {operation}, the rules say {expected}"
        return None

    def _is_from_elsewhere(self, operation: m.Operation, expected: m.Outcome, told: m.Outcome) -> bool:
        """Whether they differ only in where the units are from, of lines that could be from anywhere."""
        match operation, expected, told:
            case m.Hold(), m.Done(), m.Done() if self._passes_over:
                is_same = _but_for_places(expected) == _but_for_places(told)
                is_sourced = any(line.location is None for line in operation.lines)
                self.answers["sourced past overdue holds"] += is_same and is_sourced
                return is_same and is_sourced and self.rules.place(operation.id, told.reservation)
        return False

    @staticmethod
    def _whole(operation: m.Operation, outcome: m.Outcome, call: Ran) -> m.Outcome:
        if not isinstance(outcome, m.Granted):
            return outcome
        assert isinstance(operation, m.Hold)
        return done_of(operation, call.now_ms, 1, call.seq)


def _but_for_places(done: m.Done) -> Any:
    units = Counter[tuple[str, str]]()
    for line in done.reservation.lines:
        units.update({(line.sku, "requested"): line.requested, (line.sku, "held"): line.held})
    return replace(done, reservation=replace(done.reservation, seq=0, lines=[])), units


def _comparable(outcome: m.Outcome) -> Any:
    match outcome:
        case m.Done() | m.Found():
            return replace(outcome, reservation=replace(outcome.reservation, seq=0))
        case m.Expired():
            return None
    return outcome
