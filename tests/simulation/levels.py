"""Owns what could be promised at a position at each instant: by its units, and by what is held until when."""

import heapq
from bisect import bisect_left
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, NamedTuple

KEPT_EVERY: Final = 64
Part = tuple[int, str]
"""A reservation's part on a shard."""


class Held(NamedTuple):
    """Units that a part holds; they count until its deadline."""

    part: Part
    quantity: int
    deadline_ms: int


class Level(NamedTuple):
    """A change: from ``at_ms`` on there are ``unheld`` units but for what is held, and these parts hold so much."""

    at_ms: int
    unheld: int
    held: tuple[Held, ...]


class Free(NamedTuple):
    """What could be promised at an instant: between these, both included."""

    low: int
    high: int


@dataclass
class Levels:
    """All changes of one position, in the order of their times."""

    levels: list[Level] = field(default_factory=list)
    _held: dict[Part, Held] = field(default_factory=dict)
    _kept: list[dict[Part, Held]] = field(default_factory=list)
    """What was held before every so manieth change."""

    def put(self, level: Level) -> None:
        if len(self.levels) % KEPT_EVERY == 0:
            self._kept.append(dict(self._held))
        self.levels.append(level)
        _apply(self._held, level)

    def free(self, since_ms: int, until_ms: int, outlasting: Container[Part]) -> set[Free]:
        """At each instant between the two. Who is in ``outlasting`` may hold, or not, what is past its deadline."""
        first = max(0, bisect_left(self.levels, since_ms, key=lambda level: level.at_ms) - 1)
        if not self.levels or self.levels[first].at_ms > until_ms:
            return set()
        held = dict(self._kept[first // KEPT_EVERY])
        for level in self.levels[first // KEPT_EVERY * KEPT_EVERY : first + 1]:
            _apply(held, level)
        sweep = _Sweep(self.levels[first].unheld, held, outlasting)
        sweep.go_on(max(since_ms, self.levels[first].at_ms))
        found = {sweep.free}
        for level in self.levels[first + 1 :]:
            if level.at_ms > until_ms:
                break
            found |= sweep.go_on(level.at_ms)
            sweep.take(level)
            found.add(sweep.free)
        return found | sweep.go_on(until_ms)


def _apply(held: dict[Part, Held], level: Level) -> None:
    for each in level.held:
        if each.quantity:
            held[each.part] = each
        else:
            held.pop(each.part, None)


class _Sweep:
    """Goes through a time, with the sums of what is held and of what may be."""

    def __init__(self, unheld: int, held: dict[Part, Held], outlasting: Container[Part]) -> None:
        self._unheld, self._held, self._outlasting = unheld, held, outlasting
        self._sure = sum(each.quantity for each in held.values())
        self._perhaps = 0
        self._past: dict[Part, int] = {}
        """Past their deadline: how many units they perhaps still hold."""
        self._deadlines = [(each.deadline_ms, each.part) for each in held.values()]
        heapq.heapify(self._deadlines)

    @property
    def free(self) -> Free:
        high = self._unheld - self._sure
        return Free(high - self._perhaps, high)

    def go_on(self, at_ms: int) -> set[Free]:
        """To that time; what was free at each deadline on the way."""
        found = set()
        while self._deadlines and self._deadlines[0][0] <= at_ms:
            deadline_ms, part = heapq.heappop(self._deadlines)
            each = self._held.get(part)
            if each is None or each.deadline_ms != deadline_ms or part in self._past:
                continue
            self._past[part] = each.quantity if part in self._outlasting else 0
            self._sure -= each.quantity
            self._perhaps += self._past[part]
            if not self._deadlines or self._deadlines[0][0] > deadline_ms:
                found.add(self.free)
        return found

    def take(self, level: Level) -> None:
        self._unheld = level.unheld
        for each in level.held:
            before = self._held.pop(each.part, None)
            if each.part in self._past:
                self._perhaps -= self._past.pop(each.part)
            elif before is not None:
                self._sure -= before.quantity
            if each.quantity:
                self._held[each.part] = each
                self._sure += each.quantity
                heapq.heappush(self._deadlines, (each.deadline_ms, each.part))
        self.go_on(level.at_ms)
