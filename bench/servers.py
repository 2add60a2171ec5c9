"""Owns the servers that a measurement has for itself: as the service has them, or for rivals as well as we can."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from availability import embedded
from availability.embedded import Server
from bench import processes
from bench.processes import CORES
from bench.target import NoTarget

FOR_RIVALS: Final[dict[str, str]] = {
    "shared_buffers": "1GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "wal_buffers": "64MB",
    "jit": "off",
    "max_connections": "200",
    "plan_cache_mode": "force_generic_plan",
}
"""No checkpoint and no planning while it is measured. fsync, synchronous_commit and full_page_writes stay on."""
VALKEY_TUNING: Final = ("--auto-aof-rewrite-percentage", "0")
"""No rewrite of the file while it is measured: it would be another process on the same core."""


class Running:
    """A server that runs: its URL, and the CPU seconds of all its processes so far."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    def cpu_s(self) -> float:
        return processes.cpu_s(processes.family(self.pid))


@asynccontextmanager
async def valkey(chosen: Iterable[int] = CORES) -> AsyncIterator[Running]:
    """A Valkey for this run alone, on these cores. Raises ``NoTarget``."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = _made(lambda: embedded.valkey(Path(folder), embedded.free_port(), secrets.token_hex(8)))
        async with _running(replace(server, argv=[*server.argv, *VALKEY_TUNING]), chosen) as running:
            yield running


@asynccontextmanager
async def postgres(
    chosen: Iterable[int] = CORES, tuning: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Running]:
    """A Postgres for this run alone, on these cores, as the service has it but for ``tuning``. Raises ``NoTarget``."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = _made(lambda: embedded.postgres(Path(folder), embedded.free_port(), secrets.token_hex(8)))
        words = [word for name, value in tuning.items() for word in ("-c", f"{name}={value}")]
        async with _running(replace(server, argv=[*server.argv, *words]), chosen) as running:
            yield running


def _made(make: Callable[[], Server]) -> Server:
    try:
        return make()
    except embedded.Unusable as error:
        raise NoTarget(str(error)) from error


@asynccontextmanager
async def _running(server: Server, chosen: Iterable[int]) -> AsyncIterator[Running]:
    quiet = asyncio.subprocess.DEVNULL
    with processes.cores(chosen):
        process = await asyncio.create_subprocess_exec(*server.argv, stdout=quiet, stderr=quiet, env=server.env or None)
    try:
        await server.wait()
        yield Running(server.url, process.pid)
    except embedded.NotReady as error:
        raise NoTarget(str(error)) from error
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            process.send_signal(server.stop_signal)
        await process.wait()
