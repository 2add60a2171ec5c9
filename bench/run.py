"""A finished run, as JSON: what the generators counted, what the machine did meanwhile, and the checks.

Latencies are microseconds from the time at which a request was due, not from when it was sent. Shares of CPU are cores.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

FORMAT: Final = 1


class Latency(Struct, frozen=True):
    """A histogram of two significant digits: ``counts`` are [upper edge in microseconds, how many], rising."""

    count: int
    mean_us: float
    max_us: int
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    counts: list[tuple[int, int]]


class Kind(Struct, frozen=True):
    """All requests of one kind (``hold-hot``, ``hold-tail``, ``commit``, ``atp`` …)."""

    name: str
    scheduled: int
    by_status: dict[str, int]
    """Answers by HTTP status, or ``lost`` (the connection ended) and ``timeout``."""
    accepted: Latency
    """2xx, and the refusals that are the business's own (409)."""
    shed: Latency
    """429 and 503."""


class Second(Struct, frozen=True):
    """One second of the run, by the time at which requests were due."""

    at_s: int
    offered: int
    accepted: int
    shed: int
    failed: int
    p50_us: int
    p99_us: int
    max_us: int
    operations_per_batch: float | None
    cpu: dict[str, float]
    """Cores used by each process: ``api``, ``valkey``, ``journal``, ``generator-1`` …"""
    memory_bytes: dict[str, int] = {}
    late_us: int = 0
    """The most by which a request was sent after it was due."""


class Step(Struct, frozen=True):
    """A stretch at one rate."""

    offered_per_second: float
    seconds: float
    accepted_per_second: float
    shed: int
    failed: int
    p50_us: int
    p99_us: int
    p999_us: int
    generator_late: bool
    holds: bool
    """Whether it met the goals, so that the knee is not below it."""
    name: str = ""
    """What it was: a rate, a phase, an hour."""


class Knee(Struct, frozen=True):
    """The highest rate that met the goals, and why the next one did not."""

    per_second: float
    beyond: str


class Feed(Struct, frozen=True):
    """Stock events over NATS during the run."""

    events: int
    messages: int
    events_per_second: float
    apply_lag: Latency
    """From before an event was published until an ATP answer showed it."""


class Check(Struct, frozen=True):
    """Something that must hold after every run."""

    name: str
    holds: bool | None
    """None: it could not be checked from here (another machine's journal, for one)."""
    said: str


class Run(Struct, frozen=True):
    """One run of a scenario."""

    scenario: str
    started_at: str
    seconds: float
    target: str
    commit: str
    machine: dict[str, str]
    options: dict[str, str | int | float | bool | None]
    valid: bool
    flaws: list[str]
    """Why the figures must not be used: a generator that was late or short of CPU."""
    kinds: list[Kind]
    timeline: list[Second]
    steps: list[Step]
    knee: Knee | None
    batches: list[tuple[int, int]]
    """Calls to the ledger by [operations up to, how many]."""
    cpu: dict[str, float]
    checks: list[Check]
    format: int = FORMAT
    feed: Feed | None = None


def read(path: Path) -> Run:
    """The run in a file. Raises ``ValueError`` when it is none, or of another format."""
    try:
        run = msgspec.json.decode(path.read_bytes(), type=Run)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} holds no run of this bench: {error}") from error
    if run.format != FORMAT:
        raise ValueError(f"{path} is of format {run.format}, this bench reads {FORMAT}")
    return run


def write(run: Run, path: Path) -> None:
    """Replaces the file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
