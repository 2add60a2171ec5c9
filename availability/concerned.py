"""Owns whose claims an overcommitted position has, for its event: asked of the search, once that has come so far."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from availability.event_shapes import Concerned, SkuAt, overcommitted_in
from ledger import JournalEntry, Place, Reservations

WAIT_S = 10.0
"""The search is behind the journal by less than a second, unless a burst is under way or its process is away."""
POLL_S = 0.05


@dataclass
class Claimants:
    """Of one shard. ``stopped`` tells that nobody waits any more."""

    search: Reservations
    shard: int
    stopped: Callable[[], bool]
    wait_s: float = WAIT_S
    _stuck_at: Place | None = None

    async def of(self, entries: list[JournalEntry]) -> dict[SkuAt, Concerned]:
        """Whose claims are at each position that the entries say is overcommitted.

        Waits until the search has these entries, but not for ever, and not again while it stands still: then what there
        is, and that it is not complete. Raises one of ``JOURNAL_FAILED``.
        """
        told = overcommitted_in(entries)
        reached = await self._reached(max(told.values())) if told else None
        return {
            sku_at: Concerned(await self.search.claims_at(*sku_at), complete=reached is not None and place <= reached)
            for sku_at, place in told.items()
        }

    async def _reached(self, wanted: Place) -> Place:
        """How far the search has come when it has come to ``wanted``, or nobody waits any longer."""
        ends_at = asyncio.get_running_loop().time() + self.wait_s
        while (reached := await self.search.reached(self.shard)) < wanted and not self.stopped():
            if reached == self._stuck_at or asyncio.get_running_loop().time() >= ends_at:
                self._stuck_at = reached
                return reached
            await asyncio.sleep(POLL_S)
        self._stuck_at = None
        return reached
