"""Owns the faults that only need signals: kill -9, SIGSTOP for a while, all at once."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import ClassVar

from chaos.fault import Fault
from chaos.stage import Stage

PROCESSES = ("valkey", "api", "api-2", "ingest", "journal", "keeper", "nats", "postgres")
APIS = ("api", "api-2")
PAUSE_S_MAX = 5.0
FROZEN_S = 0.05
"""Long enough for Valkey to run what it was sent."""


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process of the stage, which may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class _OfProcess(Fault):
    process: ClassVar[str]


class _Kill(_OfProcess):
    async def inject(self, stage: Stage) -> None:
        pid = stage.pid(self.process)
        send(pid, signal.SIGKILL)
        await stage.wait_restarted(self.process, pid)


class _Pause(_OfProcess):
    """SIGSTOP: it is there, its connections are open, and it says nothing; then it goes on as if no time had passed."""

    async def inject(self, stage: Stage) -> None:
        pid = stage.pid(self.process)
        send(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(stage.random.uniform(1.0, PAUSE_S_MAX))
        finally:
            send(pid, signal.SIGCONT)


class KillBeforeReply(Fault):
    """The API dies between the script and the reply: frozen with calls under way, killed when Valkey has done them."""

    name = "kill-api-before-reply"
    touches = APIS

    async def inject(self, stage: Stage) -> None:
        pids = {name: stage.pid(name) for name in APIS}
        self.met = await stage.next_under_way()
        for pid in pids.values():
            send(pid, signal.SIGSTOP)
        await asyncio.sleep(FROZEN_S)
        for pid in pids.values():
            send(pid, signal.SIGKILL)
        for name, pid in pids.items():
            await stage.wait_restarted(name, pid)


class KillAll(Fault):
    """Every process at once, in any order; ``up`` lives and starts them again."""

    name = "kill-all"
    touches = PROCESSES

    async def inject(self, stage: Stage) -> None:
        pids = stage.pids()
        for name in stage.random.sample(sorted(pids), len(pids)):
            send(pids[name], signal.SIGKILL)
        for name, pid in pids.items():
            await stage.wait_restarted(name, pid)


class KillUp(Fault):
    """``up`` itself dies, and with it all of its processes; it is started again at once, on the same folder."""

    name = "kill-up"
    touches = PROCESSES

    async def inject(self, stage: Stage) -> None:
        pids = stage.pids()
        stage.kill()
        stage.start()
        for name, pid in pids.items():
            await stage.wait_restarted(name, pid)


def _of(kind: type[_OfProcess], verb: str, process: str, touches: tuple[str, ...]) -> type[Fault]:
    members = {"name": f"{verb}-{process}", "process": process, "touches": touches, "__doc__": f"{verb} {process}"}
    return type(f"{verb.title()}{process.title()}", (kind,), members)


KILLS = [_of(_Kill, "kill", process, (process,)) for process in PROCESSES]
PAUSES = [_of(_Pause, "pause", process, ()) for process in PROCESSES]
EVERYTHING: list[type[Fault]] = [*KILLS, *PAUSES, KillBeforeReply, KillAll, KillUp]
