"""Owns how the folds of all shards go forward through the journal of an epoch: side by side in time."""

import heapq
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import NamedTuple

from ledger.journal import fold, records
from ledger.journal.fold import Fold, FoldedEntry
from ledger.journal.reader import PAGE_BYTES, Journal
from ledger.journal.records import Cursor, Place, Unreadable
from ledger.messages import TIME_MS_MAX

PROGRESS_ENTRIES = 100
SAID_MAX = 10
"""Places where the journal is damaged that are told one by one."""

logger = logging.getLogger(__name__)


class Taken(NamedTuple):
    """An entry on its way into a fold, and where the journal is behind it."""

    entry: FoldedEntry
    cursor: Cursor


@dataclass
class Folding:
    """The folds of an epoch's shards; ``cursors`` tell how far each has come. Made by ``of_epoch``, or a checkpoint.

    ``entries`` and ``movements`` were folded since it was made, from ``checkpoint`` on if that is one's number.
    ``damages`` counts the places where an entry was missing, unreadable, or not the one that the chain tells of;
    ``first_damage`` says where the first of them is.
    """

    epoch: int
    folds: list[Fold]
    cursors: list[Cursor]
    checkpoint: int | None = None
    entries: int = 0
    movements: int = 0
    damages: int = 0
    first_damage: str = ""

    def __post_init__(self) -> None:
        for each in self.folds:
            each.siblings = self.folds

    @classmethod
    async def of_epoch(cls, journal: Journal, epoch: int, shards: int) -> "Folding":
        """Nothing folded so far. Raises one of the journal's ``FAILED``."""
        start = Place(epoch, 0)
        hashes = [(await journal.last_until(shard, start)).hash for shard in range(shards)]
        return cls(epoch, [Fold() for _ in hashes], [Cursor(start, each) for each in hashes])

    async def advance(
        self,
        journal: Journal,
        *,
        up_to_ms: int = TIME_MS_MAX,
        progress: Callable[[int], None] = lambda _entries: None,
    ) -> None:
        """Fold what the journal has by now of the epoch, and not after ``up_to_ms``.

        ``progress`` is told how many ``entries`` there are. Entries that cannot be decoded are left out, as damages.
        Raises one of the journal's ``FAILED``; what was taken before it stays.
        """
        sources = [self._behind(journal, shard) for shard in range(len(self.folds))]
        ahead = [
            (taken.entry.at_ms, shard, taken)
            for shard, source in enumerate(sources)
            if (taken := await anext(source, None)) is not None
        ]
        heapq.heapify(ahead)
        while ahead and ahead[0][0] <= up_to_ms:
            _, shard, taken = ahead[0]
            self._take(shard, taken)
            following = await anext(sources[shard], None)
            if following is not None:
                heapq.heapreplace(ahead, (following.entry.at_ms, shard, following))
            else:
                heapq.heappop(ahead)
            if self.entries % PROGRESS_ENTRIES == 0:
                progress(self.entries)
        for source in sources:
            await source.aclose()
        progress(self.entries)

    def _take(self, shard: int, taken: Taken) -> None:
        self.folds[shard].take(taken.entry)
        self.cursors[shard] = taken.cursor
        self.entries += 1
        self.movements += taken.entry.movements

    async def _behind(self, journal: Journal, shard: int) -> AsyncGenerator[Taken, None]:
        """The entries behind the fold, each held against the one before it."""
        before = self.cursors[shard]
        async for stored in journal.stored(shard, before.place, PAGE_BYTES // len(self.folds)):
            if stored.place.epoch != self.epoch:
                if records.chained(before.hash, stored.body) != stored.hash:
                    self._note_damage(shard, f"the end of epoch {self.epoch} is missing before entry {stored.place}")
                return
            follows = records.follows(before.place, stored.place)
            if not follows or records.chained(before.hash, stored.body) != stored.hash:
                what = "is not what the chain says" if follows else "follows a gap"
                self._note_damage(shard, f"its entry {stored.place} {what}")
            before = Cursor(stored.place, stored.hash)
            try:
                entry = fold.read(stored.place, stored.body)
            except Unreadable as error:
                self._note_damage(shard, f"its entry {stored.place} cannot be read: {error}")
                continue
            yield Taken(entry, before)

    async def note_lost_ends(self, journal: Journal) -> None:
        """Note where the journal has less than its cursor says; after ``advance``, when nobody writes."""
        for shard, folded in enumerate(self.cursors):
            cursor = await journal.cursor(shard)
            if cursor.place.epoch == self.epoch and folded.place <= cursor.place and folded != cursor:
                self._note_damage(shard, f"it ends at {folded.place}, and its cursor is at {cursor.place}")

    def _note_damage(self, shard: int, what: str) -> None:
        text = f"the journal of shard {shard} is damaged: {what}"
        self.damages += 1
        self.first_damage = self.first_damage or text
        if self.damages <= SAID_MAX:
            logger.error("%s", text)


async def fold_epoch(
    journal: Journal, epoch: int, shards: int, progress: Callable[[int], None] = lambda _entries: None
) -> list[Fold]:
    """What each shard keeps at the end of an epoch, folded from its start; otherwise as ``Folding.advance``."""
    folding = await Folding.of_epoch(journal, epoch, shards)
    await folding.advance(journal, progress=progress)
    return folding.folds
