"""Owns the comparison of a run with an earlier one: ratios per kind, step and process, and which of them are worse.

Only like is judged against like: a latency at another rate, a percentile that few requests are slower than, and a
single greatest value are shown, and not judged.
"""

from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench import figures, verdict
from bench.run import Kind, Run, Step

MARKED_BEYOND: Final = 0.10
SAME_RATE: Final = 0.03
"""Rates that differ by less are the same load: arrivals of a kind are drawn, so they never agree to the last one."""

STYLES: Final = {"worse": "bold red", "better": "green", "not judged": "dim", "same": ""}


class NotComparable(Exception):
    """The two runs have nothing to say about each other; the text says why."""


class Row(Struct, frozen=True):
    """One figure in both runs. ``judged`` is whether a worse one means a worse service."""

    group: str
    figure: str
    earlier: float
    now: float
    written: Callable[[float], str]
    lower_is_better: bool = True
    judged: bool = True

    @property
    def ratio(self) -> float | None:
        """Now to earlier; None where there was nothing earlier."""
        return self.now / self.earlier if self.earlier else None

    @property
    def worse_by(self) -> float:
        """0.25 = a quarter worse; below 0 it is better."""
        if self.earlier == self.now:
            return 0.0
        if not self.earlier:
            return float("inf") if self.lower_is_better else float("-inf")
        change = self.now / self.earlier - 1
        return change if self.lower_is_better else -change

    def is_worse(self, beyond: float) -> bool:
        """Whether it is judged, and worse by more than that share."""
        return self.judged and self.worse_by > beyond + 1e-9

    @property
    def word(self) -> str:
        """What the row says, for who does not see colours."""
        if self.is_worse(MARKED_BEYOND):
            return "worse"
        if not self.judged:
            return "not judged"
        return "better" if self.worse_by < -MARKED_BEYOND else "same"


def rows(now: Run, earlier: Run) -> list[Row]:
    """All that both runs have. Raises ``NotComparable`` when they are of different scenarios."""
    if now.scenario != earlier.scenario:
        raise NotComparable(f"{earlier.scenario} and {now.scenario} are different scenarios")
    same_load = _same_rate(figures.scheduled(now) / now.seconds, figures.scheduled(earlier) / earlier.seconds)
    found = list(_whole(now, earlier, same_load=same_load))
    before = {kind.name: kind for kind in earlier.kinds}
    for kind in now.kinds:
        if kind.name in before:
            found += _kind(kind, now.seconds, before[kind.name], earlier.seconds)
    for step in now.steps if len(now.steps) > 1 else []:
        for other in earlier.steps:
            if _same_rate(step.offered_per_second, other.offered_per_second):
                found += _step(step, other)
                break
    return found


def worse(found: list[Row], tolerance: float = MARKED_BEYOND) -> list[Row]:
    """Those judged worse by more than the share ``tolerance``."""
    return [row for row in found if row.is_worse(tolerance)]


def _same_rate(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_RATE * max(one, other)


def _whole(now: Run, earlier: Run, *, same_load: bool) -> Iterator[Row]:
    group = "whole run"
    if now.knee and earlier.knee:
        yield Row(group, "knee", earlier.knee.per_second, now.knee.per_second, figures.rate, lower_is_better=False)
    if now.feed and earlier.feed and now.feed.apply_lag.count and earlier.feed.apply_lag.count:
        both = earlier.feed, now.feed
        same_feed = _same_rate(*(feed.events_per_second for feed in both))
        judged = same_feed and all(verdict.told(feed.apply_lag, 0.99) for feed in both)
        lags = [feed.apply_lag.p99_us for feed in both]
        yield Row(group, "p99 of the apply lag", lags[0], lags[1], figures.time, judged=judged)
    done = [figures.accepted(run.kinds) for run in (earlier, now)]
    rates = done[0] / earlier.seconds, done[1] / now.seconds
    yield Row(group, "accepted", *rates, figures.rate, lower_is_better=False, judged=same_load)
    if not all(done):
        return
    # Cores for a second, divided by what was done in it: CPU time each, whatever the rate.
    for name in now.cpu:
        if name in earlier.cpu:
            each = [run.cpu[name] * 1e6 / rate for run, rate in zip((earlier, now), rates, strict=True)]
            yield Row(group, f"CPU a request: {name}", each[0], each[1], figures.time, judged=False)
    sums = [
        sum(cores for name, cores in run.cpu.items() if not name.startswith("generator")) * 1e6 / rate
        for run, rate in zip((earlier, now), rates, strict=True)
    ]
    if all(sums):
        yield Row(group, "CPU a request: the service", sums[0], sums[1], figures.time, judged=same_load)


def _kind(now: Kind, seconds: float, earlier: Kind, earlier_seconds: float) -> Iterator[Row]:
    same_load = _same_rate(now.scheduled / seconds, earlier.scheduled / earlier_seconds)
    both = earlier.accepted, now.accepted
    if all(latency.count for latency in both):
        for figure, percentile, of in (
            ("p50", 0.5, "p50_us"),
            ("p99", 0.99, "p99_us"),
            ("p99.9", 0.999, "p999_us"),
        ):
            judged = same_load and all(verdict.told(latency, percentile) for latency in both)
            before, after = (float(getattr(latency, of)) for latency in both)
            yield Row(now.name, figure, before, after, figures.time, judged=judged)
        yield Row(now.name, "max", both[0].max_us, both[1].max_us, figures.time, judged=False)
    for figure, ends in (("shed", _shed), ("failed", _failed)):
        before, after = (ends(kind) / max(1, kind.scheduled) for kind in (earlier, now))
        if before or after:
            yield Row(now.name, figure, before, after, _percent, judged=same_load)


def _shed(kind: Kind) -> int:
    return kind.shed.count


def _failed(kind: Kind) -> int:
    return sum(figures.failed(kind).values())


def _percent(share: float) -> str:
    return f"{share:.3%}"


def _step(now: Step, earlier: Step) -> Iterator[Row]:
    group = f"step of {figures.rate(now.offered_per_second)}"
    usable = not now.generator_late and not earlier.generator_late
    yield Row(
        group,
        "accepted",
        earlier.accepted_per_second,
        now.accepted_per_second,
        figures.rate,
        lower_is_better=False,
        judged=usable,
    )
    # Past the knee a latency says how long the queue has grown, not how fast the service is.
    below_knee = usable and earlier.holds
    for figure, before, after in (
        ("p50", earlier.p50_us, now.p50_us),
        ("p99", earlier.p99_us, now.p99_us),
        ("p99.9", earlier.p999_us, now.p999_us),
    ):
        yield Row(group, figure, before, after, figures.time, judged=below_knee and figure != "p99.9")


def show(console: Console, now: Run, earlier: Run, tolerance: float) -> bool:
    """Print both; whether nothing is worse beyond ``tolerance``. Raises ``NotComparable``.

    Runs that are not valid are shown, so that one sees why, and are then not comparable.
    """
    found = rows(now, earlier)
    console.print(f"earlier: {escape(_named(earlier))}\nnow:     {escape(_named(now))}", highlight=False)
    differences = verdict.differences(now, earlier)
    if differences:
        console.print(_differences(differences))
    console.print(_table(found))
    invalid = [word for word, run in (("the earlier run", earlier), ("the run now", now)) if not run.valid]
    if invalid:
        raise NotComparable(f"{' and '.join(invalid)} must not be used: {'; '.join((*earlier.flaws, *now.flaws))}")
    beyond = worse(found, tolerance)
    if beyond:
        told = ", ".join(f"{row.group} {row.figure}" for row in beyond)
        console.print(f"[bold red]worse[/] beyond {tolerance:.0%}: {escape(told)}", highlight=False)
    else:
        console.print(f"nothing is worse beyond {tolerance:.0%}", highlight=False)
    return not beyond


def _named(run: Run) -> str:
    return f"{run.scenario} of {run.started_at}, {figures.seconds(run.seconds)}, commit {run.commit}, on {run.target}"


def _differences(found: list[tuple[str, str, str]]) -> Table:
    table = Table("not the same", "earlier", "now", title="Differences", box=SIMPLE_HEAD)
    for what, before, after in found:
        table.add_row(escape(what), escape(before), escape(after))
    return table


def _table(found: list[Row]) -> Table:
    table = Table("", "figure", "earlier", "now", "ratio", "", title="Compared", box=SIMPLE_HEAD)
    for column in table.columns[2:5]:
        column.justify = "right"
    group = None
    for row in found:
        if group not in (None, row.group):
            table.add_section()
        named = "" if row.group == group else escape(row.group)
        values = row.written(row.earlier), row.written(row.now), ratio(row)
        table.add_row(named, escape(row.figure), *values, Text(row.word, STYLES[row.word]))
        group = row.group
    return table


def ratio(row: Row) -> str:
    """``1.25x``, or what stands for it when there was nothing before."""
    return figures.NOTHING if row.ratio is None else f"{row.ratio:.2f}x"
