"""Owns the reading of a shard's journal again and again: each entry's link, movement rows and keys of operations."""

from collections.abc import AsyncIterator
from typing import Final

from ledger.differences import Difference, Differences, Kind
from ledger.journal import records
from ledger.journal.inspection import Digest, Inspection, StoredEntry, digest_of
from ledger.journal.reader import broken_links
from ledger.journal.records import START, Cursor, Place, Unreadable
from ledger.live import LiveShard
from ledger.messages import JournalEntry
from ledger.operation_audit import Kept, OperationAudit, kept_of
from ledger.state import Step

PAGE_BYTES: Final = 500_000
PAGE_ENTRIES_MIN, PAGE_ENTRIES_MAX = 64, 5_000
"""Entries are held against their movement rows in large pages: each look at those costs Postgres a range of them."""
_NO_ROWS: Final = Digest(0, digest_of(JournalEntry(0, 0, 0, [], [])).digest)


class Patrol:
    """Of one shard: ``round`` after ``round`` reads all of the journal.

    Methods raise one of ``LIVE_FAILED`` or ``JOURNAL_FAILED``, and can be called again after that.
    """

    def __init__(self, inspection: Inspection, live: LiveShard) -> None:
        """Connects when first asked something."""
        self._inspection = inspection
        self._shard = live.shard
        self._operations = OperationAudit(live)
        self._complete = Differences()
        self._found = Differences()
        self._first = self._cursor = Cursor(START, records.GENESIS)
        self._page_entries = PAGE_ENTRIES_MIN
        self._epoch = 0

    def begin_from(self, cursor: Cursor) -> None:
        """Leave out what is before ``cursor``."""
        self._first = self._cursor = cursor

    @property
    def findings(self) -> Differences:
        """What the last complete round found, and this one so far."""
        found = Differences()
        found.join(self._complete)
        found.join(self._found)
        return found

    async def round(self) -> AsyncIterator[Step]:
        """Read on to the end, page by page; a failure is gone on from."""
        rejected = await self._inspection.rejected(self._shard)
        _, newest = await self._inspection.ends(self._shard)
        self._epoch = newest.epoch
        while page := await self._inspection.entries(self._shard, self._cursor.place, self._page_entries):
            await self._check(page, rejected)
            size = sum(len(stored.body) for stored in page) // len(page) + 1
            self._page_entries = max(PAGE_ENTRIES_MIN, min(PAGE_BYTES // size, PAGE_ENTRIES_MAX))
            yield Step("movements", self._cursor.place.seq, max(self._cursor.place.seq, newest.seq))
        self._found, self._complete = Differences(), self._found
        self._cursor = self._first

    async def _check(self, page: list[StoredEntry], rejected: set[Place]) -> None:
        wanted: dict[Place, Digest] = {}
        kept: list[Kept] = []
        for stored in page:
            place = stored.cursor.place
            note_links(self._found, self._shard, self._cursor, stored, self._epoch)
            self._cursor = stored.cursor
            wanted[place] = _NO_ROWS
            try:
                entry = records.decode(place, stored.body)
            except Unreadable as error:
                self._found.note(unreadable(self._shard, place, error))
                continue
            kept += kept_of(place, entry)
            if place not in rejected:
                wanted[place] = digest_of(entry)
        await self._operations.check(kept, self._found)
        there = await self._digests(list(wanted))
        for place, digest in wanted.items():
            rows = there.get(place, _NO_ROWS)
            if rows != digest:
                self._found.note(_differing_rows(self._shard, place, rows, digest))

    async def _digests(self, places: list[Place]) -> dict[Place, Digest]:
        found: dict[Place, Digest] = {}
        for epoch in dict.fromkeys(place.epoch for place in places):
            seqs = [place.seq for place in places if place.epoch == epoch]
            digests = await self._inspection.digests(self._shard, epoch, seqs[0], seqs[-1])
            found |= {Place(epoch, seq): digest for seq, digest in digests.items()}
        return found


def note_links(found: Differences, shard: int, before: Cursor, stored: StoredEntry, epoch: int) -> None:
    """Note what is wrong with an entry behind the one before it; ``epoch`` is the one in force.

    Where the chain goes on over a gap, nothing was removed: nothing came. A new epoch has begun with what there was.
    """
    place = stored.cursor.place
    problems = broken_links(before, stored.cursor, stored.body)
    if not problems:
        return
    kind: Kind = "journal-altered"
    if problems[0].kind == "gap":
        kind = "journal-gap" if len(problems) > 1 else "journal-skipped"
    if kind != "journal-skipped" or place.epoch >= epoch:
        found.note(Difference(kind, shard, str(place), str(place), {"detail": problems[0].detail}))


def unreadable(shard: int, place: Place, error: Unreadable) -> Difference:
    return Difference("entry-unreadable", shard, str(place), str(place), {"error": str(error)})


def _differing_rows(shard: int, place: Place, rows: Digest, entry: Digest) -> Difference:
    there, wanted = ({"movements": each.rows, "digest": each.digest} for each in (rows, entry))
    return Difference("movements-differ", shard, str(place), str(place), there, wanted)
