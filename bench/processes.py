"""Owns what Linux tells of processes: who descends from whom, their CPU time and memory, their cores."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
PARENT, USER_TICKS, SYSTEM_TICKS, RESIDENT_PAGES = 1, 11, 12, 21
"""Fields of /proc/PID/stat, counted from after the command's name."""
CORES: Final = frozenset(os.sched_getaffinity(0))
FIRST_CORE: Final = frozenset({min(CORES)})
OTHER_CORES: Final = CORES - FIRST_CORE or CORES
"""One core for what is measured, the others for who drives it."""


class Usage(NamedTuple):
    """Of a process and all that it started."""

    cpu_s: float
    memory_bytes: int


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds on a CPU of all threads of these processes so far, to the nanosecond; of one that has ended, none."""
    return sum(map(_thread_ns, _threads(pids))) / 1e9


def usages(of: Mapping[str, Iterable[int]]) -> dict[str, Usage]:
    """Of each family, those of its members that live.

    CPU to the hundredth of a second, and with that of threads that have ended: for a look every second, at one file
    a process, where ``cpu_s`` reads one a thread.
    """
    found: dict[str, Usage] = {}
    for name, pids in of.items():
        stats = [stat for pid in pids if (stat := _stat(pid)) is not None]
        if stats:
            ticks = sum(int(stat[USER_TICKS]) + int(stat[SYSTEM_TICKS]) for stat in stats)
            found[name] = Usage(ticks / TICKS, sum(int(stat[RESIDENT_PAGES]) for stat in stats) * PAGE_BYTES)
    return found


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    return families({"": pid})[""]


def families(pids: Mapping[str, int]) -> dict[str, list[int]]:
    """Each process with its descendants that have no name of their own; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[PARENT]), []).append(pid)
    named = set(pids.values())
    found: dict[str, list[int]] = {}
    for name, pid in pids.items():
        members = [pid]
        for member in members:
            members += [child for child in children.get(member, []) if child not in named]
        found[name] = members
    return found


def pin(pids: Iterable[int], chosen: Iterable[int]) -> None:
    """All threads that these processes have, and what these start later, may run on these cores only."""
    for thread in _threads(pids):
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread.name), chosen)


@contextmanager
def cores(chosen: Iterable[int]) -> Iterator[None]:
    """What is started meanwhile, with all its threads and children, may run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()] if PROC.is_dir() else []


def _stat(pid: int) -> list[str] | None:
    """The fields after the command's name; None when it has ended meanwhile."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _threads(pids: Iterable[int]) -> Iterator[Path]:
    for pid in pids:
        with suppress(OSError):  # it has ended
            yield from (PROC / str(pid) / "task").iterdir()


def _thread_ns(thread: Path) -> int:
    try:
        return int((thread / "schedstat").read_text().split()[0])
    except OSError:
        return 0
