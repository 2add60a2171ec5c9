"""Owns the closing of a ledger that is about to be filled anew, until the journal has all that it did; and its opening.

Closed, no process may use it: its shards tell ``FILLING`` instead of their number.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ledger import messages as m
from ledger.errors import LedgerError
from ledger.journal.catching_up import catch_up
from ledger.journal.checkpointing import Progress
from ledger.journal.conflicts import conflicts
from ledger.journal.epochs import Reason
from ledger.journal.reader import Journal
from ledger.journal.records import START, Place
from ledger.keyspace import Keyspace
from ledger.state import FILLING
from ledger.store import Ledger

UNFINISHED_MS = 10_000
"""The keeper is due within this time where something was left behind; a day later where something has just ended."""
SETTLE_S = 12.0
POLL_S = 0.02
CALL_TIMEOUT_MS = 30_000

logger = logging.getLogger(__name__)


class FillRefused(Exception):
    """It must not be done now; the text says why and what to do. The ledger is as it was."""


@dataclass
class Closing:
    """Of the ledger at ``redis_url``; raises as ``fill_anew`` does."""

    redis_url: str
    postgres_url: str
    journal: Journal
    reason: Reason
    progress: Progress

    async def close(self, shards: int, *, closed: bool) -> None:
        """No process may use the ledger's ``shards`` any more, and the journal has all that they did.

        ``closed``: somebody who did not come to the end has closed it before.
        """
        if self.reason == "rehome" and not closed:
            await self._refuse_writers(shards)
            await self._settle(shards)
        for shard in range(shards):
            async with Keyspace.opened(self.redis_url, shard) as keyspace:
                await keyspace.fence(shards=FILLING)
        behind = [shard for shard in range(shards) if await self._is_behind(shard)]
        if not behind and await conflicts(self.postgres_url):
            await self.open_for(shards, shards)
            raise FillRefused(
                "the ledger is not behind its journal, and yet contradicts it: look at it with `availability"
                " conflicts`, and settle it first"
            )
        if behind and self.reason == "rehome":
            await self.open_for(shards, shards)
            raise FillRefused("the ledger has lost what its journal has: run `availability rebuild` first")
        if behind:
            logger.warning("shards %s have lost what the journal has: there the journal counts", behind)
        await self.journaled(set(range(shards)) - set(behind), "drain")

    async def _refuse_writers(self, shards: int) -> None:
        writers = set()
        for shard in range(shards):
            async with Keyspace.opened(self.redis_url, shard) as keyspace:
                writers.update(await keyspace.writers())
        if writers:
            raise FillRefused(
                f"processes that change the ledger are connected ({', '.join(sorted(writers))}): stop `serve`, `ingest`"
                " and `keeper` first; `journal` may run"
            )

    async def _settle(self, shards: int) -> None:
        """What changes over several shards left behind is finished, which takes some seconds at most."""
        if shards == 1:
            return
        ledger = Ledger(self.redis_url, shards=shards, timeout_ms=CALL_TIMEOUT_MS)
        try:
            async with asyncio.timeout(SETTLE_S):
                while await self._unfinished(shards):
                    with suppress(LedgerError):
                        await ledger.expire(m.Expire())
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return  # what is torn then is found in the fold
        finally:
            await ledger.close()

    async def _unfinished(self, shards: int) -> int:
        count = 0
        for shard in range(shards):
            async with Keyspace.opened(self.redis_url, shard) as keyspace:
                record = await keyspace.record()
                count += await keyspace.unfinished((record.clock_ms if record else 0) + UNFINISHED_MS)
        return count

    async def _is_behind(self, shard: int) -> bool:
        """Whether the shard is not the one that wrote the journal, or has lost the end of it."""
        end = await self.journal.end(shard)
        async with Keyspace.opened(self.redis_url, shard) as keyspace:
            record = await keyspace.record()
            place = Place(record.epoch, record.seq) if record else START
            if place < end.place:
                return True
            same_epoch = place.epoch == end.place.epoch
            return same_epoch and end.entry is not None and await keyspace.entry(end.place) != end.entry

    async def journaled(self, shards: Iterable[int], step: str) -> None:
        """Wait until the journal has all that these shards have done."""
        goals = {}
        for shard in shards:
            async with Keyspace.opened(self.redis_url, shard) as keyspace:
                record = await keyspace.record()
            if record and record.seq:
                goals[shard] = Place(record.epoch, record.seq)
        await catch_up(
            *(self.redis_url, self.postgres_url, self.journal, goals),
            progress=lambda done, total: self.progress(step, done, total),
        )

    async def open_for(self, shards: int, touched: int, epoch: int = 0) -> None:
        """Let processes with this number of shards use the ledger, if no newer ``epoch`` than this is in force.

        The first shard is the last: it says that all do.
        """
        for shard in reversed(range(touched)):
            async with Keyspace.opened(self.redis_url, shard) as keyspace:
                await keyspace.fence(shards=shards, epoch=epoch)
