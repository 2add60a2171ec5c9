"""Owns ``availability rehome`` and ``rebuild``: the ledger is filled anew from its journal.

Each prints what there is now and answers its exit code: 0 = done, 1 = refused, 2 = could not be done; then it can be
begun again, and goes on.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import click

from availability import embedded
from availability.instance import Instance, Refused
from availability.instance_servers import servers_of
from availability.settings import Settings
from availability.terminal import shown_progress
from ledger import (
    JOURNAL_FAILED,
    KEYSPACE_FAILED,
    Filled,
    FillPlan,
    FillRefused,
    NotFilled,
    fill_anew,
)

FAILED = (*JOURNAL_FAILED, *KEYSPACE_FAILED, NotFilled, embedded.NotReady, embedded.Unusable)

STEPS = {
    "wait": "another one is waited for, or what it left",
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
DAMAGED = "What is missing in the journal, or was changed there, is lost then, though it was acknowledged."


async def run(
    settings: Settings,
    data_dir: Path | None,
    reason: Literal["rehome", "rebuild"],
    shards: int | None,
    *,
    damaged: bool,
    agreed: Callable[[str], bool],
) -> int:
    """Fill the ledger of the settings, or of the instance in ``data_dir``, if ``agreed`` says so.

    ``damaged``: also from a journal that is.
    """
    question = EXPLAINED[reason].format(shards=shards)
    if not agreed(f"{DAMAGED} {question}" if damaged else question):
        return 1
    try:
        async with servers_of(settings, data_dir, beside_up=reason == "rebuild") as known:
            plan = FillPlan(known.redis_url, known.postgres_url, shards, reason, known.shards, damaged)
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
