"""Owns the measurement of the feed: stock events through real NATS into the ledger, how many a second and how late.

In an ``availability up`` of its own. First as many as it takes, a few messages ahead of it, for events a second and the
CPU of each process; then at an even rate, for the lag from the stream having a message to its events being applied: the
acknowledgements of the process ``ingest`` are listened to, which tell both. A sale can run beside: holds through the
ledger's own door, some in flight all the time.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from rich.console import Console

from bench import medians, processes, target
from bench.contract import parts, time_text
from bench.medians import Figures, Goal
from ledger import Done, Hold, HoldLine, Ledger, Location, PutLocation, fingerprint, operation_id

SKUS: Final = 2_000
SALE_SKUS: Final = 20
LOCATION: Final = "STORE-001"
SUBJECT: Final = "stock.wms.sales"
ACKS: Final = "$JS.ACK.STOCK.ingest.>"
AHEAD_EVENTS: Final = 20_000
STOCK: Final = 100_000_000
TTL_MS: Final = 600_000
WAIT_S: Final = 120.0
GOALS: Final = {"events/s": Goal("≥", 25_000), "apply lag p99, ms": Goal("≤", 250)}
"""DESIGN 11."""
MEASURED: Final = ("valkey", "ingest", "nats", "journal", "postgres")


@dataclass
class _Acknowledged:
    """What ingest has acknowledged: how many messages, and the lag of each."""

    messages: int = 0
    lags_ms: list[float] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self, message: Msg) -> None:
        if message.data in (Msg.Ack.Ack, Msg.Ack.Term):
            stored_ns = int(message.subject.split(".")[-2])
            self.lags_ms.append((time.time_ns() - stored_ns) / 1e6)
            self.messages += 1
            self.news.set()

    async def reached(self, messages: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.messages < messages:
                self.news.clear()
                await self.news.wait()


async def run(events: int, batch: int, rate: int, sale: int, runs: int, console: Console) -> bool:
    """Measure and print; whether the goals are met. Raises ``NoTarget`` when there is no ``up`` to run.

    ``batch`` events are in a message, ``rate`` a second come in the even part, ``sale`` holds are in flight.
    """
    found = [await _in_up(events, batch, rate, sale) for _ in range(runs)]
    beside = f"beside {sale} holds in flight" if sale else "with nothing beside"
    return medians.show(console, f"Feed, {batch:,} events a message, {beside}", found, GOALS)


async def _in_up(events: int, batch: int, rate: int, sale: int) -> Figures:
    async with target.running(None) as place:
        pids = place.addresses.pids
        ledger, client = Ledger(place.addresses.redis), await nats.connect(place.addresses.nats)
        try:
            return await measure(client, ledger, {name: pids[name] for name in MEASURED}, events, batch, rate, sale)
        except TimeoutError:
            raise target.NoTarget(f"ingest acknowledged nothing more for {WAIT_S} s") from None
        finally:
            await ledger.close()
            await client.close()


async def measure(
    client: Client, ledger: Ledger, pids: dict[str, int], events: int, batch: int, rate: int, sale: int
) -> Figures:
    """One measurement where the stream and ``ingest`` are there. ``TimeoutError`` when nothing more is taken."""
    feed = _Bench(client, _Acknowledged(), batch)
    await feed.open(ledger)
    async with selling(ledger, sale) as sold:
        return await feed.measure(events, rate, pids, sold)


@dataclass
class _Bench:
    """One feed; its events are told apart by their number."""

    client: Client
    acknowledged: _Acknowledged
    batch: int
    published: int = 0
    told: int = 0

    async def open(self, ledger: Ledger) -> None:
        """The location, and a count of each SKU."""
        await ledger.put_location(PutLocation("bench", Location(LOCATION)))
        await self.client.subscribe(ACKS, cb=self.acknowledged.hear)
        opened_ms = time.time_ns() // 1_000_000 - TTL_MS
        for numbers in parts(range(SKUS), self.batch):
            await self._publish([_event(number, "snapshot", STOCK, f"count-{number}", opened_ms) for number in numbers])
        await self.acknowledged.reached(self.published)

    async def measure(self, events: int, rate: int, pids: dict[str, int], sold: list[int]) -> Figures:
        """As many as it takes, then as many a second as told."""
        before = {name: _cpu_s(pid) for name, pid in pids.items()}
        holds, began_at = len(sold), time.perf_counter()
        messages = max(1, events // self.batch)
        for _ in range(messages):
            await self.acknowledged.reached(self.published - max(1, AHEAD_EVENTS // self.batch))
            await self._publish(self._sales())
        await self.acknowledged.reached(self.published)
        seconds = time.perf_counter() - began_at
        count = messages * self.batch
        found: Figures = {"events/s": count / seconds}
        for name, pid in pids.items():
            found[f"{name}'s CPU, µs an event"] = 1e6 * (_cpu_s(pid) - before[name]) / count
        if sold:
            found["holds/s beside"] = (len(sold) - holds) / seconds
        return found | await self._even(messages, rate)

    async def _even(self, messages: int, rate: int) -> Figures:
        """The lag of messages that come at an even rate, from their own time on."""
        self.acknowledged.lags_ms.clear()
        began_at = time.perf_counter()
        for number in range(messages):
            await asyncio.sleep(began_at + number * self.batch / rate - time.perf_counter())
            await self._publish(self._sales())
        await self.acknowledged.reached(self.published)
        lags = sorted(self.acknowledged.lags_ms)
        shown = {
            f"events/s of the even part (asked for {rate:,})": messages * self.batch / (time.perf_counter() - began_at)
        }
        return shown | {
            f"apply lag p{percent}, ms": lags[min(len(lags) - 1, len(lags) * percent // 100)] for percent in (50, 99)
        }

    def _sales(self) -> list[dict[str, object]]:
        numbers = range(self.told, self.told + self.batch)
        self.told += self.batch
        now_ms = time.time_ns() // 1_000_000
        # A stride that has no factor in common with SKUS: neighbours in a message are not neighbours in the ledger.
        return [_event(number * 7_919 % SKUS, "delta", -1, f"sale-{number}", now_ms) for number in numbers]

    async def _publish(self, events: list[dict[str, object]]) -> None:
        await self.client.jetstream().publish(SUBJECT, msgspec.json.encode(events))
        self.published += 1


def _cpu_s(pid: int) -> float:
    return processes.cpu_s(processes.family(pid))


def _event(sku: int, kind: str, quantity: int, identity: str, at_ms: int) -> dict[str, object]:
    return {
        "id": identity,
        "kind": kind,
        "sku": f"SKU-{sku:05}",
        "location": LOCATION,
        "quantity": quantity,
        "occurred_at": time_text(at_ms),
    }


@asynccontextmanager
async def selling(ledger: Ledger, in_flight: int) -> AsyncIterator[list[int]]:
    """Holds of one unit all the time, so many in flight; what is given tells when each was answered, in ms."""
    answered: list[int] = []

    async def buy(buyer: int) -> None:
        number = 0
        while True:
            number += 1
            key = f"cart-{buyer}-{number}"
            line = HoldLine(f"SKU-{number % SALE_SKUS:05}", 1, LOCATION)
            outcome = await ledger.hold(
                Hold(operation_id("bench", key), fingerprint("hold", {"customer": key}), "bench", [line], TTL_MS)
            )
            assert isinstance(outcome, Done), outcome
            answered.append(time.monotonic_ns() // 1_000_000)

    buyers = [asyncio.create_task(buy(number)) for number in range(in_flight)]
    try:
        yield answered
    finally:
        for buyer in buyers:
            buyer.cancel()
        failed = await asyncio.gather(*buyers, return_exceptions=True)
        for failure in failed:
            if isinstance(failure, Exception):
                raise failure
