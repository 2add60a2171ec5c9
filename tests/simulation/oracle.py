"""Owns the comparison of each call with the plain rules, at the very instant at which the server ran it (one shard)."""

from collections import Counter
from typing import Any, Final

from msgspec.structs import replace

from ledger import messages as m
from ledger.packing import done_of
from ledger.rules import Rules
from simulation.network import Ran

UNTOUCHED: Final = (m.Busy, m.JournalFull)
"""Answers that the rules do not know: nothing was done, for want of room."""


class Oracle:
    """Decides what the server decided, in the same order, and insists on the same outcomes (P1, P3, P5).

    Not compared are the receipts: the rules write an entry an operation, the server one a call, and what is overdue may
    be ended by either before the other.
    """

    def __init__(self, **limits: int) -> None:
        self.rules = Rules(**limits)
        self.answers: Counter[str] = Counter()

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
            if _comparable(expected) != _comparable(told):
                return f"the server says {told} to {operation}, the rules say {expected}"
        return None

    @staticmethod
    def _whole(operation: m.Operation, outcome: m.Outcome, call: Ran) -> m.Outcome:
        if not isinstance(outcome, m.Granted):
            return outcome
        assert isinstance(operation, m.Hold)
        return done_of(operation, call.now_ms, 1, call.seq)


def _comparable(outcome: m.Outcome) -> Any:
    match outcome:
        case m.Done() | m.Found():
            return replace(outcome, reservation=replace(outcome.reservation, seq=0))
        case m.Expired():
            return None
    return outcome
