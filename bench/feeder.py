"""Owns stock events over NATS during a run: deltas, counts and repeats in lists, at a rate, and how soon they show.

What was published is known by position, so that the positions can be checked in the end: counts tell the running total,
and must change nothing; repeats must not count twice.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
import nats
from nats.errors import Error
from nats.js import JetStreamContext

from bench import histogram
from bench.contract import time_text
from bench.http_client import HttpClient, Lost, NotSent
from bench.opening import Position
from bench.orders import Assortment
from bench.run import Check, Feed

EVENTS_IN_A_MESSAGE: Final = 100
MESSAGES_A_SECOND_MIN: Final = 10
IN_FLIGHT_MAX: Final = 256
COUNTS, REPEATS = 0.05, 0.02
"""Of the events."""
LAG_MAX_US: Final = 250_000
PROBE_S, LOOK_S = 0.25, 0.01
PROBE_TIMEOUT_S: Final = 10.0
PUBLISH_TIMEOUT_S: Final = 5.0
TRIES: Final = 12
PAUSE_S: Final = 0.25

Event = dict[str, object]


class Feeder:
    """One source, for the whole tail at the first location."""

    def __init__(self, name: str, goods: Assortment, opening: Counter[Position], seed: int) -> None:
        self.raised: Counter[Position] = Counter()
        """Units added so far, on each position."""
        self.lags: histogram.Counts = {}
        self.published, self.messages, self.unseen, self.late = 0, 0, 0, 0
        self.unpublished = 0
        self._source = f"{name}-feed"
        self._location = goods.locations[0]
        self._tail = goods.tail
        self._counts = len(goods.locations) > 1  # the events by HTTP raise the last location
        self._opening = opening
        self._chance = random.Random(f"{seed}-feed")  # noqa: S311
        self._counted_ms: dict[str, int] = {}
        self._newest_ms: dict[str, int] = {}
        self._made = 0
        self._probes = 0

    @property
    def probe(self) -> Position:
        """A position of its own, on which the lag is seen."""
        return Position(self._location, f"{self._source}-probe")

    def event(self, now_ms: int) -> Event:
        """The next: a unit or more arrives somewhere, or somebody counts."""
        self._made += 1
        sku = self._tail[int(self._chance.random() * len(self._tail))]
        position = Position(self._location, sku)
        if self._counts and self._chance.random() < COUNTS:
            at_ms = max(now_ms, self._newest_ms.get(sku, 0))
            self._counted_ms[sku] = at_ms
            kind, quantity = "snapshot", self._opening[position] + self.raised[position]
        else:
            # Later than the last count, which does not contain it.
            at_ms = max(now_ms, self._counted_ms.get(sku, 0) + 1)
            kind, quantity = "delta", self._chance.randint(1, 3)
            self.raised[position] += quantity
        self._newest_ms[sku] = max(at_ms, self._newest_ms.get(sku, 0))
        return self._told(f"{self._made}", kind, sku, quantity, at_ms)

    def message(self, events: int, now_ms: int) -> list[Event]:
        """So many events, a few of which come twice."""
        made = [self.event(now_ms) for _ in range(events)]
        return made + [event for event in made if self._chance.random() < REPEATS]

    def probing(self, now_ms: int) -> Event:
        """A count of the position of our own, which tells its own number."""
        self._probes += 1
        return self._told(f"probe-{self._probes}", "snapshot", self.probe.sku, self._probes, now_ms)

    def _told(self, name: str, kind: str, sku: str, quantity: int, at_ms: int) -> Event:
        return {
            "id": name,
            "source": self._source,
            "kind": kind,
            "sku": sku,
            "location": self._location,
            "quantity": quantity,
            "occurred_at": time_text(at_ms),
        }

    async def run(self, nats_url: str, http: HttpClient, rate: float) -> None:
        """Publish ``rate`` events a second until cancelled; then wait until all is acknowledged."""
        size = max(1, min(EVENTS_IN_A_MESSAGE, int(rate / MESSAGES_A_SECOND_MIN)))
        client = await nats.connect(nats_url)
        try:
            async with asyncio.TaskGroup() as tasks:
                probing = tasks.create_task(self._probe(client.jetstream(), http))
                try:
                    await self._publish_at(client.jetstream(), rate / size, size, tasks)
                except asyncio.CancelledError:
                    pass  # the publishing that is under way goes on to its end
                finally:
                    probing.cancel()
        finally:
            await client.close()

    async def _publish_at(self, stream: JetStreamContext, rate: float, size: int, tasks: asyncio.TaskGroup) -> None:
        turns = asyncio.Semaphore(IN_FLIGHT_MAX)
        due_s = time.monotonic()
        while True:
            due_s += 1 / rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self.late += turns.locked()
            await turns.acquire()
            events = self.message(size, time.time_ns() // 1_000_000)
            task = tasks.create_task(self._publish(stream, events))
            task.add_done_callback(lambda _: turns.release())

    async def _publish(self, stream: JetStreamContext, events: list[Event]) -> bool:
        """Until it is acknowledged: events have ids, and may come twice."""
        body = msgspec.json.encode(events)
        for _ in range(TRIES):
            with suppress(Error, OSError, TimeoutError):
                await stream.publish(f"stock.{self._source}.all", body, timeout=PUBLISH_TIMEOUT_S)
                self.published += len(events)
                self.messages += 1
                return True
            await asyncio.sleep(PAUSE_S)
        self.unpublished += len(events)
        return False

    async def _probe(self, stream: JetStreamContext, http: HttpClient) -> None:
        """Publish a number now and then, and look when it shows."""
        path = f"/v1/atp?sku={self.probe.sku}&location={self.probe.location}"
        while True:
            began_s = time.monotonic()
            event = self.probing(time.time_ns() // 1_000_000)
            if await self._publish(stream, [event]):
                if await self._shows(http, path, began_s):
                    histogram.record(self.lags, int((time.monotonic() - began_s) * 1e6))
                else:
                    self.unseen += 1
            await asyncio.sleep(max(0.0, began_s + PROBE_S - time.monotonic()))

    async def _shows(self, http: HttpClient, path: str, began_s: float) -> bool:
        while time.monotonic() < began_s + PROBE_TIMEOUT_S:
            with suppress(Lost, NotSent):
                answer = await http.request("GET", path)
                if answer.status == 200:
                    locations = msgspec.json.decode(answer.body)["locations"]
                    if locations and locations[0]["on_hand"] >= self._probes:
                        return True
            await asyncio.sleep(LOOK_S)
        return False

    def figures(self, seconds: float) -> Feed:
        return Feed(self.published, self.messages, round(self.published / seconds, 1), histogram.latency(self.lags))

    def check(self) -> Check:
        """Whether the events showed in time."""
        p99_us = histogram.percentile(self.lags, 0.99)
        said = (
            f"p99 {p99_us / 1_000:.0f} ms, of {sum(self.lags.values()):,} looked for; {self.unseen} did not show "
            f"within {PROBE_TIMEOUT_S:.0f} s; {self.published:,} events published, {self.unpublished:,} could not be"
        )
        holds = bool(self.lags) and p99_us <= LAG_MAX_US and not self.unseen and not self.unpublished
        return Check(f"stock events show within {LAG_MAX_US // 1_000} ms (p99)", holds, said)


@asynccontextmanager
async def feeding(feeder: Feeder, nats_url: str, http: HttpClient, rate: float) -> AsyncIterator[None]:
    """Feed for as long as the block lasts."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(feeder.run(nats_url, http, rate))
        try:
            yield
        finally:
            task.cancel()
