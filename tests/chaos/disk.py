"""Owns a disk that can be full: a small file system in memory under a server's folder, filled and freed at will."""

import asyncio
import ctypes
import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar, Final

from chaos.fault import Fault, Plan
from chaos.stage import Stage

BALLAST: Final = "ballast"
CHUNK: Final = b"\0" * 65_536
MNT_DETACH: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why no disk can be made here; None when it can."""
    return None if os.geteuid() == 0 else "mounting a small file system needs root"


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """``folder`` is a file system of that size while the block lasts; what is in it is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=0755".encode()
    if _libc.mount(b"tmpfs", bytes(folder.resolve()), b"tmpfs", 0, options) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount: {os.strerror(code)}")
    try:
        yield
    finally:
        # Lazily: whoever still has a file open there keeps it until it ends.
        _libc.umount2(bytes(folder.resolve()), MNT_DETACH)


def fill(folder: Path, *, leave_bytes: int = 0) -> int:
    """Write until nothing more fits, or only ``leave_bytes``; how many bytes that took."""
    written = 0
    with (folder / BALLAST).open("ab", buffering=0) as file:
        try:
            while free(folder) > leave_bytes:
                written += file.write(CHUNK[: max(1, min(len(CHUNK), free(folder) - leave_bytes))])
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return written


def empty(folder: Path) -> None:
    """Take away what ``fill`` wrote."""
    (folder / BALLAST).unlink(missing_ok=True)


def free(folder: Path) -> int:
    """Bytes that still fit."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def _failures_in(log: Path) -> int:
    told = log.read_text(errors="replace").lower()
    return told.count("no space left") + told.count("short write")


class _FullDisk(Fault):
    """The disk of one server is full for some seconds, then it has room again."""

    server: ClassVar[str]
    size_bytes: ClassVar[int] = 400_000_000
    needs_own_stage = True

    @classmethod
    def why_not(cls) -> str | None:
        return why_not()

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        with small_disk(plan.folder / self.server, self.size_bytes):
            yield

    async def inject(self, stage: Stage) -> None:
        folder, log = stage.folder / self.server, stage.folder / f"logs/{self.server}.log"
        before = _failures_in(log)
        taken = await asyncio.to_thread(fill, folder, leave_bytes=stage.random.choice((0, 4_096, 65_536)))
        try:
            await asyncio.sleep(stage.random.uniform(2.0, 5.0))
        finally:
            empty(folder)
        self.met = _failures_in(log) - before
        stage.say(f"{self.name}: {taken:,} bytes filled it")


def _of(server: str) -> type[Fault]:
    members = {"name": f"full-disk-{server}", "server": server, "touches": (server,), "__doc__": _FullDisk.__doc__}
    return type(f"FullDisk{server.title()}", (_FullDisk,), members)


FAULTS: Final = [_of(server) for server in ("valkey", "postgres", "nats")]
