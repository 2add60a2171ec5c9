"""Owns what a disk does to a running server: slow and failing fsync, injected into its system calls by strace."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final

from waiting import wait_until

from availability.feeds.health import refusal_of
from availability.instance import settings_of
from availability.settings import Settings
from bench.processes import family
from chaos.fault import Fault
from chaos.stage import Stage

SYNCS: Final = "fdatasync,fsync,sync_file_range,syncfs"
ATTACH_S: Final = 10.0
ATTACH_PAUSE_S: Final = 0.01
TAKES_AGAIN_S: Final = 40.0


def why_not() -> str | None:
    """Why nothing can be injected here; None when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)  # noqa: S607
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:120]}"


def slow(delay_s: float) -> str:
    """Each fsync begins that much later."""
    return f"delay_enter={round(delay_s * 1_000_000)}"


def failing(*, after: int = 1) -> str:
    """Each fsync from the ``after``-th on ends with EIO, in every thread by its own count."""
    return f"error=EIO:when={after}+"


@asynccontextmanager
async def injected(pids: Sequence[int], how: str, log: Path) -> AsyncIterator[None]:
    """What ``how`` says happens to each fsync of the processes while the block lasts; ``log`` lists them.

    A process that ends meanwhile, as one does whose disk fails, ends nothing here. Those that it starts are traced too.
    """
    told = log.with_suffix(".told")
    argv = ["strace", "-f", "-o", str(log), "-e", f"trace={SYNCS}", "-e", f"inject={SYNCS}:{how}"]
    with told.open("wb") as to:
        tracer = subprocess.Popen([*argv, *(f"--attach={pid}" for pid in pids)], stdin=subprocess.DEVNULL, stderr=to)  # noqa: ASYNC220
    try:
        until_s = time.monotonic() + ATTACH_S
        while not all(f"Process {pid} attached" in told.read_text() for pid in pids if _lives(pid)):
            if tracer.poll() is not None or time.monotonic() > until_s:
                raise AssertionError(f"strace did not attach: {told.read_text()[-500:]}")
            await asyncio.sleep(ATTACH_PAUSE_S)
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGTERM)
        await asyncio.to_thread(tracer.wait, 30)


def calls_in(log: Path) -> int:
    """How many calls were met so far."""
    return sum("(INJECTED)" in line or "(DELAYED)" in line for line in log.read_text(errors="replace").splitlines())


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class _Syncing(Fault):
    server: ClassVar[str]

    @classmethod
    def why_not(cls) -> str | None:
        return why_not()

    async def for_a_while(self, stage: Stage, how: str) -> None:
        pid, log = stage.pid(self.server), stage.folder / f"{self.name}.strace"
        async with injected(family(pid), how, log):
            await asyncio.sleep(stage.random.uniform(1.0, 3.0))
        self.met = calls_in(log)


class _SlowSync(_Syncing):
    """Each fsync takes up to half a second longer: late, and nothing else."""

    async def inject(self, stage: Stage) -> None:
        await self.for_a_while(stage, slow(stage.random.uniform(0.02, 0.5)))


class _FailingSync(_Syncing):
    """Each fsync fails: who cannot sync must not acknowledge; Valkey and Postgres end and are started again."""

    async def inject(self, stage: Stage) -> None:
        await self.for_a_while(stage, failing(after=stage.random.randrange(1, 6)))


class _FailingSyncNats(_FailingSync):
    """As above; a stream of NATS takes nothing more, until ``up`` has started NATS again: part of the fault."""

    async def inject(self, stage: Stage) -> None:
        await super().inject(stage)
        await until_nats_takes(settings_of(stage.folder, Settings()).nats_monitor_url)


async def until_nats_takes(monitor_url: str, timeout_s: float = TAKES_AGAIN_S) -> None:
    """Until NATS says that it takes everything; ``AssertionError`` when that takes long."""

    async def takes() -> bool:
        return await refusal_of(monitor_url) is None

    await wait_until(takes, timeout_s)


def _of(kind: type[_Syncing], name: str, server: str, touches: tuple[str, ...]) -> type[Fault]:
    members = {"name": f"{name}-{server}", "server": server, "touches": touches, "__doc__": kind.__doc__}
    return type(f"{kind.__name__[1:]}{server.title()}", (kind,), members)


SERVERS: Final = ("valkey", "postgres", "nats")
FAULTS: Final[list[type[Fault]]] = [
    *(_of(_SlowSync, "slow-fsync", server, ()) for server in SERVERS),
    *(_of(_FailingSync, "failing-fsync", server, (server,)) for server in SERVERS if server != "nats"),
    _of(_FailingSyncNats, "failing-fsync", "nats", ("nats",)),
]
