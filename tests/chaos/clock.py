"""Owns a server's wrong clock: libfaketime in its process, steered by a file, its monotonic clock left right."""

import asyncio
import dataclasses
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final

from redis.asyncio import Redis

from availability.embedded import Server
from chaos.fault import Fault, Plan
from chaos.outside import outside
from chaos.stage import Stage

LIBRARIES: Final = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
)
"""Where distributions put it; Debian's package is ``faketime``."""


NEAR_S: Final = 30.0
FORGETS_S: Final = 3_600
"""By so much ahead, Valkey itself removes records of what ended long ago; what brings them back is a rebuild."""


def why_not() -> str | None:
    """Why no clock can be changed here; None when one can."""
    return None if _library() else "libfaketime is not installed (Debian: faketime)"


def _library() -> str | None:
    return next((path for path in LIBRARIES if Path(path).exists()), None)


def with_clock(server: Server, file: Path) -> Server:
    """The server with a clock of its own, right until ``jump`` says otherwise."""
    library = _library()
    assert library is not None, why_not()
    jump(file, 0)
    environment = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(file.resolve()),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return dataclasses.replace(server, env={**server.env, **environment})


def jump(file: Path, seconds: float) -> None:
    """Let the clock be so far from the true time, from now on; the file is replaced at once, never half-written."""
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{seconds:+.3f}\n")
    fresh.replace(file)


class _ClockJump(Fault):
    """The clock of Valkey jumps by minutes to hours, and some seconds later back to the truth."""

    needs_own_stage = True
    sign: ClassVar[int]
    file: ClassVar[Path]
    """Of all faults of a kind, which share a stage: one of them prepares it."""
    jumps_s: ClassVar[tuple[int, ...]]

    @classmethod
    def why_not(cls) -> str | None:
        return why_not()

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        type(self).file = plan.folder.with_suffix(".clock")
        # A rebuild ends what is half done on several shards, by no entry of its own: the checkers would miss that one.
        day = (86_400,) if self.sign < 0 or plan.environment["AVAILABILITY_SHARDS"] == "1" else ()
        type(self).jumps_s = (90, 900, *day)
        async with outside(plan, "valkey", lambda server: with_clock(server, self.file)):
            yield

    async def inject(self, stage: Stage) -> None:
        by_s = self.sign * stage.random.choice(self.jumps_s)
        stage.say(f"{self.name}: by {by_s} s")
        jump(self.file, by_s)
        try:
            await asyncio.sleep(stage.random.uniform(1.0, 3.0))
            async with Redis.from_url(stage.url("redis")) as client:
                seconds, _ = await client.time()
            self.met = int(abs(seconds - time.time() - by_s) < NEAR_S)
        finally:
            jump(self.file, 0)
        if by_s >= FORGETS_S:
            await _rebuild(stage)


async def _rebuild(stage: Stage) -> None:
    """As config/README.md says, once the clock is right."""
    await stage.wait_ready()
    argv = [sys.executable, "-m", "availability", "rebuild", "--data-dir", str(stage.folder), "--yes"]
    rebuild = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await rebuild.communicate()
    assert rebuild.returncode == 0, said.decode()


class ClockAhead(_ClockJump):
    """See above: nothing may expire en masse, and what Valkey forgot by the wrong clock comes back from the journal."""

    name = "clock-ahead"
    sign = 1


class ClockBack(_ClockJump):
    """See above: nothing may live longer."""

    name = "clock-back"
    sign = -1


FAULTS: Final[list[type[Fault]]] = [ClockAhead, ClockBack]
