"""Owns the stock of the replayed stores as the service is told it and tells it: counts by PUT, snapshots by NATS, ATP.

A store's location, and the source of its snapshots, carry the name of the run, so that runs on one service are apart.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from availability.feeds.publisher import NotPublished, publish
from bench.baskets import Place
from bench.caller import Caller, Stuck, Unexpected, expect
from bench.contract import ATP_ITEMS, COUNT_LINES, parts, time_text

PUBLISHERS_MAX = 8
PAUSE_S = 0.2

Way = Literal["http", "nats"]


@dataclass
class Stores:
    """The stores of one run."""

    caller: Caller
    nats_url: str
    run: str
    _publishers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PUBLISHERS_MAX))

    def location(self, store: int) -> str:
        return f"{self.run}-store-{store}"

    @property
    def source(self) -> str:
        return f"{self.run}-counts"

    async def open(self, store: int) -> None:
        """Create the store's location."""
        path = f"/v1/locations/{self.location(store)}"
        expect(200, await self.caller.ask("PUT", path, {"type": "store", "name": f"Store {store}"}))

    async def count(self, way: Way, store: int, name: str, as_of_ms: int, quantities: Mapping[str, int]) -> None:
        """Send a count; by NATS it is applied some time after this returns. ``name`` tells the store's counts apart."""
        if way == "nats":
            await self._publish(store, name, as_of_ms, quantities)
            return
        for number, part in enumerate(parts(list(quantities.items()), COUNT_LINES), 1):
            path = f"/v1/locations/{self.location(store)}/counts/{name}-{number}"
            lines = [{"sku": sku, "quantity": quantity} for sku, quantity in part]
            answer = await self.caller.ask("PUT", path, {"as_of": time_text(as_of_ms), "lines": lines})
            expect(200, answer)
            if any(result["outcome"] == "quarantined" for result in answer.body["results"]):
                raise Unexpected(f"{path}: a line of a person's count was not believed")

    async def _publish(self, store: int, name: str, as_of_ms: int, quantities: Mapping[str, int]) -> None:
        location = self.location(store)
        events: list[dict[str, object]] = [
            {
                "id": f"{store}-{name}-{sku}",
                "source": self.source,
                "kind": "snapshot",
                "sku": sku,
                "location": location,
                "quantity": quantity,
                "occurred_at": time_text(as_of_ms),
            }
            for sku, quantity in quantities.items()
        ]
        give_up_at = time.monotonic() + self.caller.patience_s
        async with self._publishers:
            while True:
                try:
                    await publish(self.nats_url, f"stock.{self.source}.{location}", events)
                except NotPublished as error:
                    if time.monotonic() > give_up_at:
                        raise Stuck(f"a count of {location} cannot be published: {error}") from error
                    await asyncio.sleep(PAUSE_S)  # then the same again: events have ids
                else:
                    return

    async def wait_counted(self, as_of_ms: Mapping[Place, int]) -> list[Place]:
        """Wait until each position shows what was counted at that time; those that still do not."""
        late = list(as_of_ms)
        give_up_at = time.monotonic() + self.caller.patience_s
        while late:
            found = await self.read(late)
            late = [place for place in late if found[place]["as_of"] != time_text(as_of_ms[place])]
            if late and time.monotonic() > give_up_at:
                break
            await asyncio.sleep(PAUSE_S if late else 0)
        return late

    async def read(self, places: Sequence[Place]) -> dict[Place, dict[str, Any]]:
        """Each position as an ATP answer shows it."""
        asked = list(parts(places, ATP_ITEMS))
        found = await asyncio.gather(*(self._read(part) for part in asked))
        return {
            place: item
            for part, items in zip(asked, found, strict=True)
            for place, item in zip(part, items, strict=True)
        }

    async def _read(self, places: Sequence[Place]) -> list[dict[str, Any]]:
        items = [{"sku": place.sku, "location": self.location(place.store)} for place in places]
        answer = await self.caller.ask("POST", "/v1/atp", {"items": items})
        expect(200, answer)
        return [item["locations"][0] for item in answer.body["items"]]
