"""Owns ``availability checkpoint``, and its being run when it is due by the process ``journal``.

It is a process of its own: what it folds takes memory that is free again after it, and it may be slowed down as far as
everything else needs the machine. Exit codes: 0 = made, 1 = refused, 2 = could not be made.
"""

import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass, field

import click

from availability import launch
from availability.processes import pause
from availability.settings import Settings, environment_of_child
from availability.terminal import shown_progress
from ledger import JOURNAL_FAILED, Checkpointed, CheckpointRefused, Checkpoints, make_checkpoint

STEPS = {
    "load": "the checkpoint before it is read",
    "fold": "what the journal got since is folded",
    "store": "the new one is kept",
}
LOOKED_EVERY_S = 10.0
AFTER_FAILURE_S = 600.0
LEAST_URGENT = 19

logger = logging.getLogger(__name__)


async def run(settings: Settings, *, idle: bool) -> int:
    """Make one now."""
    if idle:
        os.nice(LEAST_URGENT)
    try:
        with shown_progress(STEPS) as tell:
            made = await make_checkpoint(settings.postgres_url, settings.shards, tell)
    except CheckpointRefused as refused:
        click.echo(f"no checkpoint was made: {refused}", err=True)
        return 1
    except JOURNAL_FAILED as error:
        click.echo(f"no checkpoint was made ({type(error).__name__}: {error})", err=True)
        return 2
    click.echo(_told(made))
    return 0


def _told(made: Checkpointed) -> str:
    if made.number is None:
        return f"checkpoint {made.based_on} has all that is in the journal"
    since = "the epoch's start" if made.based_on is None else f"checkpoint {made.based_on}"
    text = f"checkpoint {made.number}: {made.movements:,} movements folded from {since} on, in {made.folded_s:.1f} s"
    return f"{text}; {made.bytes / 1e6:.1f} MB kept, in {made.stored_s:.1f} s"


@dataclass
class Maker:
    """Runs the command whenever the journal has got enough since the last time; ``run`` returns after ``stop``."""

    settings: Settings
    looked_every_s: float = LOOKED_EVERY_S
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """End one that is being made, too."""
        self._stopping.set()

    async def run(self) -> None:
        while not self._stopping.is_set():
            pause_s = self.looked_every_s
            try:
                if await self._is_due() and await self._make() != 0:
                    pause_s = AFTER_FAILURE_S
            except JOURNAL_FAILED as error:
                logger.warning("whether a checkpoint is due cannot be told (%s: %s)", type(error).__name__, error)
            await pause(self._stopping, pause_s)

    async def _is_due(self) -> bool:
        checkpoints = await Checkpoints.open(self.settings.postgres_url)
        try:
            return await checkpoints.movements_since() >= self.settings.checkpoint_movements
        finally:
            await checkpoints.close()

    async def _make(self) -> int:
        """Its exit code; what it says is said in our place."""
        argv = [sys.executable, "-m", "availability", "checkpoint", "--idle"]
        process = await asyncio.create_subprocess_exec(
            *launch.command(argv, death_signal=signal.SIGKILL),
            stdin=asyncio.subprocess.DEVNULL,
            env=environment_of_child(self.settings),
        )
        ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(self._stopping.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
        stopped.cancel()
        return await ended
