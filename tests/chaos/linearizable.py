"""Owns the search for an order: is there one of all operations on a position that explains every answer?

After Wing and Gong, with Lowe's memory of what was tried. Each operation takes effect at one instant between its being
sent and its being answered; the search goes through the orders that this leaves, with a small model of a position that
says what each operation would have answered there. It knows nothing of the journal.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

INFINITY: Final = float("inf")
STEPS_MAX: Final = 400_000
"""A search that takes longer proves nothing, and says so."""


class Claim(NamedTuple):
    """Units of the position that a reservation claims."""

    held: int = 0
    committed: int = 0
    picked: int = 0


class Position(NamedTuple):
    """The model: units on hand, and the claims of reservations that have any."""

    on_hand: int = 0
    claims: frozenset[tuple[str, Claim]] = frozenset()

    @property
    def available(self) -> int:
        return self.on_hand - sum(sum(claim) for _, claim in self.claims)

    @property
    def claimed(self) -> Claim:
        """The units of all reservations together."""
        held, committed, picked = (sum(claim[state] for _, claim in self.claims) for state in range(3))
        return Claim(held, committed, picked)

    def claim(self, reservation: str) -> Claim:
        return next((claim for id_, claim in self.claims if id_ == reservation), Claim())

    def with_claim(self, reservation: str, claim: Claim, on_hand: int = 0) -> "Position":
        others = frozenset(pair for pair in self.claims if pair[0] != reservation)
        return Position(self.on_hand + on_hand, others | {(reservation, claim)} if any(claim) else others)


Step = Callable[[Position], Position | None]
"""What an operation makes of the position; None when it could not have answered there what it did."""


class Event(NamedTuple):
    """An operation with its answer. It took effect between the two times; never, perhaps, when it is ``optional``."""

    sent_s: float
    answered_s: float
    step: Step
    what: str
    optional: bool = False


class Undecided(Exception):
    """The search took too many steps."""


def explain(events: Sequence[Event], start: Position) -> list[str] | None:
    """None when there is an order; else what was asked, as far as the longest order came."""
    ordered = sorted(events, key=lambda event: (event.answered_s, event.sent_s))
    count = len(ordered)
    by_sent = sorted(range(count), key=lambda index: ordered[index].sent_s)
    required = sum(1 << index for index, event in enumerate(ordered) if not event.optional)
    seen: set[tuple[int, Position]] = set()
    stack: list[tuple[int, Position, tuple[int, object]]] = [(0, start, (-1, None))]
    best: tuple[int, tuple[int, object]] = (0, (-1, None))
    steps = 0
    while stack:
        done, position, trail = stack.pop()
        if done & required == required:
            return None
        if (size := done.bit_count()) > best[0]:
            best = size, trail
        candidates = _candidates(ordered, by_sent, done)
        # The first to be answered is tried first: it is on top of the stack.
        for index in reversed(candidates):
            steps += 1
            after = ordered[index].step(position)
            if after is None:
                continue
            state = done | 1 << index, after
            if state not in seen:
                seen.add(state)
                stack.append((*state, (index, trail)))
        if steps > STEPS_MAX:
            raise Undecided(f"{count} operations, {steps} steps")
    return _told(ordered, best[1])


def _candidates(ordered: Sequence[Event], by_sent: Sequence[int], done: int) -> list[int]:
    """Those that may be next: sent before any other that is still to come was answered."""
    first_answer = ordered[(~done & done + 1).bit_length() - 1].answered_s
    found = []
    for index in by_sent:
        if ordered[index].sent_s > first_answer:
            break
        if not done >> index & 1:
            found.append(index)
    return sorted(found)


def _told(ordered: Sequence[Event], trail: tuple[int, object]) -> list[str]:
    done: list[int] = []
    step: object = trail
    while isinstance(step, tuple) and step[0] >= 0:
        done.append(step[0])
        step = step[1]
    done.reverse()
    left = [index for index in range(len(ordered)) if index not in set(done)]
    return [
        *(f"then {ordered[index].what}" for index in done[-6:]),
        *(f"but not {ordered[index].what}" for index in left[:6]),
    ]
