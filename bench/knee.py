"""Owns finding the knee: the highest rate at which the goals are met, by steps upward and then by halving."""

from collections.abc import Awaitable, Callable
from typing import Final

from bench.run import Knee, Step
from bench.tally import why_not

FACTOR: Final = 1.5
HALVINGS: Final = 3
STEPS_UP_MAX: Final = 20

Try = Callable[[float], Awaitable[Step]]
"""Offers a rate for a while."""


async def find(first_rate: float, attempt: Try) -> Knee | None:
    """The knee from ``first_rate`` on; None when even a tenth of that is too much.

    A rate that fails is tried a second time: one hiccup of the machine is not the knee.
    """
    good, bad, beyond = 0.0, 0.0, ""
    rate = first_rate
    for _ in range(STEPS_UP_MAX):
        met, said = await _attempt(rate, attempt)
        if met:
            good, rate = rate, rate * FACTOR
            if bad:
                break
        else:
            bad, beyond = rate, said
            if good or rate < first_rate / 10:
                break
            rate /= 2
    if not good:
        return None
    for _ in range(HALVINGS if bad else 0):
        rate = (good + bad) / 2
        met, said = await _attempt(rate, attempt)
        if met:
            good = rate
        else:
            bad, beyond = rate, said
    return Knee(round(good, 1), beyond or f"not reached: {good:,.0f}/s is as far as it was tried")


async def _attempt(rate: float, attempt: Try) -> tuple[bool, str]:
    found = await attempt(rate)
    if not found.holds:
        found = await attempt(rate)
    return found.holds, why_not(found)
