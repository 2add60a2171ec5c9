"""Owns the reading of a shard's journal again and again: each entry's link, movement rows and keys of operations."""

from collections.abc import AsyncIterator
from typing import Final

from ledger.differences import Difference, Findings, Kind
from ledger.journal import records
from ledger.journal.inspection import Digest, Inspection, Stored, digest_of
from ledger.journal.reader import broken_links
from ledger.journal.records import START, Cursor, Place, Unreadable
from ledger.messages import JournalEntry
from ledger.operation_audit import Kept, OperationAudit, kept_of

PAGE_BYTES: Final = 2_000_000
TURN_BYTES: Final = 20_000_000
PAGE_ENTRIES_MIN, PAGE_ENTRIES_MAX = 64, 5_000
"""Entries are held against their movement rows in large pages: each look at those costs Postgres a range of them."""
_NO_ROWS: Final = Digest(0, digest_of(JournalEntry(0, 0, 0, [], [])).digest)


class Patrol:
    """Of one shard. ``passes`` counts how often it came to the end; ``complete`` is what the last whole pass found."""

    def __init__(self, inspection: Inspection, shard: int, operations: OperationAudit) -> None:
        self.passes = 0
        self.found = Findings()
        self.complete = Findings()
        self._inspection = inspection
        self._shard = shard
        self._operations = operations
        self._first = self._cursor = Cursor(START, records.GENESIS)
        self._page_entries = PAGE_ENTRIES_MIN

    def begin_from(self, cursor: Cursor) -> None:
        """Leave out what is before ``cursor``."""
        self._first = self._cursor = cursor

    async def go_on(self, until: Place, entries_max: int | None) -> AsyncIterator[Place]:
        """Read on to ``until``, page by page, and begin anew there; tells how far it has come.

        It stops after about ``entries_max`` entries, or ``TURN_BYTES`` of them; with None it does not.
        """
        rejected = await self._inspection.rejected(self._shard)
        read = read_bytes = 0
        while entries_max is None or (read < entries_max and read_bytes < TURN_BYTES):
            page = await self._inspection.entries(self._shard, self._cursor.place, self._page_entries)
            page = [stored for stored in page if stored.cursor.place <= until]
            if not page:
                self.passes += 1
                self.found, self.complete = Findings(), self.found
                self._cursor = self._first
                return
            await self._check(page, rejected)
            read += len(page)
            page_bytes = sum(len(stored.body) for stored in page)
            read_bytes += page_bytes
            size = page_bytes // len(page) + 1
            self._page_entries = max(PAGE_ENTRIES_MIN, min(PAGE_BYTES // size, PAGE_ENTRIES_MAX))
            yield self._cursor.place

    async def _check(self, page: list[Stored], rejected: set[Place]) -> None:
        wanted: dict[Place, Digest] = {}
        kept: list[Kept] = []
        for stored in page:
            place = stored.cursor.place
            note_links(self.found, self._shard, self._cursor, stored)
            self._cursor = stored.cursor
            wanted[place] = _NO_ROWS
            try:
                entry = records.decode(place, stored.body)
            except Unreadable as error:
                self.found.note(unreadable(self._shard, place, error))
                continue
            kept += kept_of(place, entry)
            if place not in rejected:
                wanted[place] = digest_of(entry)
        await self._operations.check(kept, self.found)
        there = await self._digests(list(wanted))
        for place, digest in wanted.items():
            rows = there.get(place, _NO_ROWS)
            if rows != digest:
                self.found.note(_differing_rows(self._shard, place, rows, digest))

    async def _digests(self, places: list[Place]) -> dict[Place, Digest]:
        found: dict[Place, Digest] = {}
        for epoch in dict.fromkeys(place.epoch for place in places):
            seqs = [place.seq for place in places if place.epoch == epoch]
            digests = await self._inspection.digests(self._shard, epoch, seqs[0], seqs[-1])
            found |= {Place(epoch, seq): digest for seq, digest in digests.items()}
        return found


def note_links(found: Findings, shard: int, before: Cursor, stored: Stored) -> None:
    """Note what is wrong with an entry behind the one before it."""
    place = stored.cursor.place
    for problem in broken_links(before, stored.cursor, stored.body)[:1]:  # behind a gap no hash can be right
        kind: Kind = "journal-gap" if problem.kind == "gap" else "journal-altered"
        found.note(Difference(kind, shard, str(place), str(place), {"detail": problem.detail}))


def unreadable(shard: int, place: Place, error: Unreadable) -> Difference:
    return Difference("entry-unreadable", shard, str(place), str(place), {"error": str(error)})


def _differing_rows(shard: int, place: Place, rows: Digest, entry: Digest) -> Difference:
    there, wanted = ({"movements": each.rows, "digest": each.digest} for each in (rows, entry))
    return Difference("movements-differ", shard, str(place), str(place), there, wanted)
