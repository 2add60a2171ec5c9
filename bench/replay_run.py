"""Owns one run of the replay from the baskets to the report: the service, the run's name, progress, checks."""

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import replay_checks, replay_report, target
from bench.baskets import Basket
from bench.caller import Caller
from bench.contract import SCOPES
from bench.http_client import HttpClient
from bench.replay import Replay
from bench.replay_stores import Stores


async def run(baskets: Sequence[Basket], data_folder: Path | None, concurrency: int, console: Console) -> bool:
    """Replay the baskets, print the report; whether every check holds. Raises one of ``commands.FAILED``.

    ``data_folder`` is of an ``up`` that runs; without one, an ``up`` is started for this run alone.
    """
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # a connection that ends is ours to tell
    name = f"replay-{secrets.token_hex(3)}"
    seconds: dict[str, float] = {}
    async with target.running(data_folder) as service:
        addresses = service.addresses
        console.print(f"{name} on {addresses.api}: {len(baskets):,} baskets")
        events_from = await replay_checks.first_event(addresses)
        async with HttpClient(addresses.api, service.token(name, SCOPES), concurrency) as http:
            caller = Caller(http)
            replay = Replay(Stores(caller, addresses.nats, name), baskets, concurrency)
            with _timed(seconds, "opening counts"):
                await replay.open()
            with _timed(seconds, "replay"), _progress(console) as progress:
                task = progress.add_task("baskets", total=len(baskets))
                await replay.sell(lambda: progress.advance(task))
            with _timed(seconds, "checks"):
                found = await replay_checks.check_all(replay, addresses, name, events_from)
    replay_report.show(console, replay.tally, caller.tries, seconds, found)
    return all(check.holds for check in found)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    began_at = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - began_at


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
