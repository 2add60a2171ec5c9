"""Owns what is missing of each source's events, by the numbers that it gives them (DESIGN 10).

JetStream may lose what it acknowledged, and a stream can be wiped; the source has the truth, and has to be asked for a
snapshot. Not every source counts: some number by time, or not at all. So a source is believed to count its events one
by one once it was seen to, three in a row, and anew after each gap. What comes late or again is no gap: it has time.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

GAP: Final = "gap"
"""The reason in quarantine of what never came."""
IN_A_ROW: Final = 3
PATIENCE_S: Final = 15.0
"""More than it takes until the messages of an ingest that died are given out again."""
OPEN_MAX: Final = 100
"""Gaps of a source that are waited for at once; of more, the oldest are told at once."""


class Gap(NamedTuple):
    """Events of a source that never came: from the ``first`` number to the ``last``."""

    source: str
    first: int
    last: int

    @property
    def events(self) -> int:
        return self.last - self.first + 1


class _Source:
    """What was heard of one source's numbers. ``open`` are gaps, and when each was noticed."""

    def __init__(self, number: int) -> None:
        self.highest = number
        self.in_a_row = 1
        self.open: dict[Gap, float] = {}


class Gaps:
    """Of all sources, since this process began: what was missed while none ran is not seen."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}

    def take(self, numbers: Iterable[tuple[str, int]], now_s: float) -> None:
        """Note (source, number) of each event that came, in the order in which they came."""
        for name, number in numbers:
            source = self._sources.get(name)
            if source is None:
                self._sources[name] = _Source(number)
            elif number == source.highest + 1:
                source.highest, source.in_a_row = number, source.in_a_row + 1
            elif number > source.highest:
                if source.in_a_row >= IN_A_ROW:
                    source.open[Gap(name, source.highest + 1, number - 1)] = now_s
                source.highest, source.in_a_row = number, 1
            elif source.open:
                _fill(source, number)

    def overdue(self, now_s: float) -> list[Gap]:
        """The gaps that nothing has filled in time; each is told once."""
        found = []
        for source in self._sources.values():
            oldest_first = list(source.open.items())
            told = len(oldest_first) - OPEN_MAX
            for place, (gap, noticed_s) in enumerate(oldest_first):
                if place < told or now_s - noticed_s >= PATIENCE_S:
                    del source.open[gap]
                    found.append(gap)
        return found


def _fill(source: _Source, number: int) -> None:
    """An event that was missing has come: its gap is smaller now, or two."""
    for gap, noticed_s in source.open.items():
        if gap.first <= number <= gap.last:
            del source.open[gap]
            for rest in (gap._replace(last=number - 1), gap._replace(first=number + 1)):
                if rest.events > 0:
                    source.open[rest] = noticed_s
            return
