"""Owns a generator process: it sends what is due when it is due, whatever the service does. One loop, no tasks.

It reads orders as lines of JSON, and reports as such; ``generators`` is the other end. ``python -m bench.generator``.
"""

import asyncio
import gc
import heapq
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import msgspec
import uvloop

from bench import arrivals
from bench.http_load import Load, Request
from bench.orders import Cell, Finish, Plan, Report, Stretch
from bench.sale import Sale

TICK_S: Final = 0.001
"""The loop's own grain. Answers that come in between send what is due as well."""
BURST: Final = 32
"""Requests sent in one turn of the loop; then answers get theirs."""
REPORT_S: Final = 0.25
CONNECTIONS_AT_FIRST: Final = 32
WELCOME: Final = frozenset({"200", "201", "409", "429", "503"})
REFUSALS_TOLD: Final = 20


class Flow:
    """A stream during a stretch."""

    __slots__ = ("due", "make")

    def __init__(self, make: Callable[[float], Request], due: Iterator[float]) -> None:
        self.make, self.due = make, due


class _Reports(asyncio.BaseProtocol):
    """The pipe to the command."""

    def __init__(self) -> None:
        self.flushed = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.flushed.set()


class Generator:
    """What is due, in a heap, and what has been counted since the last report."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._load = Load(plan.url, plan.connections_max, self._answered)
        self._sale = Sale(plan, self._later)
        self._due: list[tuple[float, int, Flow | Request]] = []
        self._order = count()
        self._cells: dict[tuple[int, str], Cell] = {}
        self._late: dict[int, dict[int, int]] = {}
        self._refused: set[tuple[str, str]] = set()
        self._refusals: list[str] = []
        self._stretches = 0
        self._again = False
        self._told_to: asyncio.WriteTransport | None = None

    async def run(self) -> None:
        """Until told to finish, or until nobody listens."""
        await self._load.open(CONNECTIONS_AT_FIRST)
        loop = asyncio.get_running_loop()
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        # Buffered: a command that is busy must not hold the sender up.
        self._told_to, reports = await loop.connect_write_pipe(_Reports, sys.stdout)
        gc.collect()
        gc.disable()  # nothing here is in a circle, and a collection would make requests late
        self._tick(loop)
        self._tell(loop)
        decoder = msgspec.json.Decoder(Stretch | Finish)
        while line := await orders.readline():
            order = decoder.decode(line)
            if isinstance(order, Finish):
                self._due.clear()
                self._report()
                told = msgspec.json.encode(self._sale.holds())
                await asyncio.to_thread(Path(order.path).write_bytes, told)
                self._told_to.close()
                await reports.flushed.wait()
                return
            self._begin(order)

    def _begin(self, stretch: Stretch) -> None:
        plan = self._plan
        self._stretches += 1
        for name, rate in stretch.rates.items():
            if stretch.poisson:
                chance = Random(f"{plan.seed}-{plan.number}-{self._stretches}-{name}")  # noqa: S311
                offsets = arrivals.poisson(rate, stretch.seconds, chance)
            else:
                offsets = arrivals.constant(rate, stretch.seconds, plan.number - 1, plan.processes)
            due = (stretch.from_s + offset for offset in offsets)
            first_s = next(due, None)
            if first_s is not None:
                heapq.heappush(self._due, (first_s, next(self._order), Flow(self._sale.streams[name], due)))

    def _later(self, request: Request) -> None:
        heapq.heappush(self._due, (request.due_s, next(self._order), request))

    def _send_due(self) -> None:
        """Send what is due by now."""
        due, now_s = self._due, monotonic()
        for _ in range(BURST):
            if not due or due[0][0] > now_s:
                return
            due_s, _order, what = due[0]
            if isinstance(what, Flow):
                request = what.make(due_s)
                next_s = next(what.due, None)
                if next_s is None:
                    heapq.heappop(due)
                else:
                    heapq.heapreplace(due, (next_s, next(self._order), what))
            else:
                heapq.heappop(due)
                request = what
            self._count(request, now_s)
            self._load.submit(request)
            now_s = monotonic()
        if not self._again:
            self._again = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._again = False
        self._send_due()

    def _count(self, request: Request, now_s: float) -> None:
        """It is offered; as late as this."""
        second = int(request.due_s)
        place = second, request.kind
        cell = self._cells.get(place)
        if cell is None:
            cell = self._cells[place] = Cell(second, request.kind, 0, {})
        cell.scheduled += 1
        us = int((now_s - request.due_s) * 1e6)
        if us >= 256:
            shift = us.bit_length() - 8
            us = (shift << 7) + (us >> shift)
        late = self._late.get(second)
        if late is None:
            late = self._late[second] = {}
        late[us] = late.get(us, 0) + 1

    def _answered(self, request: Request, status: str, body: bytes) -> None:
        now_s = monotonic()
        second = int(request.due_s)
        place = second, request.kind
        cell = self._cells.get(place)
        if cell is None:
            cell = self._cells[place] = Cell(second, request.kind, 0, {})
        counts = cell.answered.get(status)
        if counts is None:
            counts = cell.answered[status] = {}
        us = int((now_s - request.due_s) * 1e6)
        if us >= 256:  # histogram.record, without the call
            shift = us.bit_length() - 8
            us = (shift << 7) + (us >> shift)
        counts[us] = counts.get(us, 0) + 1
        if status not in WELCOME:
            self._tell_of(request, status, body)
        request.answered(request, status, body)
        if self._due and self._due[0][0] <= now_s:
            self._send_due()

    def _tell_of(self, request: Request, status: str, body: bytes) -> None:
        if (request.kind, status) not in self._refused and len(self._refused) < REFUSALS_TOLD:
            self._refused.add((request.kind, status))
            self._refusals.append(f"{request.kind}: {status} {body[:300].decode(errors='replace')}")

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(TICK_S, self._tick, loop)
        if self._due and self._due[0][0] <= monotonic():
            self._send_due()

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._told_to is not None
        if self._told_to.is_closing():
            return
        loop.call_later(REPORT_S, self._tell, loop)
        self._load.end_late(monotonic())
        self._report()

    def _report(self) -> None:
        report = Report(
            cells=[*self._cells.values()],
            late=self._late,
            pending=self._load.pending,
            connections=self._load.connections,
            cpu_s=time.process_time(),
            refusals=self._refusals,
        )
        self._cells, self._late, self._refusals = {}, {}, []
        assert self._told_to is not None
        self._told_to.write(msgspec.json.encode(report) + b"\n")


def main() -> None:
    """The first line is the plan."""
    # Not through a buffer: what follows the plan is for the loop, which reads the pipe itself.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            return
        line += byte
    plan = msgspec.json.decode(line, type=Plan)
    uvloop.run(Generator(plan).run())


if __name__ == "__main__":
    main()
