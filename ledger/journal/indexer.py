"""Owns the indexing of one shard's reservations for as long as the process lives, through every outage."""

import asyncio
import logging
from dataclasses import dataclass, field

from ledger.journal.enduring import endure
from ledger.journal.index import Index, Superseded
from ledger.journal.postgres import FAILED, open_unless_stopped, wait_at_most

POLL_S = 1.0
TURN_S = 0.1
"""A batch this soon after the one before it is not begun, unless the journal is far ahead: its cost is shared then."""

logger = logging.getLogger(__name__)


@dataclass
class Indexer:
    """Makes one shard's reservations searchable. ``run`` returns only after ``stop``, with the batch in hand stored.

    ``wake`` says that the journal has something new.
    """

    postgres_url: str
    shard: int
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Look into the journal at once."""
        self._awake.set()

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stopping.set()
        self._awake.set()

    async def run(self) -> None:
        """Follow the journal; when anything fails, begin again from the cursor in Postgres."""
        failures = (*FAILED, Superseded)
        await endure(f"shard {self.shard}: indexing", self._follow, failures, self._stopping)

    async def _follow(self) -> None:
        """Take the shard and index it until something fails or ``stop``.

        After a batch during which the journal grew it rests as long as it worked: the journal comes first.
        """
        index = await self._open()
        if index is None:
            return
        clock = asyncio.get_running_loop().time
        try:
            while not self._stopping.is_set():
                self._awake.clear()
                began_at = clock()
                if await index.advance():
                    worked_s = clock() - began_at
                    rest_s = worked_s if self._awake.is_set() else 0.0
                    if not index.is_behind:
                        rest_s = max(rest_s, TURN_S - worked_s)
                    await wait_at_most(self._stopping, rest_s)
                else:
                    await wait_at_most(self._awake, POLL_S)
        finally:
            await index.close()

    async def _open(self) -> Index | None:
        """The shard's index, as soon as no other indexer has it; None when told to stop before that."""
        return await open_unless_stopped(Index.open(self.postgres_url, self.shard), self._stopping)
