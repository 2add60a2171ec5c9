"""Owns the journaling of one shard for as long as the process lives: stream to Postgres, through every outage."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ledger.journal.enduring import endure
from ledger.journal.mending import mend
from ledger.journal.postgres import FAILED, connect, now_ms, open_unless_stopped, wait_at_most
from ledger.journal.stream import STREAM_FAILED, JournalStream, StreamStatus
from ledger.journal.writer import Fenced, JournalWriter, Written, stopped_epoch

CHORES_EVERY_S = 1.0
CHORES_END_S = 1.0
"""How long those under way are waited for at the end."""
TURN_S = 0.02
"""A batch this soon after the one before it is not begun, unless much waits: they share what it costs."""
TURN_ENTRIES = 128

logger = logging.getLogger(__name__)


class Settled(Exception):
    """Somebody has settled the conflict that the journal stopped at: it goes on behind its cursor."""


@dataclass(frozen=True)
class Observer:
    """Whom the follower tells: what it wrote, and what it saw of the stream. They must be quick."""

    written: Callable[[int, Written], None]
    status: Callable[[int, StreamStatus], None]


@dataclass
class Follower:
    """Journals one shard. ``run`` returns only after ``stop``, with the batch in hand stored or surely not."""

    redis_url: str
    postgres_url: str
    shard: int
    observer: Observer
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the stream; when anything fails, begin again from the cursor that Postgres then tells."""
        failures = (*FAILED, *STREAM_FAILED, Fenced, Settled)
        await endure(f"shard {self.shard}: journaling", self._follow, failures, self._stopping)

    async def _follow(self) -> None:
        """Take the shard and journal it until something fails or ``stop``."""
        writer = await self._open()
        if writer is None:
            return
        stream = JournalStream(self.redis_url, self.shard)
        stream.rewind(writer.cursor.place)
        ended = asyncio.Event()
        chores = asyncio.create_task(self._chores(writer, ended))
        clock = asyncio.get_running_loop().time
        try:
            await mend(self.redis_url, self.postgres_url, self.shard)
            while not self._stopping.is_set():
                if chores.done():
                    await chores
                if entries := await stream.read():
                    began_at = clock()
                    self.observer.written(self.shard, await writer.write(entries))
                    if len(entries) < TURN_ENTRIES:
                        await asyncio.sleep(TURN_S - (clock() - began_at))
        finally:
            ended.set()
            # A connection that is cancelled while it is made would be left open.
            await asyncio.wait((chores,), timeout=CHORES_END_S)
            chores.cancel()
            with contextlib.suppress(asyncio.CancelledError, *FAILED, *STREAM_FAILED, Settled):
                await chores
            await stream.close()
            await writer.close()

    async def _chores(self, writer: JournalWriter, ended: asyncio.Event) -> None:
        """Trim behind what is committed, and say how far behind the stream the journal is, until ``ended``."""
        stream = JournalStream(self.redis_url, self.shard)
        connection = await connect(self.postgres_url)
        try:
            while not ended.is_set():
                await stream.trim(writer.cursor.place)
                checked_at_ms = now_ms()
                status = await stream.status(writer.cursor.place)
                if status.ledger_behind:
                    logger.error("shard %d: the ledger is behind its journal (%s)", self.shard, writer.cursor.place)
                stopped = await stopped_epoch(connection, self.shard)
                self.observer.status(self.shard, replace(status, is_stopped=stopped > 0))
                await connection.execute(
                    "insert into availability.journal_status values ($1, $2, $3, $4, $5) on conflict (shard) do update"
                    " set backlog_entries = $2, lag_ms = $3, ledger_behind = $4, checked_at_ms = $5",
                    *(self.shard, status.backlog_entries, status.lag_ms, status.ledger_behind, checked_at_ms),
                )
                if stopped < writer.stopped_epoch:
                    raise Settled("what it stopped at is settled")
                await wait_at_most(ended, CHORES_EVERY_S)
        finally:
            connection.terminate()
            await stream.close()

    async def _open(self) -> JournalWriter | None:
        """The shard's writer, as soon as no other has it; None when told to stop before that."""
        return await open_unless_stopped(JournalWriter.open(self.postgres_url, self.shard), self._stopping)
