"""Owns the tables: what each contender did in each round, the medians and ratios of it, and how they are written down.

A ratio is taken within a round, where both ran soon after each other; the median of the rounds' ratios is shown.
"""

from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from msgspec import Struct

FORMAT: Final = 1
BUSY: Final = 0.85
"""Of a core: who used less did not set the rate."""


class Oversold(Exception):
    """A contender held more than there was, or something else than it said."""


class Sample(Struct, frozen=True):
    """One contender in one round."""

    done: int
    """Things done: holds, lines or items."""
    seconds: float
    cpu_s: dict[str, float]
    """CPU seconds by who used them: ``server``, ``api``, ``driver`` …"""
    shed: int = 0
    """Requests that were answered 429 or 503 instead."""
    parts: dict[str, float] = {}
    """Of what ``cpu_s`` has as the rest, whose it was."""

    @property
    def per_second(self) -> float:
        return self.done / self.seconds


class Row(Struct, frozen=True):
    """A contender; ``says`` tells its settings. ``samples`` are of the rounds, in order."""

    name: str
    says: str
    things: str
    samples: list[Sample]
    base: str | None = None
    """The row that its rate is shown as a share of."""


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
    measured: str = "server"
    """Whose CPU a thing costs, for the ratios that a busy machine does not spoil."""
    format: int = FORMAT


class Spread(Struct, frozen=True):
    """The median of some figures, the least and the greatest."""

    median: float
    least: float
    most: float


class Verdict(Struct, frozen=True):
    """``by_cpu`` is the ratio again, of CPU a thing instead of rates; None where the goal is a rate."""

    goal: Goal
    reached: Spread
    by_cpu: float | None = None

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


def spare(rows: list[Row], who: str, cores: int) -> list[str]:
    """A caveat, if there are rows where ``who`` did not use so many cores: their rates tell of something else."""
    idle = {row.name: used for row in rows if (used := cores_used(row, who)) and used.median < BUSY * cores}
    names = [f"{name} ({used.median:.2f})" for name, used in idle.items()]
    told = f"The {who} had not all of its cores, or had to wait: these rates are lower than they could be, or limited"
    return [f"{told} by something else: {'; '.join(names)}."] if names else []


def ratio(row: Row, other: Row) -> Spread:
    """How many times the rate of ``other``, round by round."""
    pairs = zip(row.samples, other.samples, strict=True)
    return spread([ours.per_second / theirs.per_second for ours, theirs in pairs])


def verdicts(tables: Tables) -> list[Verdict]:
    """What became of each goal, as far as its rows were measured."""
    rows = {row.name: row for row in tables.rows}
    found = []
    for goal in tables.goals:
        row, other = rows.get(goal.row), rows.get(goal.against or goal.row)
        if row is None or other is None:
            continue
        if goal.against is None:
            found.append(Verdict(goal, rates(row)))
            continue
        ours, theirs = cpu_us(row, tables.measured), cpu_us(other, tables.measured)
        found.append(Verdict(goal, ratio(row, other), theirs.median / ours.median if ours and theirs else None))
    return found


def write(tables: list[Tables], path: Path) -> None:
    """As JSON; replaces the file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(tables), indent=1) + b"\n")


def read(path: Path) -> list[Tables]:
    """The tables in a file. Raises ``ValueError`` when it holds none, or of another format."""
    try:
        tables = msgspec.json.decode(path.read_bytes(), type=list[Tables])
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} holds no tables of this bench: {error}") from error
    if any(each.format != FORMAT for each in tables):
        raise ValueError(f"{path} is of another format, this bench reads {FORMAT}")
    return tables


def markdown(tables: Tables) -> str:
    """For bench/README.md: what it was measured on, the rows, the goals, caveats last."""
    who = sorted({name for row in tables.rows for sample in row.samples for name in sample.cpu_s})
    by_name = {row.name: row for row in tables.rows}
    based = [by_name.get(row.base or "") for row in tables.rows]
    shares = [f"of {row.base}" for row in tables.rows if row.base][:1]
    rounds = max(len(row.samples) for row in tables.rows)
    machine = ", ".join(f"{name} {said}" for name, said in tables.machine.items())
    used = [*(f"CPU µs each: {name}" for name in who), *(f"cores: {name}" for name in who)]
    heads = [tables.title, "a second (least to most)", *shares, *used]
    lines = [
        f"`{tables.command}`, {tables.started_at}, commit {tables.commit}; medians of {rounds} interleaved rounds.",
        f"On {machine}.",
        "",
        _line(heads),
        _line(["---"] + ["---:"] * (len(heads) - 1)),
    ]
    for row, base in zip(tables.rows, based, strict=True):
        share = [] if not shares else [f"{ratio(row, base).median:.2f}" if base else ""]
        rate, *cells = _cells(row, who)
        lines.append(_line([row.name, rate, *share, *cells]))
    lines += _parts(tables.rows)
    found = verdicts(tables)
    if found:
        lines += ["", _line(["goal", "reached (least to most)", f"by CPU of {tables.measured}", ""])]
        lines += [_line(["---", "---:", "---:", "---"]), *(_line(_judged(verdict)) for verdict in found)]
    lines += ["", "Settings and caveats:", "", *(f"- {row.name}: {row.says}." for row in tables.rows if row.says)]
    return "\n".join([*lines, *(f"- {caveat}" for caveat in tables.caveats)]) + "\n"


def _parts(rows: list[Row]) -> list[str]:
    """Who the rest is: a row for each row of the table in which somebody used a microsecond for a thing."""
    lines = []
    for row in rows:
        names = row.samples[0].parts
        each = {name: median(one.parts[name] / one.done * 1e6 for one in row.samples) for name in names}
        most_first = sorted(each.items(), key=itemgetter(1), reverse=True)
        shown = [f"{name} {figure:,.1f}" for name, figure in most_first if figure >= 1]
        if shown:
            lines.append(_line([row.name, ", ".join(shown)]))
    return ["", _line(["", "CPU µs each of the rest"]), _line(["---", "---"]), *lines] if lines else []


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row, who: list[str]) -> list[str]:
    rate = rates(row)
    each = [cpu_us(row, name) for name in who]
    busy = [cores_used(row, name) for name in who]
    return [
        f"{rate.median:,.0f} {row.things} ({rate.least:,.0f} to {rate.most:,.0f})",
        *("" if one is None else f"{one.median:,.1f}" for one in each),
        *("" if one is None else f"{one.median:.2f}" for one in busy),
    ]


def _judged(verdict: Verdict) -> list[str]:
    goal, reached = verdict.goal, verdict.reached
    met = "met" if verdict.met else "**missed**"
    if goal.against is None:
        figures = f"{reached.median:,.0f} ({reached.least:,.0f} to {reached.most:,.0f})"
        return [f"{goal.row} ≥ {goal.at_least:,.0f} a second", figures, "", met]
    figures = f"{reached.median:.2f} ({reached.least:.2f} to {reached.most:.2f})"
    by_cpu = "" if verdict.by_cpu is None else f"{verdict.by_cpu:.2f}"
    return [f"{goal.row} ≥ {goal.at_least:g} of {goal.against}", figures, by_cpu, met]
