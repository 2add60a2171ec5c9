"""Owns what is seen of the machine during a run: CPU and memory of each process from /proc, batches from /metrics."""

import asyncio
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bench.http_client import HttpClient, Lost, NotSent

TICKS: Final = os.sysconf("SC_CLK_TCK")
PROC: Final = Path("/proc")
PARENT, USER_TICKS, SYSTEM_TICKS, RESIDENT_PAGES = 1, 11, 12, 21
"""Fields of /proc/PID/stat, counted from after the command's name."""
LOOK_AROUND: Final = 10
"""Every so many seconds it is looked who is whose child: a machine may run hundreds of others."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
BATCHES: Final = re.compile(
    r"^availability_ledger_batch_operations_(sum|count|bucket)(?:{le=\"([^\"]+)\"})? (\S+)$", re.MULTILINE
)
BATCH_MAX: Final = 1 << 20
"""The edge of what is in no bucket."""


class Usage(NamedTuple):
    """Of a process and all that it started."""

    cpu_s: float
    memory_bytes: int


class Batches(NamedTuple):
    """Calls to the ledger so far, the operations in them, and the calls by [operations up to, how many or fewer]."""

    calls: float
    operations: float
    up_to: dict[int, int]


class Sample(NamedTuple):
    """At one moment of the monotonic clock."""

    at_s: float
    usage: dict[str, Usage]
    batches: Batches | None


class Watch:
    """A sample at each whole second of the monotonic clock.

    ``http`` is a client with one connection: kept, it always reaches the same API process. The batches are that one's.
    """

    def __init__(self, http: HttpClient, pids: Mapping[str, int]) -> None:
        self.samples: list[Sample] = []
        self._http = http
        self._pids = dict(pids)
        self._families: dict[str, list[int]] = {}

    def also(self, pids: Mapping[str, int]) -> None:
        self._pids |= pids
        self._families = families(self._pids)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.sample()
            await asyncio.sleep(1 - time.monotonic() % 1)

    async def sample(self) -> None:
        at_s = time.monotonic()
        if len(self.samples) % LOOK_AROUND == 0:
            self._families = families(self._pids)
        self.samples.append(Sample(at_s, usages(self._families), await self._batches()))

    async def _batches(self) -> Batches | None:
        try:
            async with asyncio.timeout(0.9):
                answer = await self._http.request("GET", "/metrics")
        except (Lost, NotSent, TimeoutError):
            return None
        return read_batches(answer.body.decode()) if answer.status == 200 else None


def read_batches(page: str) -> Batches | None:
    """The histogram of operations a call, of a page of /metrics; None when it is not there."""
    found = BATCHES.findall(page)
    whole = {kind: float(value) for kind, _, value in found if kind != "bucket"}
    up_to = {
        BATCH_MAX if edge == "+Inf" else int(float(edge)): int(float(value))
        for kind, edge, value in found
        if kind == "bucket"
    }
    return Batches(whole["count"], whole["sum"], up_to) if "count" in whole else None


def calls_by_size(before: Batches | None, after: Batches | None) -> list[tuple[int, int]]:
    """Calls to the ledger between two readings of one process, by [operations up to, how many]."""
    if before is None or after is None or after.calls < before.calls:
        return []
    sizes, less = [], 0
    for edge, count in sorted(after.up_to.items()):
        so_far = count - before.up_to.get(edge, 0)
        if so_far > less:
            sizes.append((edge, so_far - less))
        less = so_far
    return sizes


def families(pids: Mapping[str, int]) -> dict[str, list[int]]:
    """Each process with its descendants that have no name of their own; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[PARENT]), []).append(pid)
    named = set(pids.values())
    found: dict[str, list[int]] = {}
    for name, pid in pids.items():
        family = [pid]
        for member in family:
            family += [child for child in children.get(member, []) if child not in named]
        found[name] = family
    return found


def usages(of: Mapping[str, list[int]]) -> dict[str, Usage]:
    """Of each family, those of its members that live."""
    found: dict[str, Usage] = {}
    for name, family in of.items():
        stats = [stat for pid in family if (stat := _stat(pid)) is not None]
        if stats:
            ticks = sum(int(stat[USER_TICKS]) + int(stat[SYSTEM_TICKS]) for stat in stats)
            found[name] = Usage(ticks / TICKS, sum(int(stat[RESIDENT_PAGES]) for stat in stats) * PAGE_BYTES)
    return found


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()] if PROC.is_dir() else []


def _stat(pid: int) -> list[str] | None:
    """The fields after the command's name; None when it has ended meanwhile."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
