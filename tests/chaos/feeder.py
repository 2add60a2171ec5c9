"""Owns the stock feeds of a run: new shelves, deliveries and sales over HTTP and NATS, and events that are poison.

Every event is handed in until somebody has acknowledged it, some of them twice and out of order. Positions that are
sold have one count, their opening, and deltas; snapshots that come late go to positions that nobody buys from.
"""

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from availability.feeds.publisher import NotPublished, publish
from bench.http_client import HttpClient, Lost, NotSent
from chaos.history import History, Published
from chaos.shopper import OPERATIONS_A_SHELF, Shelf, Shop

LOCATIONS: Final = ("WAREHOUSE", "STORE")
NOWHERE: Final = "NOWHERE"
SHELVES: Final = 6
"""Positions that are sold at a time."""
NATS_DELTAS_A_SHELF: Final = 3
"""Such an event may be applied any time later, which is what makes the search for an order long."""
SOURCE: Final = "wms"
_WAYS: Final[list[list[Literal["nats", "http"]]]] = [["nats"], ["http"], ["nats", "http"], ["nats", "nats"]]
PAUSE_S: Final = 0.1
ASK_S: Final = 3.0


def text_of(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Feeder:
    """Fills shelves and sends events, each until it is acknowledged."""

    def __init__(self, shop: Shop, history: History, client: str) -> None:
        self._shop, self._history = shop, history
        self._random = random.Random(shop.random.random())  # noqa: S311 - seeded
        self._http = HttpClient(shop.url, shop.tokens[client], 8)
        self._by_nats: dict[str, int] = {}

    async def open_shop(self) -> None:
        """The locations, and the first shelves."""
        for location in LOCATIONS:
            await self._put(f"/v1/locations/{location}", {"type": "warehouse", "name": location})
        while len(self._shop.shelves) < SHELVES:
            await self._fill_shelf()

    async def run(self) -> None:
        """Until the shop closes; returns when all that was begun is acknowledged."""
        async with self._http, asyncio.TaskGroup() as sending:
            while self._shop.open:
                await self._replace_shelves()
                for events in self._made_up():
                    sending.create_task(self._send(events))
                await asyncio.sleep(self._random.uniform(0.5, 1.5) * PAUSE_S)

    async def _replace_shelves(self) -> None:
        shop = self._shop
        shop.shelves = [shelf for shelf in shop.shelves if shelf.asked < OPERATIONS_A_SHELF]
        while len(shop.shelves) < SHELVES and shop.open:
            await self._fill_shelf()

    async def _fill_shelf(self) -> None:
        """A new position, with a person's count."""
        sku, location = self._shop.name("SKU"), self._random.choice(LOCATIONS)
        quantity, count_id, at_ms = self._random.randint(10, 80), self._shop.name("count"), now_ms()
        event = {"id": f"{count_id}:{sku}", "kind": "snapshot", "sku": sku, "location": location, "quantity": quantity}
        published = Published({**event, "at_ms": at_ms}, "count", time.monotonic(), outcomes=[])
        self._history.published.append(published)
        form = {"as_of": text_of(at_ms), "lines": [{"sku": sku, "quantity": quantity}]}
        told = await self._put(f"/v1/locations/{location}/counts/{count_id}", form)
        if told:
            published.answered_s = time.monotonic()
            published.outcomes.append(told["results"][0]["outcome"])
        self._shop.shelves.append(Shelf((sku, location)))

    # --- events -------------------------------------------------------------------------------------------------

    def _made_up(self) -> list[list[Published]]:
        """What happens next, in the messages in which it is told."""
        chance = self._random.random()
        if chance < 0.55:
            sku, location = self._random.choice(self._shop.shelves).place if self._shop.shelves else ("", "")
            by_nats = self._random.random() < 0.3 and self._by_nats.get(sku, 0) < NATS_DELTAS_A_SHELF
            self._by_nats[sku] = self._by_nats.get(sku, 0) + by_nats
            quantity = self._random.choice([1, 2, 5, 9, -1])
            return [[self._event("delta", sku, location, quantity, "nats" if by_nats else "http")]] if sku else []
        if chance < 0.6:
            return [[self._event("delta", self._shop.name("LOST"), NOWHERE, 1, "nats")]]
        return self._story()

    def _story(self) -> list[list[Published]]:
        """Counts and deltas of a position that nobody buys from: some told twice, both ways, in any order."""
        sku, location, at_ms = self._shop.name("FED"), self._random.choice(LOCATIONS), now_ms()
        kinds = [("snapshot", self._random.randint(0, 50)), ("snapshot", self._random.randint(0, 50))]
        kinds += [("delta", self._random.randint(-5, 5) or 1) for _ in range(4)]
        moments = self._random.sample(range(1, 5_000), len(kinds))
        messages = []
        for (kind, quantity), before_ms in zip(kinds, moments, strict=True):
            event = self._event(kind, sku, location, quantity, "nats", at_ms - before_ms).event
            ways = self._random.choice(_WAYS)
            messages += [[Published(event, way, time.monotonic(), outcomes=[])] for way in ways]
        self._random.shuffle(messages)
        return messages

    def _event(
        self, kind: str, sku: str, location: str, quantity: int, way: Any, at_ms: int | None = None
    ) -> Published:
        event: dict[str, Any] = {"id": self._shop.name("event"), "source": SOURCE, "kind": kind, "sku": sku}
        event |= {"location": location, "quantity": quantity, "at_ms": now_ms() if at_ms is None else at_ms}
        return Published(event, way, time.monotonic(), outcomes=[])

    async def _send(self, message: list[Published]) -> None:
        self._history.published.extend(message)
        events = []
        for published in message:
            event = {name: value for name, value in published.event.items() if name != "at_ms"}
            events.append({**event, "occurred_at": text_of(published.event["at_ms"])})
        if message[0].way == "nats":
            await self._send_by_nats(events)
            return
        told = await self._ask_until_told("POST", "/v1/stock-events", {"events": events})
        for published, result in zip(message, told["results"] if told else [], strict=bool(told)):
            published.answered_s = time.monotonic()
            published.outcomes.append(result["outcome"])

    async def _send_by_nats(self, events: list[dict[str, Any]]) -> None:
        tries = 0
        while self._may_go_on(f"{len(events)} events over NATS"):
            try:
                async with self._shop.stage.inlet.passed():
                    await publish(self._shop.stage.url("nats"), f"stock.{SOURCE}.chaos", events)
            except (NotPublished, OSError, ValueError):
                tries += 1
                await asyncio.sleep(PAUSE_S)
            else:
                self._history.sometimes["published again to NATS"] += tries > 0
                return

    async def _put(self, path: str, form: object) -> dict[str, Any]:
        return await self._ask_until_told("PUT", path, form)

    async def _ask_until_told(self, method: str, path: str, form: object) -> dict[str, Any]:
        """Events and counts have ids, PUTs repeat harmlessly: asked until there is an answer; {} = given up."""
        while self._may_go_on(path):
            try:
                async with asyncio.timeout(ASK_S):
                    answer = await self._http.request(method, path, msgspec.json.encode(form))
            except (Lost, NotSent, TimeoutError):
                self._history.sometimes["stock told again"] += 1
            else:
                if answer.status < 300:
                    told: dict[str, Any] = msgspec.json.decode(answer.body)
                    return told
                assert answer.status >= 429, f"{method} {path}: {answer.status} {answer.body[:500]!r}"
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * PAUSE_S)
        return {}

    def _may_go_on(self, what: str) -> bool:
        """Not for ever: what nobody takes when all is well again is a finding, and the run has to come to it."""
        if time.monotonic() < self._shop.until_s:
            return True
        self._shop.unended.append(f"nobody took {what}")
        return False
