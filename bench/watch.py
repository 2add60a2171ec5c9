"""Owns what is seen of the machine during a run: CPU and memory of each process from /proc, batches from /metrics."""

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from bench.http_client import HttpClient, Lost, NotSent
from bench.processes import Usage, families, usages

LOOK_AROUND: Final = 10
"""Every so many seconds it is looked who is whose child: a machine may run hundreds of others."""
BATCHES: Final = re.compile(
    r"^availability_ledger_batch_operations_(sum|count|bucket)(?:{le=\"([^\"]+)\"})? (\S+)$", re.MULTILINE
)
BATCH_MAX: Final = 1 << 20
"""The edge of what is in no bucket."""


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
