"""Owns the waiting until the journal has everything up to some places, and the writing of it where nobody else does."""

import asyncio
from collections.abc import Callable, Mapping

from ledger.journal.mending import mend
from ledger.journal.postgres import open_unless_stopped
from ledger.journal.reader import Journal
from ledger.journal.records import Place
from ledger.journal.stream import JournalStream
from ledger.journal.writer import JournalWriter

POLL_S = 0.02
BLOCK_MS = 20
NO_PROGRESS_S = 60.0


class NotReached(Exception):
    """For a minute the journal came no further."""


async def catch_up(
    redis_url: str,
    postgres_url: str,
    journal: Journal,
    goals: Mapping[int, Place],
    progress: Callable[[int, int], None],
) -> None:
    """Return when the journal has these places, by shard; ``progress`` is told how many entries of how many it has.

    Raises ``NotReached``, one of ``FAILED`` or one of ``STREAM_FAILED``.
    """
    stop = asyncio.Event()
    running = [
        asyncio.create_task(_write_up_to(goal, redis_url, postgres_url, shard, stop)) for shard, goal in goals.items()
    ]
    try:
        await _reached(journal, goals, running, progress)
    finally:
        stop.set()
        await asyncio.gather(*running, return_exceptions=True)


async def _write_up_to(goal: Place, redis_url: str, postgres_url: str, shard: int, stop: asyncio.Event) -> None:
    """Write the shard's entries, as soon as no other process does."""
    writer = await open_unless_stopped(JournalWriter.open(postgres_url, shard), stop)
    if writer is None:
        return
    stream = JournalStream(redis_url, shard)
    stream.rewind(writer.cursor.place)
    try:
        await mend(redis_url, postgres_url, shard)
        while writer.cursor.place < goal and not stop.is_set():
            written = await writer.write(await stream.read(BLOCK_MS))
            if written.held_back:
                raise NotReached(f"the journal of shard {shard} stopped: see `availability conflicts`")
    finally:
        await stream.close()
        await writer.close()


async def _reached(
    journal: Journal,
    goals: Mapping[int, Place],
    running: list[asyncio.Task[None]],
    progress: Callable[[int, int], None],
) -> None:
    total = sum(goal.seq for goal in goals.values())
    clock = asyncio.get_running_loop().time
    before, moved_at = -1, clock()
    while True:
        cursors = {shard: (await journal.cursor(shard)).place for shard in goals}
        done = sum(
            min(cursors[shard].seq, goal.seq) for shard, goal in goals.items() if cursors[shard].epoch == goal.epoch
        )
        progress(done, total)
        left = [shard for shard, goal in goals.items() if cursors[shard] < goal]
        if not left:
            return
        for task in running:
            if task.done():
                task.result()  # raises why it failed
        if done != before:
            before, moved_at = done, clock()
        if clock() - moved_at > NO_PROGRESS_S:
            raise NotReached(f"the journal of shard {left[0]} comes no further: see what `availability journal` says")
        await asyncio.sleep(POLL_S)
