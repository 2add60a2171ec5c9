"""Who is let in: a model of a process in simulated time, so that no luck of this machine's decides."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from availability.api.gate import TICK_S, Gate
from availability.api.lanes import BURST_LEAST, CROWD_LEAST, UNDER_WAY_LEAST, Lane

BOUND_MS = 8
COST_S, REFUSAL_S, CALL_S = 120e-6, 40e-6, 0.001
"""Of the process for an answer and for a refusal, as measured; of the ledger for a call."""
CAPACITY = 1 / COST_S


@dataclass
class Told:
    """One request: when it came, how long it took, and whether it was let in."""

    at_s: float
    seconds: float
    is_in: bool


@dataclass
class Process:
    """One event loop: all that came during a turn is done in the next one; what waits for the ledger goes in calls."""

    gate: Gate = field(init=False)
    now_s: float = 0.0
    told: list[Told] = field(default_factory=list)
    stalled_until_s: float = 0.0

    def __post_init__(self) -> None:
        self.gate = Gate(BOUND_MS, lambda: self.now_s)
        self.queue: list[tuple[Lane, float, float]] = []
        self.called: list[tuple[Lane, float, float]] = []
        self.called_until_s, self.tick_s = 0.0, TICK_S

    def run(self, arrivals: list[tuple[float, str]]) -> None:
        """Serve requests that come at these times to these lanes, in order."""
        index = 0
        while index < len(arrivals) or self.queue or self.called:
            turn_s = self.now_s
            while index < len(arrivals) and arrivals[index][0] <= turn_s:
                self._arrive(*arrivals[index])
                index += 1
            if self.called and self.called_until_s <= turn_s:
                self._answer()
            if self.queue and not self.called:
                self.called, self.queue = self.queue, []
                self.called_until_s = max(self.now_s, self.stalled_until_s) + CALL_S
            if self.tick_s <= turn_s:
                self.gate.tick()
                self.tick_s = self.now_s + TICK_S
            if self.now_s == turn_s:
                next_s = [at_s for at_s, _ in arrivals[index : index + 1]]
                self.now_s = min(self.tick_s, *next_s, *([self.called_until_s] if self.called else []))

    def _arrive(self, at_s: float, name: str) -> None:
        lane = self.gate.lanes[name]
        entered_s = self.now_s
        is_in = lane.enter() is None
        self.now_s += COST_S / 2 if is_in else REFUSAL_S
        if is_in:
            self.queue.append((lane, at_s, entered_s))
        else:
            self.told.append(Told(at_s, self.now_s - at_s, is_in=False))

    def _answer(self) -> None:
        for lane, at_s, entered_s in self.called:
            self.now_s += COST_S / 2
            lane.leave(self.now_s - entered_s)
            self.told.append(Told(at_s, self.now_s - at_s, is_in=True))
        self.called = []

    def between(self, start_s: float, end_s: float, is_in: Callable[[Told], bool]) -> list[float]:
        """How long those took that came then, in order."""
        return sorted(told.seconds for told in self.told if start_s <= told.at_s < end_s and is_in(told))


def steady(rate: float, start_s: float, end_s: float, name: str = "holds") -> list[tuple[float, str]]:
    return [(start_s + number / rate, name) for number in range(int((end_s - start_s) * rate))]


def p99(seconds: list[float]) -> float:
    return seconds[int(len(seconds) * 0.99)]


def let_in(told: Told) -> bool:
    return told.is_in


def refused(told: Told) -> bool:
    return not told.is_in


def test_twice_what_can_be_done_is_refused_in_part_and_the_rest_stays_quick_and_it_is_over_at_once() -> None:
    process = Process()
    quiet, flood, after = 0.7 * CAPACITY, 2 * CAPACITY, 0.7 * CAPACITY
    process.run([*steady(quiet, 0, 2), *steady(flood, 2, 5), *steady(after, 5, 8)])

    assert process.between(0, 2, refused) == []
    assert p99(process.between(0, 2, let_in)) < 0.010
    kept = process.between(2.3, 5, let_in)
    assert p99(kept) < 0.020
    possible = (1 - flood * REFUSAL_S) / (COST_S - REFUSAL_S)
    assert len(kept) / 2.7 > 0.95 * possible, "what refusals leave of the time is used"
    assert p99(process.between(2, 5, refused)) < 0.050
    assert process.between(5.3, 8, refused) == [], "it recovers by itself"
    assert p99(process.between(5.3, 8, let_in)) < 0.010


@pytest.mark.parametrize(("flooded", "other"), [("holds", "reads"), ("reads", "holds"), ("holds", "verbs")])
def test_a_flood_of_one_kind_refuses_no_other(flooded: str, other: str) -> None:
    process = Process()
    process.run(sorted([*steady(2 * CAPACITY, 0, 3, flooded), *steady(500, 0, 3, other)]))

    assert process.gate.refused()[flooded] > 10_000
    assert process.gate.refused()[other] == 0


def test_a_hiccup_refuses_nobody_where_there_is_room() -> None:
    process = Process()
    process.run(steady(0.6 * CAPACITY, 0, 1))
    process.stalled_until_s = process.now_s + 0.08
    process.run(steady(0.6 * CAPACITY, process.now_s, process.now_s + 1))

    assert process.between(0, 3, refused) == []


def test_a_ledger_that_stands_still_is_waited_for_by_few_and_the_others_are_told_at_once() -> None:
    process = Process()
    process.run(steady(0.6 * CAPACITY, 0, 1))
    start_s = process.now_s
    process.stalled_until_s = start_s + 2
    process.run(steady(0.6 * CAPACITY, start_s, start_s + 4))

    assert len(process.between(start_s, start_s + 2, let_in)) < 0.1 * CAPACITY + BURST_LEAST
    assert p99(process.between(start_s, start_s + 2, refused)) < 0.001
    assert process.between(start_s + 2.3, start_s + 4, refused) == []


def test_a_far_away_ledger_is_no_crowd() -> None:
    """Every call takes longer than the bound: that is how it is, not how much there is to do."""
    lane = Lane(0.008)
    for _ in range(20):
        assert [lane.enter() for _ in range(100)] == [None] * 100
        for _ in range(100):
            lane.leave(0.025)
        lane.look(0.1, 0.0, 0.0)

    assert not lane.is_crowded


def test_a_burst_from_nothing_is_let_in_up_to_a_bound() -> None:
    lane = Lane(0.008)
    assert [lane.enter() for _ in range(BURST_LEAST)] == [None] * BURST_LEAST
    refusal = lane.enter()

    assert refusal is not None
    assert (refusal.status, dict(refusal.headers)) == (503, {b"retry-after": b"1"})
    assert (lane.under_way, lane.shed) == (BURST_LEAST, 1)
    assert (lane.is_crowded, lane.limit) == (True, UNDER_WAY_LEAST)  # from now on, not from the next look


def test_a_crowded_lane_lets_in_what_it_answers_in_time_but_never_nobody() -> None:
    lane = Lane(0.008)
    limits = []
    assert lane.enter() is None
    lane.leave(0.002)
    lane.look(0.1, 0.0, 0.0)
    for answered in (800, 800, *[80] * 9):
        while lane.enter() is None:
            pass
        for _ in range(answered):
            lane.leave(0.020)
        lane.under_way += answered  # others came at once
        lane.look(0.1, 0.0, 0.0)
        limits.append(lane.limit)

    assert limits[0] == 64
    assert all(later <= sooner for sooner, later in pairwise(limits))
    assert limits[-1] == UNDER_WAY_LEAST
    lane.under_way = 0
    lane.look(0.1, 0.0, 0.0)
    lane.look(0.1, 0.0, 0.0)
    assert not lane.is_crowded
    assert lane.limit >= BURST_LEAST


def test_requests_that_wait_before_they_come_in_wait_too() -> None:
    """What stands in line for the event loop is not seen by the lane; the gate's own lateness tells."""
    gate = Gate(BOUND_MS, now_s := iter([number * 0.025 for number in range(12)]).__next__)
    assert callable(now_s)
    lane = gate.lanes["holds"]
    for _ in range(2):
        for _ in range(CROWD_LEAST):
            lane.enter()
        for _ in range(CROWD_LEAST):
            lane.leave(0.005)
        for _ in range(4):
            gate.tick()

    assert gate.lag_s() == pytest.approx(0.015)
    assert lane.is_crowded
