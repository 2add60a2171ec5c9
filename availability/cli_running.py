"""Owns how a command runs: its settings insisted on, questions asked, and its end told as an exit code.

Exit codes: 0 = done or fine, 1 = differs, unsafe or refused, 2 = could not be done or checked.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click

from availability.settings import Settings

DataFolder = click.Path(file_okay=False, path_type=Path)
RunningUp = click.option("--data-dir", type=DataFolder, help="Of an `up` that runs now, in place of settings.")
AnyUp = click.option("--data-dir", type=DataFolder, help="Of an `up`, in place of settings.")
Yes = click.option("--yes", is_flag=True, help="Do not ask.")
OR_AN_UP = "; or name the folder of an `up` by --data-dir"


class NotChecked(Exception):
    """A server did not answer as it must: nothing can be said. The text says which, and never a secret."""


def asking(*, yes: bool) -> Callable[[str], bool]:
    """What asks the operator a question, and is told whether to go on; with ``yes``, it does not ask."""
    return lambda question: yes or click.confirm(question, err=True)


def run_process(
    settings: Settings, needed: tuple[str, ...], run: Callable[[Settings], Coroutine[Any, Any, None]]
) -> None:
    insist(settings, needed)
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request is the demo's noise
    run_until_stopped(run(settings))


def run_tool(
    settings: Settings,
    data_dir: Path | None,
    needed: tuple[str, ...],
    tool: Callable[[Settings], Coroutine[Any, Any, int]],
) -> NoReturn:
    """Run an operator's tool against DIR or the settings; it answers the exit code."""
    from availability import instance

    try:
        settings = settings if data_dir is None else instance.settings_of(data_dir, settings)
    except instance.Refused as refused:
        fail(2, str(refused))
    insist(settings, ("postgres_url", *needed), otherwise=OR_AN_UP)
    try:
        sys.exit(asyncio.run(tool(settings)))
    except NotChecked as error:
        fail(2, str(error))


def insist(settings: Settings, needed: tuple[str, ...], *, otherwise: str = "") -> None:
    """End with 2 when one of the settings is missing; see ``Settings.missing``."""
    if missing := settings.missing(needed):
        names = ", ".join(missing)
        fail(2, f"not set: {names}; put it into the file of --settings, or into AVAILABILITY_<NAME>{otherwise}")


def run_until_stopped(coroutine: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(coroutine)


def fail(code: int, text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(code)
