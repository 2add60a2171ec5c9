"""Owns ``availability rehome`` and ``rebuild``: the ledger is filled anew from its journal.

Each prints what there is now and answers its exit code: 0 = done, 1 = refused, 2 = could not be done; then it can be
begun again, and goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID

from availability import embedded
from availability.instance import Instance, Refused, settings_of
from availability.settings import Settings
from availability.supervisor import Child, stop_in_order
from ledger import (
    JOURNAL_FAILED,
    KEYSPACE_FAILED,
    Filled,
    FillPlan,
    FillRefused,
    NotFilled,
    Unreadable,
    fill_anew,
)

FAILED = (*JOURNAL_FAILED, *KEYSPACE_FAILED, NotFilled, Unreadable, embedded.NotReady, embedded.Unusable)

STEPS = {
    "drain": "the journal gets what was done",
    "load": "the newest checkpoint is read",
    "fold": "the journal is folded",
    "clear": "the old keys are removed",
    "restore": "everything is put back",
    "journal": "the journal gets that, too",
    "compare": "the ledger is compared",
}

EXPLAINED = {
    "rehome": "Nothing can be held or sold while the ledger is given {shards} shards, and every process needs the new"
    " setting after it. Go on?",
    "rebuild": "What the ledger has now is removed, and made anew from its journal. Go on?",
}


async def run(
    settings: Settings,
    data_dir: Path | None,
    reason: Literal["rehome", "rebuild"],
    shards: int | None,
    *,
    agreed: Callable[[str], bool],
) -> int:
    """Fill the ledger of the settings, or of the instance in ``data_dir``, if ``agreed`` says so."""
    if not agreed(EXPLAINED[reason].format(shards=shards)):
        return 1
    try:
        async with servers_of(settings, data_dir, beside_up=reason == "rebuild") as known:
            plan = FillPlan(known.redis_url, known.postgres_url, shards, reason, known.shards)
            with shown_progress(STEPS) as tell:
                filled = await fill_anew(plan, tell)
            told = _told(filled, known)
    except (Refused, FillRefused) as refused:
        click.echo(str(refused), err=True)
        return 1
    except FAILED as error:
        click.echo(f"not done ({type(error).__name__}: {error}); begun again, it goes on", err=True)
        return 2
    click.echo(_folded(filled), err=True)
    if data_dir is not None and reason == "rehome":
        _note_shards(data_dir, filled.shards)
    click.echo(told)
    return 0


def _note_shards(data_dir: Path, shards: int) -> None:
    with suppress(Refused):  # an `up` was started meanwhile: it has noted its own
        instance = Instance(data_dir)
        instance.note_shards(shards)
        instance.close()


def _folded(filled: Filled) -> str:
    since = "the epoch's start" if filled.checkpoint is None else f"checkpoint {filled.checkpoint}"
    text = f"{filled.movements:,} movements of the journal were folded from {since} on, in {filled.folded_s:.1f} s"
    if filled.damages:
        text += f"; it is damaged in {filled.damages} places, where the ledger may not be what it was: see the errors"
    return text


def _told(filled: Filled, settings: Settings) -> str:
    text = f"the ledger has {filled.shards} shards"
    if filled.positions:
        text += f", {filled.positions} positions and {filled.reservations} reservations, all compared"
    if filled.shards == settings.shards:
        return text
    return f"{text}; now set shards = {filled.shards} for every process"


@contextmanager
def shown_progress(names: Mapping[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """What shows how far it has come, while the block lasts: a bar for each step, with its name for people."""
    bars = Progress(console=Console(stderr=True))
    try:
        yield _Steps(bars, names).tell
    finally:
        if bars.live.is_started:
            bars.stop()


class _Steps:
    """A bar for each step."""

    def __init__(self, bars: Progress, names: Mapping[str, str]) -> None:
        self._bars = bars
        self._names = names
        self._tasks: dict[str, TaskID] = {}

    def tell(self, step: str, done: int, total: int) -> None:
        self._bars.start()  # not before there is something to show
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(self._names[step])
        self._bars.update(self._tasks[step], completed=done or not total, total=total or 1)


@asynccontextmanager
async def servers_of(settings: Settings, data_dir: Path | None, *, beside_up: bool) -> AsyncIterator[Settings]:
    """The settings with the servers' URLs. The servers of an instance that does not run are started for this alone.

    ``Refused`` when an ``up`` runs there, unless this may go on ``beside_up``.
    """
    if data_dir is None:
        yield settings
        return
    if not (data_dir / "instance.json").exists():
        raise Refused(f"there is no instance in {data_dir}")
    try:
        instance = Instance(data_dir)
    except Refused as running:
        if not beside_up:
            raise Refused(f"{running}: stop it first, and start it again with the new number of shards") from running
        yield settings_of(data_dir, settings)
        return
    try:
        async with servers_started(instance.known.applied_to(settings), instance) as known:
            yield known
    finally:
        instance.close()


@asynccontextmanager
async def servers_started(settings: Settings, instance: Instance, *, nats: bool = False) -> AsyncIterator[Settings]:
    """Run the servers whose URLs the settings do not give, in the instance's folder; of NATS only if asked for."""
    children, passwords = [], instance.known.passwords
    for name, setting, make in (
        ("valkey", "redis_url", embedded.valkey),
        ("postgres", "postgres_url", embedded.postgres),
        ("nats", "nats_url", embedded.nats),
    ):
        if getattr(settings, setting) or (name == "nats" and not nats):
            continue
        server = await asyncio.to_thread(make, instance.folder / name, instance.port(name), passwords[name])
        log = instance.logs / f"{name}.log"
        children.append((Child(name, server.argv, server.env, log, stop_signal=server.stop_signal), server))
        settings = msgspec.structs.replace(settings, **{setting: server.url})
    running = [asyncio.create_task(child.run(lambda: None, _say)) for child, _ in children]
    try:
        for _, server in children:
            await server.wait()
        yield settings
    finally:
        await stop_in_order([[child for child, _ in children]])
        await asyncio.gather(*running)


def _say(text: str) -> None:
    click.echo(text, err=True)
