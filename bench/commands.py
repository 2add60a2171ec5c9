"""Owns what all commands share: how they run and exit, where they print, and options that several have.

Exit codes: 0 = done, valid, and every check holds; 1 = a check does not hold, a goal of a part is missed, something is
worse, or the generator was late; 2 = it could not be done.
"""

import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import click
import nats.errors
import redis
import uvloop
from rich.console import Console

from bench.caller import Stuck, Unexpected
from bench.compare import NotComparable
from bench.generators import GeneratorFailed
from bench.journey import NoData
from bench.peers.recorded import Refused
from bench.peers.table import Oversold
from bench.run import Run, read
from bench.target import NoTarget

FAILED: Final = (
    *(NoTarget, NoData, GeneratorFailed, Stuck, Unexpected, Refused, Oversold, NotComparable),
    *(OSError, nats.errors.Error, redis.RedisError, asyncpg.PostgresError, asyncpg.InterfaceError),
)
"""What ends a command without a result."""
WIDTH: Final = 120
"""Columns of what is printed into a file."""
Decorator = Callable[[Callable[..., None]], Callable[..., None]]
RUN_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE: Final = click.Path(dir_okay=False, path_type=Path)
DATA_DIR: Final[Decorator] = click.option(
    "--data-dir",
    "data_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Of an `availability up` that runs now; without it one is started, and stopped and removed afterwards.",
)


def read_run(path: Path) -> Run:
    """The run in a file that the user has named."""
    try:
        return read(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def run(work: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Run it and exit as the module says."""
    failures: list[BaseException] = []
    passed = False
    try:
        passed = uvloop.run(work())
    except* FAILED as group:
        failures = list(_leaves(group))
    for failure in failures:
        click.echo(f"{type(failure).__name__}: {failure}", err=True)
    sys.exit(2 if failures else 0 if passed else 1)


def console() -> Console:
    """Standard output, with a width of its own where it is no terminal."""
    shown = Console()
    if not shown.is_terminal:
        shown.width = WIDTH
    return shown


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The failures themselves, out of the groups that tasks put them into."""
    for failure in group.exceptions:
        if isinstance(failure, BaseExceptionGroup):
            yield from _leaves(failure)
        else:
            yield failure
