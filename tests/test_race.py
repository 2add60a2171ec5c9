"""Many callers, few units: exactly the units are held, over several processes' worth of connections (P1, P5, P6)."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from books import assert_books_balance
from ledgers import Shop
from redis import Redis
from servers import as_owner
from waiting import wait_until

from ledger import messages as m
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

CALLERS = 64
UNITS = 1_000
TRIES = 5_000


class Now:
    """The real clock, as the shop's."""

    @property
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@pytest.fixture
async def shops(valkey_url: str) -> AsyncIterator[list[Shop]]:
    """Four ledgers on the same server, as four API processes would have."""
    ledgers = [Ledger(valkey_url) for _ in range(4)]
    shops = [Shop(ledger, Now()) for ledger in ledgers]  # type: ignore[arg-type]
    await shops[0].open()
    yield shops
    for ledger in ledgers:
        await ledger.close()
    with Redis.from_url(as_owner(valkey_url)) as client:
        assert_books_balance(client)


async def test_64_callers_on_1000_units_hold_exactly_1000(shops: list[Shop]) -> None:
    """P1, P5: none is refused while a unit is free, and none gets one too many."""
    await shops[0].stock("HOT", UNITS)
    tries = iter(range(TRIES))
    outcomes: list[tuple[int, str]] = []

    async def call(caller: int) -> None:
        for number in tries:
            outcome = await shops[caller % 4].hold(("HOT", 1), key=f"try-{number}")
            outcomes.append((number, type(outcome).__name__))

    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))

    kinds = Counter(kind for _, kind in outcomes)
    assert kinds == {"Done": UNITS, "Insufficient": TRIES - UNITS}
    position = await shops[1].position("HOT")
    assert (position.held, position.available) == (UNITS, 0)


async def test_the_same_keys_from_all_sides_hold_once_each(shops: list[Shop]) -> None:
    """P3: concurrent duplicates over several connections."""
    await shops[0].stock("HOT", UNITS)
    held = await asyncio.gather(
        *(shop.hold(("HOT", 1), key=f"same-{number}") for number in range(200) for shop in shops)
    )

    assert sum(not outcome.replayed for outcome in held) == 200
    assert (await shops[0].position("HOT")).held == 200


async def test_commit_release_and_expiry_race_to_one_ending(shops: list[Shop]) -> None:
    """P5: each unit ends once, whoever comes first, and the ending is the one that was answered."""
    await shops[0].stock("HOT", 300)
    chance = random.Random(7)  # noqa: S311 a race, not a secret
    ttls_ms = [chance.choice([chance.randint(1, 40), 60_000]) for _ in range(300)]
    held = await asyncio.gather(*(shops[0].hold(("HOT", 1), ttl_ms=ttl_ms) for ttl_ms in ttls_ms))
    endings = await asyncio.gather(
        *(shops[1].commit(outcome.id) for outcome in held),
        *(shops[2].release(outcome.id) for outcome in held),
        *(shops[3].ledger.expire(m.Expire()) for _ in range(20)),
    )

    async def nothing_is_held() -> bool:
        return (await shops[0].position("HOT")).held == 0

    await wait_until(nothing_is_held)
    told: list[str] = []
    for outcome, commit, release in zip(held, endings[:300], endings[300:600], strict=True):
        answers = (("committed", commit), ("released", release))
        won = [ending for ending, answer in answers if isinstance(answer, m.Done)]
        found = await shops[0].ledger.find(m.Find(outcome.id, "web"))
        assert [found.reservation.status] == (won or ["expired"])
        told += won
    assert len(told) >= ttls_ms.count(60_000)
    position = await shops[0].position("HOT")
    committed = told.count("committed")
    assert (position.on_hand, position.committed, position.available) == (300, committed, 300 - committed)
