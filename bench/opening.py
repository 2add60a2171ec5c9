"""Owns the stock that a run begins with: its locations and the opening counts, over the API."""

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from bench.caller import Caller, expect
from bench.contract import ATP_ITEMS, COUNT_LINES, parts, time_text
from bench.orders import Assortment

BEFORE_MS = 60_000
"""Counted so long before the run: every event of the run is later."""


class Position(NamedTuple):
    location: str
    sku: str


def assortment(name: str, skus: int, locations: int) -> Assortment:
    """What a run of this name sells; its names are its own, so one service can take many runs."""
    places = [f"{name}-location-{number}" for number in range(1, locations + 1)]
    tail = [f"{name}-{rank:05}" for rank in range(1, skus + 1)]
    return Assortment(f"{name}-hot", places[0], tail, places, places[-1])


async def open_stock(caller: Caller, goods: Assortment, hot_units: int, tail_units: int) -> dict[Position, int]:
    """Make the locations and count everything; what each position has."""
    opening = {Position(goods.hot_location, goods.hot): hot_units}
    opening |= {Position(location, sku): tail_units for location in goods.locations for sku in goods.tail}
    as_of = time_text(time.time_ns() // 1_000_000 - BEFORE_MS)
    for location in goods.locations:
        expect(200, await caller.ask("PUT", f"/v1/locations/{location}", {"type": "warehouse"}))
        own = [position for position in opening if position.location == location]
        for number, part in enumerate(parts(own, COUNT_LINES), 1):
            lines = [{"sku": position.sku, "quantity": opening[position]} for position in part]
            path = f"/v1/locations/{location}/counts/opening-{number}"
            expect(200, await caller.ask("PUT", path, {"as_of": as_of, "lines": lines}))
    return opening


async def read(caller: Caller, positions: Iterable[Position]) -> dict[Position, dict[str, Any]]:
    """Each position as an ATP answer shows it."""
    found: dict[Position, dict[str, Any]] = {}
    for part in parts(list(positions), ATP_ITEMS):
        items = [{"sku": position.sku, "location": position.location} for position in part]
        answer = await caller.ask("POST", "/v1/atp", {"items": items})
        expect(200, answer)
        found |= {position: item["locations"][0] for position, item in zip(part, answer.body["items"], strict=True)}
    return found
