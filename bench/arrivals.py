"""Owns when requests are due: schedules that are fixed before the run and never wait for an answer."""

import random
from collections.abc import Iterator


def poisson(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Rising offsets in seconds, below ``seconds``, at ``rate`` a second on average: the gaps are exponential."""
    if rate <= 0:
        return
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        yield at_s
        at_s += chance.expovariate(rate)


def constant(rate: float, seconds: float, share: int, shares: int) -> Iterator[float]:
    """Rising offsets in seconds at equal distances; ``share`` of ``shares`` (from 0) interleaves with the others.

    ``rate`` is that of this share alone.
    """
    if rate <= 0:
        return
    number, first = 0, (share + 0.5) / shares
    while (at_s := (number + first) / rate) < seconds:
        yield at_s
        number += 1
