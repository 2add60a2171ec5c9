"""The keeper ends overdue holds when nobody asks, and outlives a ledger that cannot answer."""

import asyncio
from collections.abc import Iterator

import pytest

from availability.keeper import expire_until
from ledger import Expire, Expired, Unavailable

pytestmark = pytest.mark.anyio


class Ledger:
    """Answers ``expire`` as told, then stops the keeper."""

    def __init__(self, stop: asyncio.Event, answers: list[Expired | Unavailable]) -> None:
        self._stop = stop
        self._answers: Iterator[Expired | Unavailable] = iter(answers)
        self.asked = 0

    async def expire(self, _expire: Expire) -> Expired:
        self.asked += 1
        answer = next(self._answers, None)
        if answer is None:
            self._stop.set()
            return Expired(0, more=False)
        if isinstance(answer, Unavailable):
            raise answer
        return answer


async def test_it_goes_on_at_once_while_there_is_more() -> None:
    """P5."""
    stop = asyncio.Event()
    ledger = Ledger(stop, [Expired(1_000, more=True)] * 3)
    async with asyncio.timeout(5):
        told: list[float] = []
        await expire_until(stop, ledger, interval_s=60.0, count=told.append)
    assert told == [1_000, 1_000, 1_000, 0]


async def test_it_asks_again_after_a_failure() -> None:
    stop = asyncio.Event()
    ledger = Ledger(stop, [Unavailable("not there"), Expired(0, more=False), Unavailable("gone")])
    async with asyncio.timeout(5):
        await expire_until(stop, ledger, interval_s=0.001)
    assert ledger.asked == 4
