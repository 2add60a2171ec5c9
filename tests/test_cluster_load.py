"""Baskets over several shards of a cluster while slots move and a server is killed: nothing lost, nothing doubled."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from books import assert_books_balance
from cluster import Cluster
from ledgers import START_MS, Clock, Shop
from waiting import wait_until

from ledger import messages as m
from ledger.errors import LedgerError, Unknown
from ledger.keys import shard_of
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

SHARDS = 4
SKUS = [f"SKU-{number}" for number in range(12)]
UNITS = 500
CALLERS = 24


class Sale:
    """Many buyers, each with baskets of two SKUs that are on different shards; what each was told is kept."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        self.ledgers = [Ledger(url, shards=SHARDS, timeout_ms=1_000) for _ in range(2)]
        self.told: dict[str, str] = {}
        self.errors: Counter[str] = Counter()
        self.random = random.Random(3)  # noqa: S311 - baskets
        self.over = False

    @property
    def held(self) -> int:
        return sum(word != "undone" for word in self.told.values())

    async def buy(self, caller: int) -> None:
        shop = Shop(self.ledgers[caller % 2], self.clock)
        number = 0
        while not self.over:
            key = f"{caller}-{number}"
            number += 1
            first = self.random.choice(SKUS)
            second = self.random.choice([sku for sku in SKUS if shard_of(sku, SHARDS) != shard_of(first, SHARDS)])
            if not await self._tell(key, "held", shop.hold((first, 1), (second, 1), key=key, ttl_ms=600_000)):
                await asyncio.sleep(0.01)
                continue
            reservation = shop.key(key)
            if caller % 3 == 0:
                await self._tell(key, "committed", shop.commit(reservation, key=f"{key}-commit"))
            elif caller % 3 == 1:
                await self._tell(key, "released", shop.release(reservation, key=f"{key}-release"))

    async def _tell(self, key: str, word: str, doing) -> bool:  # type: ignore[no-untyped-def]
        before = self.told.get(key, "undone")
        try:
            outcome = await doing
        except Unknown:
            self.told[key] = f"{before} or {word}"
        except LedgerError as error:
            self.errors[type(error).__name__] += 1
            self.told[key] = before
        else:
            assert isinstance(outcome, m.Done), outcome
            self.told[key] = word
            return True
        return False

    async def goes_on(self, more: int = 100) -> None:
        enough = self.held + more

        async def reached() -> bool:
            return self.held >= enough

        await wait_until(reached, 30)


@asynccontextmanager
async def sale(cluster: Cluster) -> AsyncIterator[Sale]:
    """A sale that goes on during the block; after it, what everybody was told is held against the ledger."""
    selling = Sale(cluster.url)
    shop = Shop(selling.ledgers[0], selling.clock)
    await shop.open()
    for sku in SKUS:
        await shop.stock(sku, UNITS, at_ms=START_MS - 1)
    buyers = [asyncio.create_task(selling.buy(caller)) for caller in range(CALLERS)]
    try:
        await selling.goes_on()
        yield selling
    finally:
        selling.over = True
        await asyncio.gather(*buyers)
    await _check(selling, shop, cluster)
    for ledger in selling.ledgers:
        await ledger.close()


async def _check(selling: Sale, shop: Shop, cluster: Cluster) -> None:
    async def nothing_unfinished() -> bool:
        await shop.ledger.expire(m.Expire())
        for shard in range(SHARDS):
            with cluster.client_of(shard) as client:
                # What has ended is looked at a day later.
                if client.zcount(f"{{s{shard}}}:spanning", "-inf", (time.time() + 3_600) * 1_000):
                    return False
        return True

    await wait_until(nothing_unfinished, 15)
    claimed: Counter[tuple[str, str]] = Counter()
    for key, told in selling.told.items():
        found = await shop.ledger.find(m.Find(shop.key(key), "web"))
        actual = "undone"
        if isinstance(found, m.Found):
            lines = found.reservation.lines
            assert len(lines) == 2, "all or none"
            assert len({(line.held, line.committed, line.released) for line in lines}) == 1, "both lines are alike"
            actual = found.reservation.status
            claimed.update((line.sku, actual) for line in lines)
        assert actual in told.split(" or "), f"{key} is {actual}, its buyer was told {told}"
    for sku in SKUS:
        position = await shop.position(sku)
        assert position.held == claimed[sku, "held"]
        assert position.committed == claimed[sku, "committed"]
        assert position.available >= 0
    for shard in range(SHARDS):
        with cluster.client_of(shard) as client:
            assert_books_balance(client, shard)


async def test_slots_that_move_during_a_sale_lose_and_double_nothing(cluster: Cluster) -> None:
    async with sale(cluster) as selling:
        for shard in (3, 0, 3):
            await cluster.migrate(shard, cluster.another_than(cluster.node_of(shard)))
            await selling.goes_on()
    assert not any(" or " in told for told in selling.told.values()), "a move makes nobody wonder"


async def test_a_server_that_is_killed_during_a_sale_loses_and_doubles_nothing(cluster: Cluster) -> None:
    async with sale(cluster) as selling:
        for shard in (0, 3):
            node = cluster.node_of(shard)
            node.kill()
            await cluster.restart(node)
            await selling.goes_on()
    assert selling.errors, "the sale was under way when the server went"
