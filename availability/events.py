"""Owns the announcing of what the ledger did: from the journal in Postgres to the stream ``AVAILABILITY`` in NATS."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from availability.concerned import Claimants
from availability.event_publisher import PUBLISHING_FAILED, Publisher
from availability.event_shapes import events_of
from availability.processes import pause
from ledger import JOURNAL_FAILED, CursorMoved, Outbox, Reservations, endure, open_unless_stopped

TAKE_EVENTS = 2_000
ENTRIES_MIN, ENTRIES_MAX = 8, 2_000
TURN_S = 0.05
"""A batch this soon after the one before it is not begun, unless much waits: a batch costs NATS more than its events,
and of a position that changes again and again less is told."""
POLL_S = 0.1
"""How soon entries are seen that another process journaled; those of this process are seen at once."""

FAILED = (*JOURNAL_FAILED, *PUBLISHING_FAILED, CursorMoved)


@dataclass
class Announcer:
    """Announces one shard's journal. ``run`` returns only after ``stop``, with its cursor behind what was acknowledged.

    ``wake`` says that the journal has something new; ``announced`` is told how many events were acknowledged.
    """

    nats_url: str
    postgres_url: str
    shard: int
    stale_after_ms: int
    announced: Callable[[int, int], None]
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Look into the journal at once."""
        self._awake.set()

    def stop(self) -> None:
        """End after the events in hand."""
        self._stopping.set()
        self._awake.set()

    async def run(self) -> None:
        """Announce; when anything fails, begin again from the cursor in Postgres."""
        await endure(f"shard {self.shard}: announcing", self._announce, FAILED, self._stopping)

    async def _announce(self) -> None:
        """Take the shard's outbox and empty it again and again, until something fails or ``stop``."""
        outbox = await open_unless_stopped(Outbox.open(self.postgres_url, self.shard), self._stopping)
        if outbox is None:
            return
        publisher: Publisher | None = None
        search = await Reservations.open(self.postgres_url)
        try:
            publisher = await Publisher.open(self.nats_url)
            await self._drain(outbox, publisher, Claimants(search, self.shard, self._stopping.is_set))
        finally:
            await search.close()
            if publisher is not None:
                await publisher.close()
            await outbox.close()

    async def _drain(self, outbox: Outbox, publisher: Publisher, claimants: Claimants) -> None:
        """One batch is on its way to NATS while the next is read and made; they arrive in the journal's order."""
        entries_max = ENTRIES_MIN
        taken, telling = outbox.cursor, uuid4().hex[:8]
        under_way: asyncio.Task[int] | None = None
        clock = asyncio.get_running_loop().time
        try:
            while not self._stopping.is_set() or under_way is not None:
                began_at = clock()
                self._awake.clear()
                before = taken
                entries, taken = await outbox.take(entries_max, after=before)
                concerned = await claimants.of(entries)
                events = events_of(
                    *(self.shard, entries), stale_after_ms=self.stale_after_ms, concerned=concerned, telling=telling
                )
                if under_way is not None:
                    published = await under_way
                    await outbox.done(before)
                    self.announced(self.shard, published)
                    under_way = None
                if taken == before:
                    await pause(self._awake, POLL_S)
                elif not self._stopping.is_set():
                    under_way = asyncio.create_task(publisher.publish(events))
                    if len(entries) < entries_max:
                        await asyncio.sleep(TURN_S - (clock() - began_at))
                    entries_max = TAKE_EVENTS * len(entries) // max(1, len(events))
                    entries_max = min(max(entries_max, ENTRIES_MIN), ENTRIES_MAX)
        finally:
            if under_way is not None:
                under_way.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await under_way
