"""Owns the ledger of the small benchmarks: a location, some SKUs, and batches of operations with keys of their own."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

from ledger import (
    Apply,
    Done,
    Hold,
    HoldLine,
    Ledger,
    Location,
    PutLocation,
    StockEvent,
    event_key,
    fingerprint,
    operation_id,
)

BATCH: Final = 64
"""Operations in a round: one call to the server."""
EVENTS: Final = 256
SKUS: Final = [f"SKU-{number:03}" for number in range(EVENTS)]
HOT, GONE = SKUS[0], "SOLD-OUT"
PLACE, CLIENT = "W1", "web"
UNITS: Final = 100_000_000
HOLD_TTL_MS: Final = 3_600_000


class Shop:
    """Makes operations and runs them."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger(url)
        self._url = url
        self._numbers = itertools.count()

    async def open(self) -> None:
        """Empty the server and count the stock."""
        async with Redis.from_url(self._url) as client:
            await client.eval("redis.call('flushall', 'sync')", 0)
        await self.ledger.put_location(PutLocation(CLIENT, Location(PLACE)))
        counts = [self.event(sku, UNITS, kind="snapshot") for sku in SKUS]
        await self.ledger.apply(Apply(CLIENT, [*counts, self.event(GONE, 0, kind="snapshot")]))

    async def close(self) -> None:
        await self.ledger.close()

    def id(self) -> str:
        return operation_id(CLIENT, f"key-{next(self._numbers)}")

    def event(self, sku: str, quantity: int, *, kind: Any = "delta") -> StockEvent:
        """One of now."""
        name = f"event-{next(self._numbers)}"
        at_ms = time.time_ns() // 1_000_000
        return StockEvent(event_key("wms", name), "wms", name, kind, sku, PLACE, quantity, at_ms)

    def hold(self, *skus: str) -> Hold:
        """A unit of each."""
        lines = [HoldLine(sku, 1, PLACE) for sku in skus]
        told = fingerprint("hold", {"lines": lines})
        return Hold(self.id(), told, CLIENT, lines, HOLD_TTL_MS)

    def holds(self, *skus: str) -> list[Hold]:
        """A batch of them."""
        return [self.hold(*skus) for _ in range(BATCH)]

    async def held(self) -> list[str]:
        """A batch of reservations."""
        holds = self.holds(HOT)
        outcomes = await self.all("hold", holds)
        assert all(isinstance(outcome, Done) for outcome in outcomes)
        return [hold.id for hold in holds]

    async def all(self, verb: str, operations: Sequence[Any]) -> list[Any]:
        """Run them together."""
        ask = getattr(self.ledger, verb)
        return list(await asyncio.gather(*map(ask, operations)))
