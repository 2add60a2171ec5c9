"""Owns CPU time of processes, to the nanosecond as Linux counts it, and the cores that they may use."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
FIRST_CORE, OTHER_CORES = {CORES[0]}, set(CORES[1:]) or {CORES[0]}
"""One core for what is measured, the others for who drives it."""


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds on a CPU of all threads of these processes so far; of one that has ended, none."""
    return sum(map(_thread_ns, _threads(pids))) / 1e9


def _threads(pids: Iterable[int]) -> Iterator[Path]:
    for pid in pids:
        try:
            yield from Path(f"/proc/{pid}/task").iterdir()
        except OSError:
            continue


def _thread_ns(thread: Path) -> int:
    try:
        return int((thread / "schedstat").read_text().split()[0])
    except OSError:
        return 0


def family(pid: int) -> set[int]:
    """The process and all that descend from it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def pin(pids: Iterable[int], chosen: set[int]) -> None:
    """All threads that these processes have, and what these start later, may run on these cores only."""
    for thread in _threads(pids):
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread.name), chosen)


@contextmanager
def cores(chosen: set[int]) -> Iterator[None]:
    """What is started meanwhile, with all its threads and children, may run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
