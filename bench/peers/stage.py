"""Owns where the contenders over HTTP run: servers, API processes and load, each on its cores, and whose CPU was used.

With one API process, that one has a core to itself, and all else (the load, Valkey, Postgres, NATS, the journal) the
others. With more, nobody has.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from availability import embedded
from bench import servers, target
from bench.peers import load, serve
from bench.peers.table import Sample
from bench.processes import CORES, FIRST_CORE, OTHER_CORES, cores, cpu_s, family, pin
from bench.servers import Running
from bench.target import NoTarget, Target

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 60.0
QUIET_CORES: Final = 0.15
QUIET_S, QUIET_GIVE_UP_S = 0.3, 60.0
POLL_S: Final = 0.05
LISTENING: Final = "0A"
SHED: Final = {"429", "503"}


@dataclass(frozen=True)
class Stage:
    """What the contenders of one number of API processes stand on."""

    processes: int
    ours: Target
    valkey: Running
    postgres: Running

    @property
    def our_apis(self) -> Collection[int]:
        return {pid for name, pid in self.ours.addresses.pids.items() if name.startswith("api")}

    def rest(self) -> dict[str, Collection[int]]:
        """All processes that are neither API nor load, by name."""
        ours = {name: pid for name, pid in self.ours.addresses.pids.items() if not name.startswith("api")}
        named = {**ours, "rivals' valkey": self.valkey.pid, "rivals' postgres": self.postgres.pid}
        return {name: family(pid) for name, pid in named.items()}

    @asynccontextmanager
    async def served(self, app: str) -> AsyncIterator[tuple[int, Collection[int]]]:
        """The port and the processes of a contender's app while it runs."""
        port = embedded.free_port()
        folder = str(self.ours.folder)
        order = serve.Order(app, embedded.HOST, port, self.valkey.url, self.postgres.url, folder)
        children: list[asyncio.subprocess.Process] = []
        try:
            with cores(_api_cores(self.processes)):
                for _ in range(self.processes):
                    children.append(await _child("bench.peers.serve", order))  # noqa: PERF401 - what has begun must end
            give_up_at = time.monotonic() + START_S
            while _listeners(port) < self.processes:
                if time.monotonic() > give_up_at or any(child.returncode is not None for child in children):
                    raise NoTarget(f"{app} does not start")
                await asyncio.sleep(POLL_S)
            yield port, {child.pid for child in children}
        finally:
            for child in children:
                if child.returncode is None:
                    child.kill()
                await child.wait()

    async def loaded(self, order: load.Order, apis: Collection[int]) -> tuple[load.Counted, Sample]:
        """Load what is served by ``apis``. Raises ``NoTarget`` when the load ends without a result."""
        with cores(_other_cores(self.processes)):
            child = await _child("bench.peers.load", order)
        try:
            await _line(child)
            watched = {"api": apis, **self.rest()}
            before = {name: cpu_s(pids) for name, pids in watched.items()}
            await _line(child)
            used = {name: cpu_s(pids) - before[name] for name, pids in watched.items()}
            counted = msgspec.json.decode(await _line(child), type=load.Counted)
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
        done = counted.answered * load.THINGS[order.kind]
        shed = sum(counted.by_status.get(status, 0) for status in SHED)
        rest = {name: seconds for name, seconds in used.items() if name != "api"}
        whole = {"api": used["api"], "load": counted.cpu_s, "rest": sum(rest.values())}
        return counted, Sample(max(1, done), counted.seconds, whole, shed, rest)

    async def quiet(self) -> None:
        """Wait until nothing of the last contender is being done any more, above all by the journal."""
        give_up_at = time.monotonic() + QUIET_GIVE_UP_S
        used = QUIET_S
        while used > QUIET_S * QUIET_CORES and time.monotonic() < give_up_at:
            pids = {*self.our_apis, *chain.from_iterable(self.rest().values())}
            before = cpu_s(pids)
            await asyncio.sleep(QUIET_S)
            used = cpu_s(pids) - before


@asynccontextmanager
async def set_up(processes: int) -> AsyncIterator[Stage]:
    """All servers, and our service with so many API processes. Raises ``NoTarget``."""
    elsewhere = _other_cores(processes)
    async with AsyncExitStack() as stack:
        with cores(elsewhere):
            ours = await stack.enter_async_context(target.running(None, workers=processes))
        valkey = await stack.enter_async_context(servers.valkey(elsewhere))
        postgres = await stack.enter_async_context(servers.postgres(elsewhere, servers.FOR_RIVALS))
        stage = Stage(processes, ours, valkey, postgres)
        pin(stage.our_apis, _api_cores(processes))
        yield stage


def _api_cores(processes: int) -> Collection[int]:
    return FIRST_CORE if processes == 1 else CORES


def _other_cores(processes: int) -> Collection[int]:
    return OTHER_CORES if processes == 1 else CORES


async def _child(module: str, order: Struct) -> asyncio.subprocess.Process:
    """A process of ours that has been given its order."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(order) + b"\n")
    await child.stdin.drain()
    return child


async def _line(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    line = await child.stdout.readline()
    if not line:
        raise NoTarget("the load ended without a result; what it said is above")
    return line


def _listeners(port: int) -> int:
    """Sockets that listen on the port: processes that share one have a socket each."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port for row in rows)
