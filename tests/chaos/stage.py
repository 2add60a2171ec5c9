"""Owns the ``availability up`` that is broken: started, asked for its processes, waited for, started again."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from running_up import is_alive

from availability import launch
from chaos.inlet import Inlet

ROOT = Path(__file__).parents[2]
"""Where the project is."""
READY_S = 60.0
POLL_S = 0.02
ASK_S = 2.0
SENT_S = (0.0, 0.004)
"""How long ago a shopper has sent something when a fault comes: on its way in, in the ledger, on its way out."""
TRIES = 20


class Stage:
    """One ``availability up`` on a data folder of its own, and who is waiting for what of it.

    ``random`` is where all chance of faults comes from. ``say`` tells the run's log, with the time.
    """

    def __init__(
        self,
        folder: Path,
        arguments: list[str],
        environment: dict[str, str],
        pids: dict[str, int],
        seed: int,
        say: Callable[[str], None],
        source: Path,
    ) -> None:
        self.folder = folder
        self.random = random.Random(seed)  # noqa: S311 - the same seed has to give the same run
        self.say = say
        self._arguments, self._environment, self._more_pids = arguments, environment, pids
        self._source = source
        self._process: subprocess.Popen[bytes] | None = None
        self.under_way: Callable[[], int] = int
        """How many writes of shoppers are under way now; the load of each window sets it."""
        self.inlet = Inlet()
        self._sent: list[asyncio.Future[None]] = []
        self._acknowledged: list[tuple[float, asyncio.Future[float]]] = []

    # --- its life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start ``up``, which ends when we die. Where it says why it is not ready: ``folder``/../up.log."""
        argv = [sys.executable, "-m", "availability", "up", "--data-dir", str(self.folder), *self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                launch.command(argv, death_signal=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                cwd=self._source,
            )

    async def stop(self) -> None:
        """Stop all of it; kill it when it does not end in time."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        if not await _comes(lambda: process.poll() is not None, READY_S):
            process.kill()
            await _comes(lambda: process.poll() is not None, READY_S)

    def kill(self) -> None:
        """End ``up`` itself with SIGKILL; its processes end with it, by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def tails(self) -> str:
        """The end of what ``up`` and each of its processes wrote."""
        logs = [self.log, *sorted((self.folder / "logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists())

    # --- what it is ---------------------------------------------------------------------------------------------

    def told(self) -> dict[str, object]:
        """What up.json says now: ``api``, ``nats``, ``redis``, ``postgres`` and ``pids``."""
        told: dict[str, object] = json.loads((self.folder / "up.json").read_text())
        return told

    def url(self, name: str) -> str:
        """Of ``api``, ``nats``, ``redis`` or ``postgres``."""
        return str(self.told()[name])

    @property
    def up_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pids(self) -> dict[str, int]:
        """The process of each name, as up.json and the plan tell it now."""
        pids = self.told()["pids"]
        assert isinstance(pids, dict)
        return {**pids, **self._more_pids}

    def pid(self, name: str) -> int:
        return self.pids()[name]

    # --- waiting for it -----------------------------------------------------------------------------------------

    async def is_ready(self) -> bool:
        """Whether ``up`` runs, each process in up.json lives, and /health/ready says so."""
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            told, pids = self.told(), self.pids()
        except (OSError, ValueError):
            return False
        return all(map(is_alive, pids.values())) and await _answers_ready(str(told["api"]))

    async def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Until it is ready; ``TimeoutError`` with the ends of its logs when it is not in time."""
        until_s = time.monotonic() + timeout_s
        while not await self.is_ready():
            if time.monotonic() > until_s:
                raise TimeoutError(f"not ready after {timeout_s} s\n{self.tails()}")
            await asyncio.sleep(POLL_S)

    async def wait_restarted(self, name: str, old_pid: int, timeout_s: float = READY_S) -> None:
        """Until another process bears the name; it need not be ready."""
        if not await _comes(lambda: self._has_other(name, old_pid), timeout_s):
            raise TimeoutError(f"{name} was not started again within {timeout_s} s\n{self.tails()}")

    def _has_other(self, name: str, old_pid: int) -> bool:
        try:
            return self.pid(name) != old_pid
        except (OSError, ValueError, KeyError):
            return False

    async def next_under_way(self) -> int:
        """Until a write of a shopper is on its way, a moment after one was sent: how many are; 0 if nobody writes."""
        moment_s = self.random.uniform(*SENT_S)
        for _ in range(TRIES):
            await self.next_sent()
            await asyncio.sleep(moment_s)
            if count := self.under_way():
                return count
            moment_s /= 2
        return 0

    async def next_sent(self, timeout_s: float = 5.0) -> None:
        """Until a shopper has just sent a request that writes; at the latest after ``timeout_s``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent.append(future)
        await asyncio.wait([future], timeout=timeout_s)

    async def next_acknowledged(self, timeout_s: float = READY_S) -> float:
        """How long it takes in seconds until a write is acknowledged that is sent from now on."""
        began_s = time.monotonic()
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._acknowledged.append((began_s, future))
        try:
            async with asyncio.timeout(timeout_s):
                return await future - began_s
        except TimeoutError as error:
            raise TimeoutError(f"no write was acknowledged within {timeout_s} s\n{self.tails()}") from error

    # --- what the load tells it ---------------------------------------------------------------------------------

    def note_sent(self) -> None:
        """A request that writes has just left."""
        waiting, self._sent = self._sent, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def note_acknowledged(self, sent_s: float, at_s: float) -> None:
        """A write that was sent at ``sent_s`` was acknowledged at ``at_s``, on the monotonic clock."""
        waiting, self._acknowledged = self._acknowledged, []
        for began_s, future in waiting:
            if sent_s < began_s:
                self._acknowledged.append((began_s, future))
            elif not future.done():
                future.set_result(at_s)


async def _comes(condition: Callable[[], bool], timeout_s: float) -> bool:
    until_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def _answers_ready(url: str) -> bool:
    """Whether GET /health/ready says 200; asked on a connection of its own, so any of the API's processes answers."""
    address = urlsplit(url)
    try:
        async with asyncio.timeout(ASK_S):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                writer.write(
                    f"GET /health/ready HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode()
                )
                return (await reader.readline()).split(b" ")[1:2] == [b"200"]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
