"""Owns the commands about runs that are over: ``report`` writes one as HTML, ``compare`` holds one against another.

Exit codes as of the bench: 0 = done, and nothing is worse; 1 = something is; 2 = it could not be done.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from bench import compare, html_report, run

WIDTH = 120
"""Columns of a report that goes into a file."""
RunFile = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("run_json", type=RunFile)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; RUN.html unless told.")
@click.option("--compare", "earlier_json", type=RunFile, help="An earlier run, to be drawn beside this one.")
def report(run_json: Path, out: Path | None, earlier_json: Path | None) -> None:
    """Write a run as one self-contained HTML file with plots."""

    def write() -> bool:
        earlier = run.read(earlier_json) if earlier_json else None
        path = out or run_json.with_suffix(".html")
        html_report.write(run.read(run_json), path, earlier)
        click.echo(f"{path}: {path.stat().st_size / 1000:,.0f} kB")
        return True

    _exit(write)


@click.command("compare")
@click.argument("earlier_json", type=RunFile)
@click.argument("now_json", type=RunFile)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=100 * compare.MARKED_BEYOND,
    show_default=True,
    help="Percent by which a figure may be worse before this exits with 1.",
)
def compare_(earlier_json: Path, now_json: Path, tolerance: float) -> None:
    """Hold a run (the second) against an earlier one (the first): ratios by kind and step, and what is worse."""
    console = console_of_report()
    _exit(lambda: compare.show(console, run.read(now_json), run.read(earlier_json), tolerance / 100))


COMMANDS = (report, compare_)


def console_of_report() -> Console:
    """Of the terminal's width, or wide enough for a file."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    return console


def _exit(done: Callable[[], bool]) -> None:
    try:
        well = done()
    except (OSError, ValueError, compare.NotComparable) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    sys.exit(0 if well else 1)
