"""Owns how a run is shown in the terminal when it is over; the whole of it is in its HTML report."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import figures, verdict
from bench.run import Check, Kind, Run, Step


def show(console: Console, run: Run) -> None:
    """Print the requests, steps, processes, checks and goals; and last, where it is seen, the verdict."""
    console.print(_kinds(run.kinds))
    if len(run.steps) > 1:
        console.print(_steps(run.steps))
    if run.cpu:
        told = ", ".join(f"{name} {figures.cores(share)}" for name, share in run.cpu.items())
        console.print(f"cores, mean: {escape(told)}", highlight=False)
    if run.feed is not None:
        lag = figures.time(run.feed.apply_lag.p99_us if run.feed.apply_lag.count else None)
        sent = f"{figures.count(run.feed.events)} at {figures.rate(run.feed.events_per_second)}"
        console.print(f"stock events over NATS: {sent}, p99 of the apply lag {lag}", highlight=False)
    console.print(checked(run.checks))
    console.print(_goals(run))
    style = "bold green" if verdict.passed(run) else "bold red"
    console.print(f"{run.scenario}: {verdict.sentence(run)}", style=style, markup=False, highlight=False)
    for flaw in run.flaws:
        console.print(f"  {flaw}", style="red", markup=False, highlight=False)


def _table(title: str, *columns: str) -> Table:
    """The first column names its row, the others are figures."""
    table = Table(*columns, title=title, box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _kinds(kinds: list[Kind]) -> Table:
    table = _table("Requests", "", "scheduled", "accepted", "p50", "p99", "p99.9", "slowest", "shed", "failed")
    for kind in kinds:
        of = kind.accepted
        times = [figures.time(us if of.count else None) for us in (of.p50_us, of.p99_us, of.p999_us, of.max_us)]
        counts = [figures.count(number) for number in (kind.scheduled, of.count)]
        failed = sum(figures.failed(kind).values())
        ends = [figures.count(kind.shed.count), f"[bold red]{figures.count(failed)}[/]" if failed else "0"]
        table.add_row(escape(kind.name), *counts, *times, *ends)
    return table


def _steps(steps: list[Step]) -> Table:
    table = _table("Steps", "", "offered", "accepted", "shed", "failed", "p50", "p99", "p99.9", "goals")
    for step in steps:
        word = "generator late" if step.generator_late else "met" if step.holds else "missed"
        rates = [figures.rate(rate) for rate in (step.offered_per_second, step.accepted_per_second)]
        ends = [figures.count(number) for number in (step.shed, step.failed)]
        times = [figures.time(us) for us in (step.p50_us, step.p99_us, step.p999_us)]
        table.add_row(escape(step.name), *rates, *ends, *times, word)
    return table


def _goals(run: Run) -> Table:
    table = Table("goal", "wanted", "seen", "", title="Goals", box=SIMPLE_HEAD)
    words = {True: "[green]met[/]", False: "[bold red]MISSED[/]", None: "[yellow]too few to tell[/]"}
    for goal in verdict.goals(run):
        table.add_row(escape(goal.name), goal.wanted, escape(goal.seen), words[goal.met])
    return table


def checked(checks: Iterable[Check]) -> Table:
    """What must hold, whether it does (None: it could not be checked), and the figures."""
    table = Table("check", "", "figures", title="Checks", box=SIMPLE_HEAD, show_header=False)
    words = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: "[yellow]not checked[/]"}
    for check in checks:
        table.add_row(escape(check.name), words[check.holds], escape(check.said))
    return table
