"""Owns the bench's command line. A scenario is a command here and a module of its own that it calls.

Exit codes: 0 = done, and every check holds; 1 = a check does not hold; 2 = it could not be done.
"""

import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import uvloop

from bench import journey, memory, replay_run
from bench.peers import commands as comparing

CONCURRENCY = 64


def _numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise click.BadParameter("must be whole numbers with commas between them") from None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Drive a running service from outside, and check that it kept its promises."""


@main.command()
@click.option("--baskets", type=click.IntRange(min=1), default=5_000, show_default=True, help="How many to replay.")
@click.option("--from", "first_day", type=click.DateTime(["%Y-%m-%d"]), help="Begin at this day of 2017.")
@click.option("--stores", type=click.IntRange(min=1), help="Only the N stores with the most lines.")
@click.option("--concurrency", type=click.IntRange(1, 1_000), default=CONCURRENCY, show_default=True, help="In flight.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Of an `availability up` that runs now; without it one is started, and stopped and removed afterwards.",
)
def replay(
    baskets: int, first_day: datetime | None, stores: int | None, concurrency: int, data_dir: Path | None
) -> None:
    """Replay real baskets of the Complete Journey data in time order: hold, commit, ship, and daily recounts."""
    window = journey.Window(baskets, first_day and first_day.date(), stores)
    _run(lambda: replay_run.run(journey.load(window), data_dir, concurrency))


@main.command("memory")
@click.option("--positions", type=click.IntRange(min=100), default=100_000, show_default=True, help="How many to make.")
def memory_(positions: int) -> None:
    """Measure the ledger's memory per position and per live line, on a Valkey of its own."""
    _run(lambda: memory.run(positions))


@main.command("ledger")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds; all take turns.")
@click.option("--holds", type=click.IntRange(min=1_000), default=128_000, show_default=True, help="In a round.")
@click.option("--batch", type=click.IntRange(1, 512), default=64, show_default=True, help="Holds in a call.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Keep the figures in this file, as JSON.")
def ledger_(runs: int, holds: int, batch: int, out: Path | None) -> None:
    """Compare the ledger alone, on one core, with calls of one hold and with what Postgres can do instead."""
    _run(lambda: comparing.ledger(runs, holds, batch, out))


@main.command()
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds; all take turns.")
@click.option("--processes", default="1,2,4", show_default=True, callback=_numbers, help="Of the API.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="Of each, in a round.")
@click.option("--only", default="", help="Only what has this in its name, and the null POST.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Keep the figures in this file, as JSON.")
def peers(runs: int, processes: list[int], seconds: float, only: str, out: Path | None) -> None:
    """Compare the API with null endpoints, and with what would be written instead, behind the same HTTP server."""
    _run(lambda: comparing.peers(runs, processes, seconds, only, out))


def _run(scenario: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Run it and exit as the module says."""
    failures: list[BaseException] = []
    passed = False
    try:
        passed = uvloop.run(scenario())
    except* (journey.NoData, *comparing.FAILED, *replay_run.FAILED) as group:
        failures = list(_leaves(group))
    for failure in failures:
        click.echo(f"{type(failure).__name__}: {failure}", err=True)
    sys.exit(2 if failures else 0 if passed else 1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The failures themselves, out of the groups that tasks put them into."""
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            yield from _leaves(failure)
        else:
            yield failure
