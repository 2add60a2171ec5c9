"""Owns how the figures of two generators, of the same load on the same service, are held against each other."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import figures

ROWS: Final = (
    ("requests", "requests", figures.count),
    ("held", "held", figures.count),
    ("due and never sent", "missed", figures.count),
    ("mean", "mean_us", figures.time),
    ("p50", "p50_us", figures.time),
    ("p90", "p90_us", figures.time),
    ("p99", "p99_us", figures.time),
    ("p99.9", "p999_us", figures.time),
    ("slowest", "max_us", figures.time),
    ("cores of the generator", "cores", figures.cores),
    ("CPU of the service, a hold", "service_us", figures.time),
)
"""What is shown, of which field, and how it is written."""


class Measured(Struct, frozen=True):
    """What one generator says of its stretch; latencies in microseconds. ``missed`` were due and never sent."""

    requests: float
    held: float
    missed: float
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    cores: float
    service_us: float
    """CPU time of the service's processes for each request."""


def median(several: Sequence[Measured]) -> Measured:
    """Of each figure by itself."""
    fields = Measured.__struct_fields__
    return Measured(**{name: statistics.median(getattr(one, name) for one in several) for name in fields})


def show(console: Console, ours: Measured, theirs: Measured, from_due: Measured) -> None:
    """Side by side, and why they differ."""
    columns = ("", "ours, from when due", "k6, from when due", "k6, from sending", "k6 to ours")
    table = Table(*columns, title="The same holds from both", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    # What it never sent k6 does not number, so when the others were due is not known.
    like = theirs if theirs.missed else from_due
    for name, field, written in ROWS:
        mine, due, sent = (float(getattr(one, field)) for one in (ours, from_due, theirs))
        told = figures.NOTHING if theirs.missed else written(due)
        ratio = f"{float(getattr(like, field)) / mine:.2f}x" if mine else figures.NOTHING
        table.add_row(name, written(mine), told, written(sent), ratio)
    console.print(table)
    for line in explained(ours, theirs, from_due):
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)


def explained(ours: Measured, theirs: Measured, from_due: Measured) -> Iterator[str]:
    """Where the differences come from, as far as the figures tell."""
    waited = figures.time(max(0.0, from_due.mean_us - theirs.mean_us))
    yield (
        "k6's own duration begins when a request is sent. It leaves out what the request waited before: for a virtual"
        " user, for the timer, for k6 to get a core. Ours never leaves that out."
        + ("" if theirs.missed else f" The script sees {waited} of it on average.")
    )
    yield "The script's clock has whole milliseconds, so its column is good to about 1 ms, and its p50 to no more."
    yield (
        f"k6 took {theirs.cores:.2f} cores and ours {ours.cores:.2f}. Both shared the machine with the service, which"
        f" lacks what they take; a hold cost it {figures.time(theirs.service_us)} of CPU under k6 and"
        f" {figures.time(ours.service_us)} under ours."
    )
    if ours.missed:
        yield f"Ours did not send {ours.missed:,.0f} requests that were due: the rate was not reached."
    if theirs.missed:
        yield (
            f"k6 never sent {theirs.missed:,.0f} requests that were due, for want of a free virtual user: its figures"
            " leave out the very requests that would have waited longest. Ours sent them late, and counted from due."
        )
