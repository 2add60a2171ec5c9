"""Owns how a replay's result is shown: what was done, how fast, and whether it checks."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.replay import Tally
from bench.run import Check
from bench.summary import checked

OUTCOMES = {
    "asked": "asked for",
    "held": "held",
    "refused": "refused: insufficient stock",
    "committed": "committed",
    "shipped": "shipped",
}


def show(console: Console, tally: Tally, tries: dict[str, int], seconds: dict[str, float], checks: list[Check]) -> None:
    """Print it all."""
    console.print(_done(tally))
    console.print(_speed(tally, tries, seconds))
    console.print(checked(checks))
    for fault in tally.faults:
        console.print(fault, style="red", markup=False)


def _done(tally: Tally) -> Table:
    table = Table("", "baskets", "reservations", "lines", "units", title="Replay", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("read", f"{tally.baskets:,}", "", f"{tally.lines_read:,}", "")
    table.add_row("of these with nothing to hold", f"{tally.baskets_of_nothing:,}", "", "", "")
    for outcome, words in OUTCOMES.items():
        figures = (of[outcome] for of in (tally.reservations, tally.lines, tally.units))
        table.add_row(words, "", *(f"{figure:,}" for figure in figures))
    for reason, lines in sorted(tally.rejected.items()):
        table.add_row(f"rejected: {reason.replace('[', chr(92) + '[')}", "", "", f"{lines:,}", "")
    for way, counts in sorted(tally.counts.items()):
        table.add_row(f"stores' counts over {way}", "", f"{counts:,} counts", f"{tally.counted_lines[way]:,}", "")
    return table


def _speed(tally: Tally, tries: dict[str, int], seconds: dict[str, float]) -> Table:
    table = Table("", "", title="Speed", box=SIMPLE_HEAD, show_header=False)
    table.columns[1].justify = "right"
    selling_s = seconds["replay"]
    for phase, duration_s in seconds.items():
        table.add_row(phase, f"{duration_s:.1f} s")
    changes = tally.changes.total()
    rates = {"baskets": tally.baskets, "lines asked for": tally.lines["asked"], "state changes": changes}
    for what, count in rates.items():
        table.add_row(f"{what} a second, in the replay", f"{count / selling_s:,.0f}")
    for what, count in sorted(tries.items()):
        if count:
            table.add_row(f"HTTP: {what}", f"{count:,}")
    return table
