"""Owns the measurement of the journal: how fast one shard's entries go from its stream into a real Postgres.

The stream is filled through the ledger's own door while nobody reads it; then the journaler of the process ``journal``
empties it, with Postgres as durable as the service runs it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from rich.console import Console

from bench import medians, servers
from bench.contract import parts
from bench.medians import Figures, Goal
from bench.servers import Running
from bench.target import NoTarget
from ledger import (
    Apply,
    Follower,
    Hold,
    HoldLine,
    Ledger,
    Location,
    Observer,
    PutLocation,
    StockEvent,
    Written,
    event_key,
    fingerprint,
    migrate,
    operation_id,
)

SKUS: Final = 1_000
LOCATION: Final = "STORE-001"
AT_ONCE: Final = 2_000
TTL_MS: Final = 3_600_000
STOCK: Final = 1_000_000
DRAINED_WITHIN_S: Final = 300.0
GOAL: Final = Goal("≥", 100_000)
"""DESIGN 11."""

Fill = Callable[[Ledger, int], Awaitable[None]]


async def run(movements: int, runs: int, console: Console) -> bool:
    """Measure and print; whether the goal is met. Raises ``NoTarget`` when there are no servers to run."""
    met = True
    for title, fill in FILLS.items():
        found = [await _alone(fill, movements) for _ in range(runs)]
        met = medians.show(console, title, found, {"movements/s": GOAL}) and met
    return met


async def _alone(fill: Fill, movements: int) -> Figures:
    async with servers.valkey() as valkey, servers.postgres() as postgres:
        return await measure(valkey, postgres, fill, movements)


async def measure(valkey: Running, postgres: Running, fill: Fill, movements: int) -> Figures:
    """One measurement on an empty Valkey and an empty database."""
    await migrate(postgres.url)
    ledger = Ledger(valkey.url)
    try:
        await ledger.put_location(PutLocation("bench", Location(LOCATION)))
        opening = [_event(number, "snapshot", STOCK, "count") for number in range(SKUS)]
        await ledger.apply(Apply("bench", opening))
        await fill(ledger, movements)
    finally:
        await ledger.close()
    return await _drained(valkey, postgres, SKUS + movements)


async def _drained(valkey: Running, postgres: Running, movements: int) -> Figures:
    """Follow the stream until the journal has so many movements."""
    total, done = Written(), asyncio.Event()

    def written(_shard: int, batch: Written) -> None:
        total.entries += batch.entries
        total.movements += batch.movements
        if total.movements >= movements:
            done.set()

    follower = Follower(valkey.url, postgres.url, 0, Observer(written, lambda _shard, _status: None))
    before = time.process_time(), postgres.cpu_s(), valkey.cpu_s()
    began_at = time.perf_counter()
    following = asyncio.create_task(follower.run())
    try:
        async with asyncio.timeout(DRAINED_WITHIN_S):
            await done.wait()
    except TimeoutError:
        raise NoTarget(f"the journal got {total.movements} of {movements} movements") from None
    finally:
        seconds = time.perf_counter() - began_at
        spent = time.process_time() - before[0], postgres.cpu_s() - before[1], valkey.cpu_s() - before[2]
        follower.stop()
        await following
    journaler, server, store = (1e6 * each / movements for each in spent)
    return {
        "movements/s": movements / seconds,
        "journaler's CPU, µs a movement": journaler,
        "Postgres's CPU, µs a movement": server,
        "Valkey's CPU, µs a movement": store,
        "movements an entry": movements / total.entries,
    }


async def hold(ledger: Ledger, movements: int) -> None:
    """Each hold of a line is a movement."""
    for numbers in parts(range(movements), AT_ONCE):
        holds = (
            Hold(
                operation_id("bench", f"cart-{number}"),
                fingerprint("hold", {"customer": number}),
                "bench",
                [HoldLine(f"SKU-{number % SKUS:05}", 1, LOCATION)],
                TTL_MS,
            )
            for number in numbers
        )
        await asyncio.gather(*map(ledger.hold, holds))


async def sell(ledger: Ledger, movements: int) -> None:
    """Each sale that a feed tells is a movement."""
    for numbers in parts(range(movements), AT_ONCE):
        events = [_event(number, "delta", -1, f"sale-{number}") for number in numbers]
        await ledger.apply(Apply("bench", events))


FILLS: Final[dict[str, Fill]] = {"Journal of holds of one line": hold, "Journal of stock events": sell}


def _event(number: int, kind: str, quantity: int, name: str) -> StockEvent:
    sku = f"SKU-{number % SKUS:05}"
    identity, at_ms = f"{sku}-{name}", time.time_ns() // 1_000_000
    if kind == "snapshot":
        return StockEvent(
            event_key("wms", identity), "wms", identity, "snapshot", sku, LOCATION, quantity, at_ms - TTL_MS
        )
    return StockEvent(event_key("wms", identity), "wms", identity, "delta", sku, LOCATION, quantity, at_ms)
