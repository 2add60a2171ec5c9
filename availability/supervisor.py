"""Owns the life of child processes: started, started again when they die, stopped in order."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
STEADY_AFTER_S = 10.0
"""A child that lived this long is started again at once when it dies; one that dies sooner waits longer each time."""
STOP_TIMEOUT_S = 15.0
LOG_BYTES_MAX = 20_000_000
"""Past this a log is set aside at the start, as .log.1, in place of the one before it."""


@dataclass
class Child:
    """A process that should always run. ``pid`` is that of its latest start, 0 before the first."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    pid: int = 0
    _process: asyncio.subprocess.Process | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, started: Callable[[], None], say: Callable[[str], None]) -> None:
        """Keep it running until ``stop``; ``started`` is called after each start, ``say`` when it died."""
        backoff_s = 0.0
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began_s = loop.time()
            process = await self._start()
            started()
            code = await process.wait()
            if self._stopping.is_set():
                return
            lived_s = loop.time() - began_s
            backoff_s = 0.0 if lived_s > STEADY_AFTER_S else min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, 2 * backoff_s))
            say(f"{self.name} ended ({_how(code)}) and is started again; its log is {self.log}")
            await self._pause(backoff_s)

    async def stop(self) -> None:
        """Ask it to end, and make it end when it does not in time."""
        self._stopping.set()
        if self._process is not None:
            await _end(self._process, self.stop_signal)

    async def restart(self) -> None:
        """End it, so that ``run`` starts it again."""
        if self._process is not None and not self._stopping.is_set():
            await _end(self._process, self.stop_signal)

    def kill(self) -> None:
        """End it without asking."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _start(self) -> asyncio.subprocess.Process:
        """In a session of its own: an interrupt from the terminal is for us, who then stop all in order."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                start_new_session=True,
            )
        self._process, self.pid = process, process.pid
        if self._stopping.is_set():
            process.send_signal(self.stop_signal)
        return process

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


async def _end(process: asyncio.subprocess.Process, by: signal.Signals) -> None:
    if process.returncode is not None:
        return
    process.send_signal(by)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def rotate(log: Path) -> None:
    """Set a long log aside."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".log.1"))


async def stop_in_order(groups: Sequence[Sequence[Child]]) -> None:
    """Stop one group after the other, those of a group together."""
    for group in groups:
        await asyncio.gather(*(child.stop() for child in group))


def _how(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return f"exit {code}"
