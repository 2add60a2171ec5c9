"""Owns the measurement of the audit: what it takes of a core, and what it finds, in the keeper while a sale runs.

In an ``availability up`` of its own. Holds through the ledger's own door, all the time some in flight; the CPU time of
the process ``keeper`` is Linux's, of all its threads, so what the audit itself does not see is in it.
"""

import asyncio
import time
from typing import Final

from rich.console import Console

from bench import medians, processes, target
from bench.feed_rate import selling
from bench.medians import Figures, Goal
from ledger import Apply, Audit, AuditReport, AuditStatus, Ledger, Location, PutLocation, StockEvent, event_key

SKUS: Final = 20
"""As many as the sale of ``feed_rate`` sells from."""
LOCATION: Final = "STORE-001"
STOCK: Final = 100_000_000
STARTED_S: Final = 5.0
"""What a process takes to start is not the audit's."""
GOALS: Final = {"keeper's CPU, % of a core": Goal("≤", 5), "differences": Goal("≤", 0)}
"""DESIGN 8 and its acceptance."""


async def run(seconds: int, sale: int, positions: int, console: Console) -> bool:
    """Measure and print; whether the goals are met. Raises ``NoTarget`` when there is no ``up`` to run."""
    async with target.running(None) as place:
        addresses = place.addresses
        ledger = Ledger(addresses.redis)
        try:
            await _open(ledger, positions)
            async with selling(ledger, sale) as sold:
                await asyncio.sleep(STARTED_S)
                found = await _watch(addresses.pids, seconds, sold)
            found |= await _found(addresses)
        finally:
            await ledger.close()
    return medians.show(console, f"Audit beside {sale} holds in flight, {positions:,} positions", [found], GOALS)


async def _open(ledger: Ledger, positions: int) -> None:
    await ledger.put_location(PutLocation("bench", Location(LOCATION)))
    at_ms = time.time_ns() // 1_000_000
    names = [f"SKU-{number:05}" for number in range(max(SKUS, positions))]
    events = [
        StockEvent(event_key("wms", name), "wms", name, "snapshot", name, LOCATION, STOCK, at_ms) for name in names
    ]
    for first in range(0, len(events), 2_000):
        await ledger.apply(Apply("bench", events[first : first + 2_000]))


async def _watch(pids: dict[str, int], seconds: int, sold: list[int]) -> Figures:
    names = ("keeper", "valkey", "postgres")
    families = {name: processes.family(pids[name]) for name in names}
    before, holds, began_at = {name: processes.cpu_s(families[name]) for name in names}, len(sold), time.perf_counter()
    await asyncio.sleep(seconds)
    passed_s = time.perf_counter() - began_at
    figures: Figures = {
        f"{name}'s CPU, % of a core": 100 * (processes.cpu_s(families[name]) - before[name]) / passed_s
        for name in names
    }
    return figures | {"holds/s": (len(sold) - holds) / passed_s}


async def _found(addresses: target.Addresses) -> Figures:
    """What the keeper told last, and what a whole round finds while the journal gets the rest."""
    status = await AuditStatus.open(addresses.postgres)
    try:
        report = await status.last()
    finally:
        await status.close()
    audit = await Audit.open(addresses.redis, addresses.postgres, 1)
    began_at = time.perf_counter()
    try:
        async for _ in audit.round():
            pass
    finally:
        await audit.close()
    told = report.counts if report else {}
    return {
        "differences": float(sum(told.values()) + audit.counts.total()),
        **(_rounds(report) if report else {}),
        "a round of the command, s": time.perf_counter() - began_at,
        "entries": float(audit.entries),
        "reservations": float(audit.size.reservations),
    }


def _rounds(report: AuditReport) -> Figures:
    """Of the keeper: how old its last rounds are, and how far behind the ledger that of claims was."""

    def seconds(ms: int | None) -> float:
        return float("nan") if ms is None else ms / 1_000

    return {
        "age of the keeper's last round of stock, s": seconds(report.completed_ms_ago),
        "age of its last round of claims, s": seconds(report.claims_completed_ms_ago),
        "claims were behind, s": seconds(report.claims.behind_ms),
        "claims were behind, entries": float(report.claims.behind_entries),
        "claims left to the next round": float(report.claims.left_out),
    }
