"""Owns the tables: what each contender did in each round, the medians and ratios of it, and how they are written down.

A ratio is taken within a round, where both ran soon after each other; the median of the rounds' ratios is shown.
"""

from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from msgspec import Struct

FORMAT: Final = 1


class Oversold(Exception):
    """A contender held more than there was, or something else than it said."""


class Sample(Struct, frozen=True):
    """One contender in one round."""

    done: int
    """Things done: holds, lines or items."""
    seconds: float
    cpu_s: dict[str, float]
    """CPU seconds by who used them: ``server``, ``api``, ``driver`` …"""

    @property
    def per_second(self) -> float:
        return self.done / self.seconds


class Row(Struct, frozen=True):
    """A contender; ``says`` tells its settings. ``samples`` are of the rounds, in order."""

    name: str
    says: str
    things: str
    samples: list[Sample]


class Goal(Struct, frozen=True):
    """What a row must reach: ``at_least`` times another row, or so many a second when ``against`` is None."""

    row: str
    at_least: float
    against: str | None = None


class Tables(Struct, frozen=True):
    """All that one command measured."""

    title: str
    command: str
    started_at: str
    commit: str
    machine: dict[str, str]
    rows: list[Row]
    goals: list[Goal]
    caveats: list[str]
    format: int = FORMAT


class Spread(Struct, frozen=True):
    """The median of some figures, the least and the greatest."""

    median: float
    least: float
    most: float


class Verdict(Struct, frozen=True):
    goal: Goal
    reached: Spread

    @property
    def met(self) -> bool:
        return self.reached.median >= self.goal.at_least


def spread(figures: list[float]) -> Spread:
    """Of at least one figure."""
    return Spread(median(figures), min(figures), max(figures))


def rates(row: Row) -> Spread:
    """Things a second."""
    return spread([sample.per_second for sample in row.samples])


def cpu_us(row: Row, who: str) -> Spread | None:
    """Microseconds of CPU of ``who`` a thing; None for a row where nobody of that name worked."""
    if not all(who in sample.cpu_s for sample in row.samples):
        return None
    return spread([sample.cpu_s[who] / sample.done * 1e6 for sample in row.samples])


def cores_used(row: Row, who: str) -> Spread | None:
    """How many cores ``who`` kept busy."""
    if not all(who in sample.cpu_s for sample in row.samples):
        return None
    return spread([sample.cpu_s[who] / sample.seconds for sample in row.samples])


def ratio(row: Row, other: Row) -> Spread:
    """How many times the rate of ``other``, round by round."""
    pairs = zip(row.samples, other.samples, strict=True)
    return spread([ours.per_second / theirs.per_second for ours, theirs in pairs])


def verdicts(tables: Tables) -> list[Verdict]:
    """What became of each goal."""
    rows = {row.name: row for row in tables.rows}
    return [
        Verdict(goal, rates(rows[goal.row]) if goal.against is None else ratio(rows[goal.row], rows[goal.against]))
        for goal in tables.goals
        if goal.row in rows and (goal.against is None or goal.against in rows)
    ]


def write(tables: Tables, path: Path) -> None:
    """As JSON; replaces the file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(tables), indent=1) + b"\n")


def read(path: Path) -> Tables:
    """The tables in a file. Raises ``ValueError`` when it holds none, or of another format."""
    try:
        tables = msgspec.json.decode(path.read_bytes(), type=Tables)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} holds no tables of this bench: {error}") from error
    if tables.format != FORMAT:
        raise ValueError(f"{path} is of format {tables.format}, this bench reads {FORMAT}")
    return tables


def markdown(tables: Tables) -> str:
    """For bench/README.md: what it was measured on, the rows, the goals, caveats last."""
    who = sorted({name for row in tables.rows for sample in row.samples for name in sample.cpu_s})
    rounds = max(len(row.samples) for row in tables.rows)
    machine = ", ".join(f"{name} {said}" for name, said in tables.machine.items())
    heads = ["", "a second (least to most)", *(f"CPU µs each: {name}" for name in who), *(f"cores: {n}" for n in who)]
    lines = [
        f"`{tables.command}`, {tables.started_at}, commit {tables.commit}; medians of {rounds} interleaved rounds.",
        f"On {machine}.",
        "",
        _line(heads),
        _line(["---"] + ["---:"] * (len(heads) - 1)),
    ]
    lines += [_line(_cells(row, who)) for row in tables.rows]
    lines += ["", _line(["goal", "reached (least to most)", ""]), _line(["---", "---:", "---"])]
    lines += [_line(_judged(verdict)) for verdict in verdicts(tables)]
    lines += ["", "Settings and caveats:", "", *(f"- {row.name}: {row.says}." for row in tables.rows if row.says)]
    return "\n".join([*lines, *(f"- {caveat}" for caveat in tables.caveats)]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row, who: list[str]) -> list[str]:
    rate = rates(row)
    each = [cpu_us(row, name) for name in who]
    busy = [cores_used(row, name) for name in who]
    return [
        row.name,
        f"{rate.median:,.0f} {row.things} ({rate.least:,.0f} to {rate.most:,.0f})",
        *("" if one is None else f"{one.median:,.1f}" for one in each),
        *("" if one is None else f"{one.median:.2f}" for one in busy),
    ]


def _judged(verdict: Verdict) -> list[str]:
    goal, reached = verdict.goal, verdict.reached
    met = "met" if verdict.met else "**missed**"
    if goal.against is None:
        figures = f"{reached.median:,.0f} ({reached.least:,.0f} to {reached.most:,.0f})"
        return [f"{goal.row} ≥ {goal.at_least:,.0f} a second", figures, met]
    figures = f"{reached.median:.2f} ({reached.least:.2f} to {reached.most:.2f})"
    return [f"{goal.row} ≥ {goal.at_least:g} of {goal.against}", figures, met]
