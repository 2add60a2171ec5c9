"""Owns what all commands share: how they run and exit, where they print, and options that several have.

Exit codes: 0 = done, valid, and every check holds; 1 = a check does not hold, a goal of a part is missed, something is
worse, or the generator was late; 2 = it could not be done; 130 and 143 = interrupted by SIGINT or SIGTERM.
"""

import asyncio
import math
import os
import signal
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
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SIGNALLED: Final = 128
"""Plus the signal's number: what a shell tells of a process that a signal has ended."""
Decorator = Callable[[Callable[..., None]], Callable[..., None]]
RUN_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


class _NewFile(click.Path[Path]):
    """A file to write, in a folder that is there and takes it: who is told so after the run has lost the run."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        folder = path.parent
        if not folder.is_dir():
            self.fail(f"there is no folder {folder}", param, ctx)
        if not os.access(folder, os.W_OK):
            self.fail(f"nothing can be written into {folder}", param, ctx)
        return path


class Number(click.FloatRange):
    """A number in a range; nan and infinity, which are in every one, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number to count with", param, ctx)
        return number


NEW_FILE: Final = _NewFile(dir_okay=False, path_type=Path)
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
    signals: list[int] = []
    passed = False
    try:
        passed = uvloop.run(_until_signal(work(), signals))
    except* FAILED as group:
        failures = list(_leaves(group))
    except* asyncio.CancelledError:
        assert signals, "nobody else cancels it"
    except* KeyboardInterrupt:  # before there was a loop
        signals.append(signal.SIGINT)
    for failure in failures:
        click.echo(f"{type(failure).__name__}: {failure}", err=True)
    if signals:
        click.echo("interrupted", err=True)
        sys.exit(SIGNALLED + signals[0])
    sys.exit(2 if failures else 0 if passed else 1)


async def _until_signal(work: Coroutine[Any, Any, bool], signals: list[int]) -> bool:
    """What it answers. The first signal to end cancels it, so that it ends what it started, and is in ``signals``."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def note(number: int) -> None:
        # `timeout` tells both us and our group: what is being ended must not be cancelled once more.
        if not signals:
            task.cancel()
        signals.append(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, note, number)
    return await work


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
