"""Owns the commands of the comparisons: their options, and that what was measured is printed, kept and judged."""

import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from bench import commands
from bench.commands import Decorator
from bench.peers import ledger_alone, over_http, table
from bench.peers.table import Tables

RUNS: Final[Decorator] = click.option(
    "--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds; all take turns."
)
OUT: Final[Decorator] = click.option("--out", type=commands.NEW_FILE, help="Keep the figures in this file, as JSON.")


def _numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise click.BadParameter("must be whole numbers with commas between them") from None


@click.command()
@RUNS
@click.option("--holds", type=click.IntRange(min=1_000), default=128_000, show_default=True, help="In a round.")
@click.option("--batch", type=click.IntRange(1, 512), default=64, show_default=True, help="Holds in a call.")
@OUT
def ledger(runs: int, holds: int, batch: int, out: Path | None) -> None:
    """Compare the ledger alone, on one core, with calls of one hold and with what Postgres can do instead."""

    async def compare() -> bool:
        return _told([await ledger_alone.measure(runs, holds, batch, _command(), _progress())], out)

    commands.run(compare)


@click.command()
@RUNS
@click.option("--processes", default="1,2,4", show_default=True, callback=_numbers, help="Of the API.")
@click.option("--seconds", type=commands.Number(min=0.1), default=3.0, show_default=True, help="Of each, in a round.")
@click.option("--only", default="", help="Only what has this in its name, and the null POST.")
@OUT
def peers(runs: int, processes: list[int], seconds: float, only: str, out: Path | None) -> None:
    """Compare the API with null endpoints, and with what would be written instead, behind the same HTTP server."""

    async def compare() -> bool:
        return _told(await over_http.measure(runs, processes, seconds, only, _command(), _progress()), out)

    commands.run(compare)


def _command() -> str:
    return " ".join(["python -m bench", *sys.argv[1:]])


def _progress() -> Console:
    """Beside the result, which goes to standard output."""
    return Console(stderr=True)


def _told(tables: list[Tables], out: Path | None) -> bool:
    print("\n".join(map(table.markdown, tables)))
    if out is not None:
        table.write(tables, out)
    return all(verdict.met for each in tables for verdict in table.verdicts(each))
