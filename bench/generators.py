"""Owns the generator processes from the command's side: starting, ordering, adding up what they report, ending them."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from bench import histogram
from bench.histogram import Counts
from bench.http_load import TIMEOUT_S
from bench.orders import Cell, Finish, Holds, Plan, Report, Stretch

LINE_BYTES_MAX: Final = 1 << 28
PAUSE_S: Final = 0.02
END_TIMEOUT_S: Final = 60.0


class GeneratorFailed(Exception):
    """A generator process ended, or does not answer; the text is what it said last."""


@dataclass
class Counted:
    """All requests of one kind that were due in one second."""

    scheduled: int = 0
    answered: dict[str, Counts] = field(default_factory=dict)


@dataclass
class _Process:
    plan: Plan
    process: asyncio.subprocess.Process
    last: Report | None = None
    told: int = 0


class Generators:
    """The processes, and what they have counted so far. Seconds are those of the monotonic clock."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, str], Counted] = {}
        self.late: dict[int, Counts] = {}
        self.refusals: list[str] = []
        self._processes: list[_Process] = []

    @property
    def pids(self) -> dict[str, int]:
        return {f"generator-{one.plan.number}": one.process.pid for one in self._processes}

    @property
    def cpu_s(self) -> list[float]:
        """Seconds of CPU that each process has used."""
        return [one.last.cpu_s if one.last else 0.0 for one in self._processes]

    @property
    def pending(self) -> int:
        """Requests without an answer yet."""
        return sum(one.last.pending if one.last else 0 for one in self._processes)

    @property
    def connections(self) -> int:
        return sum(one.last.connections if one.last else 0 for one in self._processes)

    async def offer(self, from_s: float, seconds: float, rates: Mapping[str, float], *, poisson: bool) -> None:
        """Send these streams, at so many a second in all, from that moment of the monotonic clock on."""
        each = {name: rate / len(self._processes) for name, rate in rates.items()}
        for one in self._processes:
            await _write(one, Stretch(from_s, seconds, each, poisson))

    async def wait_until(self, at_s: float) -> None:
        """Until this moment of the monotonic clock; ``GeneratorFailed`` when a process ends before."""
        while (left_s := at_s - time.monotonic()) > 0:
            self._check()
            await asyncio.sleep(min(left_s, 0.25))

    async def wait_answered(self) -> None:
        """Until all that was sent is answered or given up, and counted."""
        told = [one.told for one in self._processes]
        give_up_at = time.monotonic() + 2 * TIMEOUT_S
        # The report that is on its way may be from before; the one after it is not.
        while self.pending or any(one.told < old + 2 for one, old in zip(self._processes, told, strict=True)):
            self._check()
            if time.monotonic() > give_up_at:
                raise GeneratorFailed(f"{self.pending} requests are neither answered nor given up")
            await asyncio.sleep(PAUSE_S)

    async def finish(self) -> list[Holds]:
        """End the processes; what became of their holds."""
        with tempfile.TemporaryDirectory(prefix="bench-holds-") as folder:
            paths = [Path(folder) / f"{one.plan.number}.json" for one in self._processes]
            for one, path in zip(self._processes, paths, strict=True):
                await _write(one, Finish(str(path)))
            async with asyncio.timeout(END_TIMEOUT_S):
                codes = [await one.process.wait() for one in self._processes]
            if any(codes):
                raise GeneratorFailed(f"generator processes ended with {codes}")
            return [msgspec.json.decode(path.read_bytes(), type=Holds) for path in paths]

    async def start(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            argv = [sys.executable, "-m", "bench.generator"]
            pipe = asyncio.subprocess.PIPE
            # In a session of its own, so that Ctrl-C is ours to handle.
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=pipe, stdout=pipe, limit=LINE_BYTES_MAX, start_new_session=True
            )
            one = _Process(plan, process)
            self._processes.append(one)
            await _write(one, plan)

    def stop(self) -> None:
        for one in self._processes:
            if one.process.returncode is None:
                one.process.kill()

    async def listen(self) -> None:
        """Add up what they report, for as long as they live."""
        async with asyncio.TaskGroup() as tasks:
            for one in self._processes:
                tasks.create_task(self._listen(one))

    async def _listen(self, one: _Process) -> None:
        assert one.process.stdout is not None
        decoder = msgspec.json.Decoder(Report)
        while line := await one.process.stdout.readline():
            report = decoder.decode(line)
            for cell in report.cells:
                self._add(cell)
            for second, counts in report.late.items():
                histogram.add(self.late.setdefault(second, {}), counts)
            self.refusals += report.refusals
            one.last = report
            one.told += 1

    def _add(self, cell: Cell) -> None:
        counted = self.cells.setdefault((cell.due_s, cell.kind), Counted())
        counted.scheduled += cell.scheduled
        for status, counts in cell.answered.items():
            histogram.add(counted.answered.setdefault(status, {}), counts)

    def _check(self) -> None:
        for one in self._processes:
            if one.process.returncode is not None:
                raise GeneratorFailed(f"generator {one.plan.number} ended with {one.process.returncode}")


async def _write(one: _Process, order: Plan | Stretch | Finish) -> None:
    assert one.process.stdin is not None
    try:
        one.process.stdin.write(msgspec.json.encode(order) + b"\n")
        await one.process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError) as error:
        raise GeneratorFailed(f"generator {one.plan.number} does not listen") from error


@asynccontextmanager
async def running(plans: Sequence[Plan]) -> AsyncIterator[Generators]:
    """Processes that are connected and ready; killed at the end if they have not finished."""
    generators = Generators()
    try:
        await generators.start(plans)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(generators.listen())
            try:
                await generators.wait_answered()
                yield generators
            finally:
                listening.cancel()
    finally:
        generators.stop()
