"""Owns the comparison over HTTP: our API with everything on, and what would be written instead, behind the same server.

The contenders take turns within a round. What each has held afterwards must be exactly what it granted.
"""

import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct
from redis.asyncio import Redis
from rich.console import Console

from availability import embedded
from bench import machine
from bench.caller import Caller, Unexpected, expect
from bench.contract import time_text
from bench.http_client import HttpClient
from bench.peers import load, serve, sql, stage
from bench.peers.stage import Stage
from bench.peers.table import Goal, Oversold, Row, Sample, Tables, spare
from bench.processes import CORES

CONNECTIONS, BULK_CONNECTIONS = 64, 8
"""For each API process; of requests for hundreds of things a few keep it busy."""
UNITS: Final = 50_000_000
SCOPES: Final = ("atp:read", "reservations:read", "reservations:write", "catalog:write", "stock:write")
OURS: Final = "ours"


class Contender(Struct, frozen=True):
    """A row: which app serves, what is asked for, and which status an answer must have."""

    name: str
    app: str
    kind: load.Kind
    expected: str
    says: str = ""


NULL, HOLD, GONE, ALONE = (
    "null raw ASGI, POST",
    "ours: hold",
    "ours: refused hold",
    "ours, a script call a request: hold",
)
ATP, ATP_MANY, BATCH = "ours: GET ATP of one", f"ours: POST ATP of {load.ITEMS}", f"ours: batch of {load.RESERVATIONS}"
CONTENDERS: Final = (
    Contender(NULL, "null-raw", "hold", "200", "reads the body, answers 200 bytes"),
    Contender("null Litestar, POST", "null-litestar", "hold", "200", "the same as a Litestar handler"),
    Contender(HOLD, OURS, "hold", "201", "token, key, metrics, journal and events on, a fresh client and SKU a round"),
    Contender(GONE, OURS, "hold", "409", "of a SKU that has none left"),
    Contender(ALONE, serve.OWN, "hold", "201", "our API on a pool of 64 connections, batches off"),
    Contender("raw ASGI, Postgres function in batches", "raw-batched", "hold", "201", "asyncpg, a coalescer like ours"),
    Contender("raw ASGI, Postgres conditional update", "raw-update", "hold", "201", "asyncpg, a pool of 4 connections"),
    Contender("raw ASGI, a script call a request", "raw-script", "hold", "201", "redis-py with hiredis and its pool"),
    Contender("Litestar, a script call a request", "litestar-script", "hold", "201", "the same as a Litestar handler"),
    Contender("raw ASGI, a script call a request: refused", "raw-script", "hold", "409"),
    Contender("raw ASGI, Postgres function: refused", "raw-batched", "hold", "409"),
    Contender(ATP, OURS, "atp", "200", "all of the hot SKU, so those that come together may share an answer"),
    Contender("ours: GET ATP of one of 499", OURS, "atp-tail", "200", "in turn, so that hardly two are of the same"),
    Contender("ours: POST ATP of one", OURS, "atp-post", "200"),
    Contender(ATP_MANY, OURS, "atp-many", "200", "things are items; no two bodies under way are the same"),
    Contender(BATCH, OURS, "batch", "200", "reservations/batch; things are reservations of one line"),
)
CAVEATS: Final = (
    "A closed loop tells what a service can do at most, and nothing of its latency.",
    "With one API process, that one had a core to itself, and the load and all servers shared the other.",
    "With more, all shared both cores: what is missing there may be missing cores.",
    "Rivals check no token and no key, keep no journal, publish nothing, and give nothing back when a hold expires.",
)


async def measure(
    rounds: int, processes: Sequence[int], seconds: float, only: str, command: str, console: Console
) -> list[Tables]:
    """A table for each number of processes. Raises ``NoTarget``, ``Oversold``, ``Unexpected``."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    described, commit = machine.facts(), machine.commit()
    chosen = [contender for contender in CONTENDERS if only in contender.name or contender.name == NULL]
    tables = []
    for number in processes:
        samples: dict[str, list[Sample]] = {contender.name: [] for contender in chosen}
        async with stage.set_up(number) as on:
            for round_ in range(rounds):
                for contender in chosen:
                    found = await _sample(on, contender, seconds)
                    samples[contender.name].append(found)
                    console.print(
                        f"{number} API, round {round_ + 1}: {contender.name}: {found.per_second:,.0f} a second"
                    )
        rows = [Row(each.name, each.says, _things(each), samples[each.name], NULL) for each in chosen]
        caveats = [*CAVEATS, *spare(rows, "api", min(number, len(CORES) - 1 or 1)), *_shed(rows)]
        title = f"Over HTTP, {number} API process{'es' if number > 1 else ''}"
        tables.append(Tables(title, command, started_at, commit, described, rows, _goals(number), caveats, "api"))
    return tables


def _shed(rows: list[Row]) -> list[str]:
    """Where requests were refused for overload, which is cheaper than to answer them."""
    names = [
        f"{row.name} ({sum(each.shed for each in row.samples):,})" for row in rows if any(s.shed for s in row.samples)
    ]
    return [f"Requests were answered 429 or 503, and not counted: {'; '.join(names)}."] if names else []


def _things(contender: Contender) -> str:
    return {"hold": "requests", "batch": "reservations"}.get(contender.kind, "items")


def _goals(processes: int) -> list[Goal]:
    """DESIGN 11 speaks of one API process; the ratios between ways to do it must hold with more, too."""
    between = [Goal(HOLD, 2.5, ALONE), Goal(GONE, 1, HOLD)]
    if processes > 1:
        return between
    return [Goal(HOLD, 0.6, NULL), Goal(ATP, 0.7, NULL), *between, Goal(BATCH, 50_000), Goal(ATP_MANY, 150_000)]


async def _sample(on: Stage, contender: Contender, seconds: float) -> Sample:
    if contender.app in {OURS, serve.OWN}:
        return await _ours(on, contender, seconds)
    await sql.filled(on.postgres.url, UNITS)
    async with Redis.from_url(on.valkey.url) as client:
        await client.flushall()
        await client.set(f"toy:stock:{sql.HOT}", UNITS)
    async with on.served(contender.app) as (port, pids):
        sku = sql.SOLD_OUT if contender.expected == "409" else sql.HOT
        counted, sample = await on.loaded(_order(on, contender, port, sku, seconds), pids)
        _believe(contender, counted, await _held(on, contender))
    return sample


async def _held(on: Stage, contender: Contender) -> int:
    """Units that a rival has held."""
    if contender.app.endswith("script"):
        async with Redis.from_url(on.valkey.url) as client:
            return UNITS - int(await client.get(f"toy:stock:{sql.HOT}") or 0)
    return (await sql.held(on.postgres.url))[0]


async def _ours(on: Stage, contender: Contender, seconds: float) -> Sample:
    """Each time for a client and a SKU of its own, so that nothing of the last round is in the way."""
    name = f"peers-{secrets.token_hex(4)}"
    token = on.ours.token(name, SCOPES)
    async with AsyncExitStack() as stack:
        caller = Caller(await stack.enter_async_context(HttpClient(on.ours.addresses.api, token, 4)))
        await _open(caller, name, 0 if contender.expected == "409" else UNITS)
        port, pids = urlsplit(on.ours.addresses.api).port or 80, on.our_apis
        if contender.app == serve.OWN:
            port, pids = await stack.enter_async_context(on.served(contender.app))
        await on.quiet()
        counted, sample = await on.loaded(_order(on, contender, port, name, seconds, token), pids)
        answer = await caller.ask("POST", "/v1/atp", {"items": [{"sku": name, "location": load.LOCATION}]})
        expect(200, answer)
        _believe(contender, counted, answer.body["items"][0]["locations"][0]["held"])
        await on.quiet()
    return sample


async def _open(caller: Caller, name: str, units: int) -> None:
    """The location, the hot SKU, and the tail for those who read it."""
    expect(200, await caller.ask("PUT", f"/v1/locations/{load.LOCATION}", {"type": "warehouse"}))
    stock = {load.tail(number): 1_000 for number in range(1, load.ITEMS)} | {name: units}
    lines = [{"sku": sku, "quantity": quantity} for sku, quantity in stock.items()]
    path, as_of = f"/v1/locations/{load.LOCATION}/counts/{name}", time_text(time.time_ns() // 1_000_000)
    expect(200, await caller.ask("PUT", path, {"as_of": as_of, "lines": lines}))


def _order(on: Stage, contender: Contender, port: int, sku: str, seconds: float, token: str = "-") -> load.Order:  # noqa: S107
    run = f"{sku}-{secrets.token_hex(4)}"
    connections = (CONNECTIONS if load.THINGS[contender.kind] == 1 else BULK_CONNECTIONS) * on.processes
    return load.Order(contender.kind, embedded.HOST, port, token, sku, run, contender.expected, connections, seconds)


def _believe(contender: Contender, counted: load.Counted, held: int) -> None:
    """Every answer was as expected, or shed; and exactly what was granted is held."""
    odd = counted.by_status.keys() - stage.SHED - {contender.expected}
    if odd or counted.answered == 0:
        raise Unexpected(f"{contender.name}: answers by status were {counted.by_status}")
    if held != counted.granted:
        raise Oversold(f"{contender.name}: {counted.granted} granted, {held} held")
