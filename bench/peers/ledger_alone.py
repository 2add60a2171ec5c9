"""Owns the comparison of the ledger alone with its rivals: one hot SKU, each server on one core, its driver on another.

The contenders take turns within a round, each from an empty store. Afterwards each is asked what it has held: not more
than there was, and exactly what it granted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import asyncpg
from redis.asyncio import Redis
from rich.console import Console

from bench import machine, processes, servers
from bench.peers import recorded, sql
from bench.peers.table import Goal, Oversold, Row, Sample, Tables, spare
from bench.servers import Running
from ledger import (
    Apply,
    Hold,
    HoldLine,
    Ledger,
    Location,
    PutLocation,
    Read,
    ReadItem,
    StockEvent,
    event_key,
    fingerprint,
    operation_id,
)

PLACE: Final = "W1"
CLIENT: Final = "web"
CONNECTIONS: Final = 4
"""As many API processes, each with one call under way."""
PIPELINED: Final = 64
"""Calls of one hold that are under way on each connection."""
BIG_BATCH: Final = 500
OURS, REFUSED, ALONE = "ledger, batches of {}", "ledger, refused, batches of {}", "ledger, a call for each hold"
SPREAD: Final = "ledger, batches over {:,} SKUs"
TAIL: Final = 1_000
UPDATE, SKIP, FUNCTION = "Postgres conditional update", "Postgres SKIP LOCKED", "Postgres function, {} a call"
CAVEATS: Final = (
    "Both servers ran on the same one core in turn, the driver on the other; nothing between them but loopback.",
    "The ledger's calls were recorded from its own client beforehand; they give the clock instead of asking it.",
    "The ledger's holds have keys, returning expiry, limits and a journal entry; the rivals' have none of these.",
    "Nobody read the ledger's journal meanwhile, and its file was not rewritten; Postgres made no checkpoint.",
)


@dataclass(frozen=True)
class Contender:
    """``play`` runs once from an empty store and tells how many holds it was asked for and by whom CPU was used."""

    name: str
    says: str
    play: Callable[[], Awaitable[Sample]]


async def measure(rounds: int, holds: int, batch: int, command: str, console: Console) -> Tables:
    """The tables. Raises ``NoTarget`` when there are no servers to run, ``Oversold`` when one must not be believed."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with processes.cores(processes.OTHER_CORES):
        async with (
            servers.valkey(processes.FIRST_CORE) as valkey,
            servers.postgres(processes.FIRST_CORE, servers.FOR_RIVALS) as postgres,
        ):
            contenders = [*await _ours(valkey, holds, batch, console), *_rivals(postgres, holds, batch)]
            samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
            for number in range(rounds):
                for contender in contenders:
                    sample = await contender.play()
                    samples[contender.name].append(sample)
                    console.print(f"round {number + 1}: {contender.name}: {sample.per_second:,.0f} a second")
    rows = [Row(contender.name, contender.says, "holds", samples[contender.name]) for contender in contenders]
    caveats = [*CAVEATS, *spare(rows, "server", 1)]
    described, commit = machine.facts(), machine.commit()
    return Tables("The ledger alone", command, started_at, commit, described, rows, _goals(batch), caveats)


def _goals(batch: int) -> list[Goal]:
    ours = OURS.format(batch)
    return [
        Goal(ours, 150_000),
        Goal(ours, 15, ALONE),
        Goal(ours, 50, UPDATE),
        Goal(ours, 2, FUNCTION.format(batch)),
        Goal(ours, 2, FUNCTION.format(BIG_BATCH)),
        Goal(REFUSED.format(batch), 1, ours),
    ]


# --- ours --------------------------------------------------------------------------------------------------------


async def _ours(valkey: Running, holds: int, batch: int, console: Console) -> list[Contender]:
    console.print("recording the ledger's calls")
    ours = _Ours(valkey, time.time_ns() // 1_000_000)
    few = max(batch, holds // 10)
    tail = {f"SKU-{number}": holds for number in range(TAIL)}
    together = await ours.calls(holds, batch, [sql.HOT])
    spread = await ours.calls(holds, batch, list(tail))
    alone = await ours.calls(few, 1, [sql.HOT])
    says = f"{CONNECTIONS} connections with one call under way on each"
    shared = f"{CONNECTIONS} connections with {PIPELINED} calls under way on each, which share reads, writes and fsyncs"
    return [
        ours.contender(OURS.format(batch), says, together, holds, {sql.HOT: holds}),
        ours.contender(
            REFUSED.format(batch), f"{says}; 63 of 64 find nothing left", together, holds, {sql.HOT: holds // 64}
        ),
        ours.contender(SPREAD.format(TAIL), f"{says}; each hold of a batch is of another SKU", spread, holds, tail),
        ours.contender(ALONE, f"the same library, {shared}", alone, few, {sql.HOT: few}, PIPELINED),
    ]


@dataclass(frozen=True)
class _Ours:
    """The ledger on a server, at one time."""

    valkey: Running
    now_ms: int

    async def calls(self, holds: int, size: int, skus: Sequence[str]) -> list[bytes]:
        """Recorded, of holds of these SKUs in turn, so many in each."""
        await stock(self.valkey.url, dict.fromkeys(skus, holds), self.now_ms)
        operations = [hold(number, skus[number % len(skus)]) for number in range(holds)]
        made = await recorded.record(self.valkey.url, operations, size, self.now_ms)
        assert len(made) == -(-holds // size)
        return made

    def contender(
        self, name: str, says: str, calls: list[bytes], asked: int, units: dict[str, int], in_flight: int = 1
    ) -> Contender:
        """Plays the calls, which ask for so many units, into a ledger that has ``units``."""
        url, now_ms = self.valkey.url, self.now_ms

        async def play() -> Sample:
            await stock(url, units, now_ms)
            sample = await _timed(self.valkey, lambda: recorded.play(url, calls, CONNECTIONS, in_flight), asked)
            await check(url, min(sum(units.values()), asked), units, now_ms)
            return sample

        return Contender(name, says, play)


def hold(number: int, sku: str = sql.HOT) -> Hold:
    """As the API makes it, of a buyer of its own."""
    customer = f"customer-{number}"
    told = fingerprint("hold", {"lines": [{"sku": sku, "quantity": 1, "location": PLACE}], "customer": customer})
    identity = operation_id(CLIENT, f"cart-{number}")
    return Hold(identity, told, CLIENT, [HoldLine(sku, 1, PLACE)], sql.TTL_S * 1_000, customer=customer)


async def stock(url: str, units: Mapping[str, int], now_ms: int) -> None:
    """An empty ledger with so many units of each SKU."""
    async with Redis.from_url(url) as client:
        await client.eval("redis.call('flushall', 'sync')", 0)
    ledger = Ledger(url, now_ms=lambda: now_ms)
    try:
        await ledger.put_location(PutLocation(CLIENT, Location(PLACE)))
        counts = [
            StockEvent(event_key("wms", sku), "wms", sku, "snapshot", sku, PLACE, quantity, now_ms - 1_000)
            for sku, quantity in units.items()
        ]
        applied = await ledger.apply(Apply(CLIENT, counts))
        assert {result.outcome for result in applied.results} == {"applied"}
    finally:
        await ledger.close()


async def check(url: str, granted: int, units: Mapping[str, int], now_ms: int) -> None:
    """Raises ``Oversold`` unless exactly what was granted is held, and of no SKU more than its units."""
    ledger = Ledger(url, now_ms=lambda: now_ms)
    try:
        found = await ledger.read(Read([ReadItem(sku, [PLACE]) for sku in units]))
    finally:
        await ledger.close()
    positions = [item.positions[0].position for item in found.items]
    held = sum(position.held for position in positions)
    if held != granted or any(position.available < 0 for position in positions):
        raise Oversold(f"of {sum(units.values())} units {held} are held; {granted} were granted")


# --- rivals ------------------------------------------------------------------------------------------------------


def _rivals(postgres: Running, holds: int, batch: int) -> list[Contender]:
    def contender(name: str, says: str, way: sql.Way, connections: int, size: int, asked: int) -> Contender:
        async def play() -> Sample:
            await sql.filled(postgres.url, asked, rows=asked if way is sql.skip_locked else 0)
            sample = await _ask(postgres, way, connections, size, asked)
            found = await sql.held(postgres.url)
            if found != (asked, 0):
                raise Oversold(f"{name}: of {asked} units {found[0]} are held, {found[1]} left")
            return sample

        return Contender(name, says, play)

    few, big = max(1, holds // 20), max(1, holds // BIG_BATCH) * BIG_BATCH
    same = max(1, holds // batch) * batch
    return [
        contender(UPDATE, "prepared, 4 connections (16: a fifth less)", sql.conditional_update, 4, 1, few),
        contender(SKIP, "prepared, 16 connections", sql.skip_locked, 16, 1, few),
        contender(FUNCTION.format(batch), "prepared, 2 connections", sql.batched, 2, batch, same),
        contender(FUNCTION.format(BIG_BATCH), "prepared, 4 connections", sql.batched, 4, BIG_BATCH, big),
    ]


async def _ask(postgres: Running, way: sql.Way, connections: int, size: int, asked: int) -> Sample:
    """Every connection asks again when it has its answer, until all was asked; all of it must be granted."""
    opened = [await asyncpg.connect(postgres.url) for _ in range(connections)]
    try:
        askers = [await way(connection) for connection in opened]
        turns = iter(range(0, asked, size))
        granted = 0

        async def drive(ask: sql.Asker) -> None:
            nonlocal granted
            for _ in turns:
                found = await ask(size)
                granted += found

        async def all_of_them() -> None:
            await asyncio.gather(*map(drive, askers))

        sample = await _timed(postgres, all_of_them, asked)
        if granted != asked:
            raise Oversold(f"{granted} of {asked} holds were granted, and there were units for all")
        return sample
    finally:
        for connection in opened:
            await connection.close()


async def _timed(server: Running, work: Callable[[], Awaitable[None]], done: int) -> Sample:
    """How long it took, and whose CPU."""
    server_s, driver_s, began_s = server.cpu_s(), time.process_time(), time.perf_counter()
    await work()
    seconds = time.perf_counter() - began_s
    return Sample(done, seconds, {"server": server.cpu_s() - server_s, "driver": time.process_time() - driver_s})
