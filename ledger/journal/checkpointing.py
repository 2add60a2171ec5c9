"""Owns the making of a checkpoint: the newest one, what the journal got since, and the next one."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ledger.journal.checkpoints import Checkpoints
from ledger.journal.folding import Folding
from ledger.journal.reader import Generation, Journal
from ledger.journal.records import Place
from ledger.messages import TIME_MS_MAX

IDLE_MS: Final = 60_000
"""A shard that has told nothing for so long, while others have, is not waited for."""


class CheckpointRefused(Exception):
    """It must not be made now; the text says why."""


class Checkpointed(NamedTuple):
    """What was made: its number, None when the newest one has all; from which one on, None = the epoch's start.

    ``entries`` and ``movements`` are those that were folded for it.
    """

    number: int | None
    based_on: int | None
    bytes: int
    entries: int
    movements: int
    folded_s: float
    stored_s: float


Progress = Callable[[str, int, int], None]
"""Who is told how far it has come: a step, and how much of how much of it is done."""


async def make_checkpoint(
    postgres_url: str, shards: int, progress: Progress = lambda _step, _done, _total: None
) -> Checkpointed:
    """Fold what the journal has, from the newest checkpoint on, and keep it as the next one. Nobody is kept waiting.

    Takes the memory that the ledger's live reservations and positions take, about 1 KB each. ``shards`` are those of a
    ledger that does not tell its own. Raises ``CheckpointRefused``, or one of the journal's ``FAILED``.
    """
    checkpoints = await Checkpoints.open(postgres_url)
    journal = await Journal.open(postgres_url)
    try:
        if not await checkpoints.be_the_maker():
            raise CheckpointRefused("another checkpoint is being made")
        generation = await journal.generation(shards)
        if generation is None:
            raise CheckpointRefused("the journal is empty")
        return await _make(checkpoints, journal, generation, progress)
    finally:
        await journal.close()
        await checkpoints.close()


async def _make(checkpoints: Checkpoints, journal: Journal, generation: Generation, progress: Progress) -> Checkpointed:
    began_s = time.perf_counter()
    movements = await checkpoints.movements()
    folding = await newest_folding(checkpoints, journal, generation, progress)
    await fold_on(folding, journal, progress, up_to_ms=await _told_until_ms(journal, generation))
    if folding.damages:
        raise CheckpointRefused(f"the journal is damaged in {folding.damages} places")
    folded_s = time.perf_counter() - began_s
    done = (folding.entries, folding.movements, folded_s)
    if not folding.entries and folding.checkpoint is not None:
        return Checkpointed(None, folding.checkpoint, 0, *done, 0.0)
    stored = await checkpoints.store(folding, movements, lambda shard: progress("store", shard, generation.shards))
    return Checkpointed(stored.id, folding.checkpoint, stored.bytes, *done, time.perf_counter() - began_s - folded_s)


async def newest_folding(
    checkpoints: Checkpoints, journal: Journal, generation: Generation, progress: Progress
) -> Folding:
    """From the newest checkpoint that can be used, or from the epoch's start."""
    newest = await checkpoints.newest(journal, *generation, progress=lambda done, total: progress("load", done, total))
    return newest or await Folding.of_epoch(journal, *generation)


async def fold_on(folding: Folding, journal: Journal, progress: Progress, up_to_ms: int = TIME_MS_MAX) -> None:
    """``Folding.advance``, whose progress is told of the entries that the journal has now."""
    total = 0
    for shard, cursor in enumerate(folding.cursors):
        end = (await journal.cursor(shard)).place
        total += end.seq - cursor.place.seq if end.epoch == folding.epoch else 0
    await folding.advance(journal, up_to_ms=up_to_ms, progress=lambda taken: progress("fold", taken, max(total, taken)))


async def _told_until_ms(journal: Journal, generation: Generation) -> int:
    """Until when no shard has anything more to tell, so that all are folded in the order of time, from here or on."""
    if generation.shards == 1:
        return TIME_MS_MAX
    last = Place(generation.epoch + 1, 0)
    ends = [await journal.at_ms(shard, last) for shard in range(generation.shards)]
    newest_ms = max(ends)
    return min(end for end in ends if end >= newest_ms - IDLE_MS)
