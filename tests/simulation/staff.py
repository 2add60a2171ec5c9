"""Owns the staff and the feed of a run: who counts, moves goods, tells of it late, and puts safety stock."""

import asyncio
from typing import Any, Final
from urllib.parse import quote

import msgspec
from api_world import text_of

from ledger.identity import event_key
from ledger.messages import StockEvent
from simulation.auditor import UNKNOWN, insist
from simulation.customers import Customers
from simulation.processes import Answer

FEED: Final = "wms"
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class Staff:
    """They repeat what they do until it is done. Raises ``Broken`` where an answer breaks a promise."""

    def __init__(self, customers: Customers) -> None:
        self.published: dict[str, StockEvent] = {}
        """All that was said of stock, by its key."""
        self._customers, self._service = customers, customers.service
        self._around, self._chance, self._crowd = customers.around, customers.chance, customers.crowd

    async def open(self) -> None:
        """The catalog and what there is at first."""
        for location in self._crowd.locations:
            await self.insisted("PUT", f"/v1/locations/{quote(location, safe='')}", {"type": "store"})
            await self._count(location, self._crowd.skus)

    async def insisted(self, method: str, path: str, body: Any) -> Answer:
        """Until it is done: repeating it is harmless."""
        while True:
            answer = await self._customers.ask("staff", method, path, _encode(body))
            if answer.status not in (*UNKNOWN, 503):
                return answer
            await asyncio.sleep(self._chance.random.uniform(0, 0.5))

    async def _count(self, location: str, skus: tuple[str, ...]) -> None:
        name, at_ms = self._customers.name("count"), self._around.loop.now_ms
        lines = [{"sku": sku, "quantity": self._chance.random.randrange(*self._crowd.counted)} for sku in skus]
        for line in lines:
            sku, quantity = str(line["sku"]), int(str(line["quantity"]))
            key = event_key("staff", f"count\0{location}\0{name}\0{sku}")
            event = StockEvent(key, "staff", f"{name}:{sku}", "snapshot", sku, location, quantity, at_ms)
            self.published[key] = event
        path = f"/v1/locations/{quote(location, safe='')}/counts/{name}"
        answer = await self.insisted("PUT", path, {"as_of": text_of(at_ms), "lines": lines})
        insist("P8", answer.status == 200, answer)

    async def work(self, steps: int) -> None:
        """The staff and the feed: counts, goods that come and go, late news, and safety stock."""
        chance = self._chance
        for _ in range(steps):
            await asyncio.sleep(chance.random.expovariate(2))
            kind = chance.of(("feed", "feed", "feed", "http", "count", "safety"))
            if kind == "count":
                await self._count(chance.of(self._crowd.locations), (chance.of(self._crowd.skus),))
            elif kind == "safety":
                item = {
                    "sku": chance.of(self._crowd.skus),
                    "location": chance.of(self._crowd.locations),
                    "quantity": chance.of((0, 0, 2)),
                }
                await self.insisted("PUT", "/v1/safety-stock", {"items": [item]})
            else:
                events = [self._event() for _ in range(chance.of((1, 1, 3)))]
                if kind == "feed":
                    self._service.stream.publish(_encode(events), chance)
                else:
                    answer = await self.insisted("POST", "/v1/stock-events", {"events": events})
                    insist("P8", answer.status == 200, answer)
                    outcomes = {result["outcome"] for result in answer.json["results"]}
                    self._customers.reached["superseded snapshot"] += "superseded" in outcomes
                    self._customers.reached["duplicate event"] += "duplicate" in outcomes

    def _event(self) -> dict[str, Any]:
        """Of now, or of a while ago."""
        chance, name = self._chance, self._customers.name("e")
        at_ms = self._around.loop.now_ms - chance.of((0, 0, 0, 1, 500, 3_000))
        kind = chance.of(("delta", "delta", "delta", "snapshot"))
        quantity = chance.of((-4, -1, 2, 5)) if kind == "delta" else chance.random.randrange(12)
        sku, location = chance.of(self._crowd.skus), chance.of(self._crowd.locations)
        key = event_key(FEED, name)
        self.published[key] = StockEvent(key, FEED, name, kind, sku, location, quantity, at_ms)  # type: ignore[arg-type]
        told = {"id": name, "source": FEED, "kind": kind, "sku": sku, "location": location}
        return {**told, "quantity": quantity, "occurred_at": text_of(at_ms)}
