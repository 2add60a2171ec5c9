"""Owns servers that a measurement has for itself, and the CPU time that processes have used."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from availability import embedded
from availability.embedded import Server
from bench.target import NoTarget

FOLDER_MODE = 0o755
"""Postgres leaves root, and has to reach its folder."""


class Running(NamedTuple):
    """A server's URL and process."""

    url: str
    pid: int


@asynccontextmanager
async def own(*makes: Callable[[Path, int, str], Server]) -> AsyncIterator[list[Running]]:
    """Start what these describe (``embedded.valkey`` and the like); stopped at the end and their data removed.

    Raises ``NoTarget`` when one cannot be run here.
    """
    async with AsyncExitStack() as stack:
        folder = _open_to_all(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            yield [
                await stack.enter_async_context(
                    _started(make(folder / str(number), embedded.free_port(), token_hex(8)))
                )
                for number, make in enumerate(makes)
            ]
        except (embedded.Unusable, embedded.NotReady) as error:
            raise NoTarget(str(error)) from error


def _open_to_all(name: str) -> Path:
    folder = Path(name)
    folder.chmod(FOLDER_MODE)
    return folder


@asynccontextmanager
async def _started(server: Server) -> AsyncIterator[Running]:
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*server.argv, stdout=quiet, stderr=quiet, env=server.env or None)
    try:
        await server.wait()
        yield Running(server.url, process.pid)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(server.stop_signal)
        await process.wait()


def cpu_s(*pids: int) -> float:
    """Seconds that these processes and their children have been on a CPU, by the scheduler's own count."""
    return sum(_on_cpu_ns(pid) for pid in _with_children(pids)) / 1e9


def _on_cpu_ns(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # it has ended meanwhile
            total += int(task.read_text().split()[0])
    return total


def _with_children(pids: Iterable[int]) -> set[int]:
    found, left = set[int](), list(pids)
    while left:
        pid = left.pop()
        found.add(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                left += [int(child) for child in children.read_text().split() if int(child) not in found]
    return found
