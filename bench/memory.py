"""Owns the measurement of the ledger's memory: bytes per position, per live reservation line and per event kept.

On a Valkey of its own, through the ledger's own door. ``used_memory`` before and after tells what all of it costs,
``MEMORY USAGE`` of some keys of each kind where it goes. The journal's stream is emptied before each look: it is as
long as Postgres is behind, and tells of what happened, not of what there is.
"""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from redis.asyncio import Redis
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import servers
from bench.contract import parts
from ledger import (
    Apply,
    Commit,
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

LINE_BYTES_MAX: Final = 400
POSITION_BYTES_MAX: Final = 250
"""DESIGN 11."""
LOCATIONS: Final = 10
HOT_POSITIONS: Final = 100
EVENTS: Final = (5, 50)
"""Further events of each position, after its count."""
EVENTS_AT_ONCE: Final = 4_000
HOLDS_AT_ONCE: Final = 1_000
SAMPLED_KEYS: Final = 300
TTL_MS: Final = 3_600_000
START_MS: Final = 1_795_429_200_000


@dataclass
class Row:
    """What so many things took, and what a key of each kind among theirs has, on average."""

    what: str
    count: int
    used_bytes: int
    goal: int | None = None
    kinds: dict[str, float] = field(default_factory=dict)

    @property
    def each(self) -> float:
        return self.used_bytes / self.count


async def run(positions: int, console: Console) -> bool:
    """Measure and print; whether both goals are met. Raises ``NoTarget`` when there is no Valkey to run."""
    async with servers.valkey() as valkey:
        bench = _Bench(valkey.url, positions)
        try:
            rows = await bench.measure()
            server = await bench.server()
        finally:
            await bench.close()
    _show(console, rows, server)
    return all(row.each <= row.goal for row in rows if row.goal is not None)


class _Bench:
    """One ledger that is filled and emptied again."""

    def __init__(self, url: str, positions: int) -> None:
        self._redis = Redis.from_url(url)
        self._ledger = Ledger(url, now_ms=lambda: START_MS)
        self._positions = positions
        self._keys = 0

    async def close(self) -> None:
        await self._ledger.close()
        await self._redis.aclose()

    async def server(self) -> str:
        """What it was measured on."""
        told: Any = await self._redis.info()
        name, version = told.get("server_name", "redis"), told.get("valkey_version", told["redis_version"])
        return f"{name} {version}, allocator {told['mem_allocator']}"

    async def measure(self) -> list[Row]:
        """Every row, each from an empty ledger."""
        rows = [await self._of_positions(locations) for locations in (1, LOCATIONS)]
        rows += [await self._of_lines(lines, self._positions) for lines in (1, 3, 10)]
        rows.append(await self._of_lines(1, min(HOT_POSITIONS, self._positions)))
        rows += [await self._of_commits(), *[await self._of_events(events) for events in EVENTS]]
        return rows

    async def _of_positions(self, locations: int) -> Row:
        """Positions that were counted once, with so many locations a SKU."""
        before = await self._emptied()
        await self._fill(self._positions, locations)
        used = await self._used() - before
        what = f"position, {locations} location{'s' if locations > 1 else ''} a SKU"
        return Row(what, self._positions, used, POSITION_BYTES_MAX, await self._sampled(locations))

    async def _of_lines(self, lines: int, positions: int) -> Row:
        """As many live lines as there are positions in all, spread over these, in holds of so many lines."""
        await self._emptied()
        await self._fill(positions, LOCATIONS)
        before = await self._used()
        places = _places(positions, LOCATIONS)
        random.Random(1).shuffle(places)  # noqa: S311 a shuffle, not a secret
        wanted = [HoldLine(*places[number % positions]) for number in range(self._positions)]
        await self._hold([list(part) for part in parts(wanted, lines)])
        used = await self._used() - before
        where = f"{positions:,} positions" if positions < self._positions else "all positions"
        return Row(
            f"line, {lines} a hold, on {where}", len(wanted), used, LINE_BYTES_MAX, await self._sampled(LOCATIONS)
        )

    async def _of_commits(self) -> Row:
        """An operation on each of some holds: its own record, and its name in the reservation's."""
        count = max(1, self._positions // 10)
        await self._emptied()
        await self._fill(count, LOCATIONS)
        held = await self._hold([[HoldLine(*place)] for place in _places(count, LOCATIONS)])
        before = await self._used()
        for part in parts(held, HOLDS_AT_ONCE):
            commits = (
                Commit(
                    operation_id("web", f"pay-{id_}"), fingerprint("commit", {"order_id": id_}), "web", id_, id_[:12]
                )
                for id_ in part
            )
            outcomes = await asyncio.gather(*(self._ledger.commit(commit) for commit in commits))
            assert all(isinstance(outcome, Done) for outcome in outcomes)
        used = await self._used() - before
        return Row("commit of a hold of 1 line", count, used, None, await self._sampled(LOCATIONS))

    async def _of_events(self, events: int) -> Row:
        """Further events of each position, all of them inside the window."""
        positions = max(1, self._positions // 50)
        await self._emptied()
        await self._fill(positions, LOCATIONS)
        before = await self._used()
        for number in range(1, events + 1):
            await self._apply([_event(place, f"sale-{number}", -1, number) for place in _places(positions, LOCATIONS)])
        used = await self._used() - before
        return Row(f"event, {events} a position", positions * events, used, None, await self._sampled(LOCATIONS))

    async def _emptied(self) -> int:
        """An empty ledger with its locations; the bytes used."""
        await self._redis.eval("redis.call('flushall', 'sync')", 0)  # without the word, Valkey frees later
        for number in range(LOCATIONS):
            await self._ledger.put_location(PutLocation("bench", Location(f"STORE-{number:03}")))
        return await self._used()

    async def _used(self) -> int:
        for key in await self._redis.keys("*:journal"):
            await self._redis.xtrim(key, 0, approximate=False)
        told: Any = await self._redis.info("memory")
        # What waits to be written to the file and to clients is not the ledger's.
        return int(told["used_memory"]) - int(told["mem_aof_buffer"]) - int(told["mem_clients_normal"])

    async def _fill(self, positions: int, locations: int) -> None:
        await self._apply([_event(place, "count", 1_000, 0) for place in _places(positions, locations)])

    async def _apply(self, events: list[StockEvent]) -> None:
        for part in parts(events, EVENTS_AT_ONCE):
            applied = await self._ledger.apply(Apply("bench", list(part)))
            assert {result.outcome for result in applied.results} == {"applied"}

    async def _hold(self, carts: list[list[HoldLine]]) -> list[str]:
        """The reservations' ids."""
        held: list[str] = []
        for part in parts(carts, HOLDS_AT_ONCE):
            outcomes = await asyncio.gather(*(self._ledger.hold(self._cart(lines)) for lines in part))
            held += [outcome.id for outcome in outcomes if isinstance(outcome, Done)]
        assert len(held) == len(carts)
        return held

    def _cart(self, lines: list[HoldLine]) -> Hold:
        """A hold as the API makes them."""
        self._keys += 1
        told = fingerprint("hold", {"lines": lines, "customer": self._keys, "channel": "web"})
        key = operation_id("web", f"cart-{self._keys}")
        return Hold(key, told, "web", lines, TTL_MS, channel="web", customer=f"customer-{self._keys:06}")

    async def _sampled(self, locations: int) -> dict[str, float]:
        """The mean of ``MEMORY USAGE`` by kind of key, of some keys of each; of ``sku`` per position."""
        sizes = defaultdict[str, list[int]](list)
        async for key in self._redis.scan_iter(count=1_000):
            kind = key.decode().split(":")[1]
            if len(sizes[kind]) < SAMPLED_KEYS:
                sizes[kind].append(int(await self._redis.memory_usage(key, samples=0) or 0))
        means = {kind: sum(found) / len(found) for kind, found in sizes.items() if kind not in _ONCE}
        if "deadlines" in sizes:
            entries: Any = await self._redis.zcard("{s0}:deadlines")
            means["deadlines, an entry"] = sizes["deadlines"][0] / entries
        means["sku, a position"] = means.pop("sku") / locations
        return means


_ONCE: Final = ("shard", "locations", "journal", "deadlines", "client")
"""Keys of which a shard has one, or one a client."""


def _places(positions: int, locations: int) -> list[tuple[str, int, str]]:
    """SKU, one unit, location: the places of so many positions, as a line wants them."""
    return [(f"SKU-{number // locations:07}", 1, f"STORE-{number % locations:03}") for number in range(positions)]


def _event(place: tuple[str, int, str], name: str, quantity: int, later_s: int) -> StockEvent:
    """A count, or a sale so many seconds after it; its id and source as a feed would call them."""
    sku, _, location = place
    kind: Literal["delta", "snapshot"] = "delta" if later_s else "snapshot"
    identity = f"{sku}@{location}-{name}"
    at_ms = START_MS - 86_400_000 + later_s * 1_000
    return StockEvent(
        event_key("wms", identity), "wms", identity, kind, sku, location, quantity, at_ms, sequence=later_s
    )


def _show(console: Console, rows: list[Row], server: str) -> None:
    """Print the rows, and where the bytes of the last of each kind go."""
    table = Table("", "how many", "bytes each", "goal", "", title="Memory", box=SIMPLE_HEAD)
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in rows:
        met = "" if row.goal is None else "yes" if row.each <= row.goal else "no"
        table.add_row(row.what, f"{row.count:,}", f"{row.each:,.0f}", "" if row.goal is None else f"≤ {row.goal}", met)
    console.print(table)
    kinds = sorted({kind for row in rows for kind in row.kinds})
    table = Table("bytes a key", *kinds, title="Where they go", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(row.what, *(f"{row.kinds[kind]:,.0f}" if kind in row.kinds else "" for kind in kinds))
    console.print(table)
    console.print(server)
