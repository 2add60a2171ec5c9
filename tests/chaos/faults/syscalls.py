"""Owns what a disk does to a running server: slow and failing fsync, injected into its system calls by strace."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SYNCS: Final = "fdatasync,fsync,sync_file_range,syncfs"
ATTACH_S: Final = 10.0


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


def family(pid: int) -> list[int]:
    """The process and all processes below it: what a Postgres is."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


@contextmanager
def injected(pids: Sequence[int], how: str, log: Path, calls: str = SYNCS) -> Iterator[None]:
    """What ``how`` says happens to these calls of the processes while the block lasts; ``log`` lists the calls.

    A process that ends meanwhile, as one does whose disk fails, ends nothing here. Those that it starts are traced too.
    """
    told = log.with_suffix(".told")
    argv = ["strace", "-f", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={calls}:{how}"]
    with told.open("wb") as to:
        tracer = subprocess.Popen([*argv, *(f"--attach={pid}" for pid in pids)], stdin=subprocess.DEVNULL, stderr=to)
    try:
        _wait_attached(tracer, told, pids)
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGTERM)
            tracer.wait(timeout=20)


def calls_in(log: Path) -> int:
    """How many calls were met so far."""
    return sum("(INJECTED)" in line or "(DELAYED)" in line for line in log.read_text(errors="replace").splitlines())


def _wait_attached(tracer: subprocess.Popen[bytes], told: Path, pids: Sequence[int]) -> None:
    deadline = time.monotonic() + ATTACH_S
    while not all(f"Process {pid} attached" in told.read_text() for pid in pids if _lives(pid)):
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"strace did not attach: {told.read_text()[-500:]}")
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
