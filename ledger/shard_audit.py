"""Owns the audit of one shard: the live ledger against its folded journal, while both move on (P6, P7).

The entries are folded into books. A portion of the live shard is read together with its place, in one transaction.
What agrees with the books is fine, although they may stand before that place. The rest is a suspect until the books
come to exactly that place, and only then judged. So nothing is invented during a sale, and never more is in memory than
the books, a portion, and ``SUSPECTS_MAX`` suspects.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple

from ledger.comparing import Comparison, Thing, Told
from ledger.differences import Difference, Differences, Kind, Numbers
from ledger.journal import records
from ledger.journal.books import Books, Scope, skim
from ledger.journal.fold import Fold
from ledger.journal.inspection import Inspection, StoredEntry
from ledger.journal.records import START, Cursor, Unreadable
from ledger.keys import escaped
from ledger.live import LiveShard, Reading
from ledger.operation_audit import OperationAudit
from ledger.patrol import note_links, unreadable
from ledger.proving import look_at_ends, prove
from ledger.state import Step, wrong_shards

THINGS: Final[dict[Scope, tuple[Thing, ...]]] = {
    "all": ("sku", "key", "count", "op", "client"),
    "stock": ("sku", "key", "count"),
    "claims": ("sku", "key", "op", "client"),
}
PORTIONS: Final[dict[Thing, int]] = {"sku": 50, "key": 1_000, "count": 200, "op": 200, "client": 200}
"""Names that are read at once, of hashes about as many fields: a millisecond of the server's time, about."""
FAR_BEHIND_ENTRIES: Final = 1_000
"""Where the books are so far behind, a reservation that changed since is left to the next round."""
SUSPECTS_MAX: Final = 500
PROVED_MAX: Final = 20
"""Differences of a round for which the entries that touched them are looked for."""
PAGE_BYTES: Final = 200_000
PAGE_ENTRIES_MAX: Final = 500
NO_PROGRESS_S: Final = 20.0
POLL_S: Final = 0.05
LATE: Final[tuple[Kind, ...]] = ("hold-overdue", "spanning-leftover")
LATE_LOOK_S: Final = 10.0
"""What is late is looked at again for so long: the keeper, just started, ends a thousand holds in less."""
LATE_POLL_S: Final = 0.5


class NotAudited(Exception):
    """It could not be compared; the text says why and what to do."""


class Size(NamedTuple):
    """What the books have."""

    positions: int
    reservations: int


class ShardAudit:
    """One shard's audit; ``round`` after ``round`` goes on from where the one before it was.

    ``shards`` is the number that the ledger must have. Methods raise one of ``LIVE_FAILED`` or ``JOURNAL_FAILED``, and
    can be called again after that; or ``NotAudited``.
    """

    def __init__(
        self,
        inspection: Inspection,
        live: LiveShard,
        shards: int,
        scope: Scope = "all",
    ) -> None:
        """Connects when first asked something."""
        self.shard = live.shard
        self.scope = scope
        self.findings = Differences()
        """Of the last complete round."""
        self.rounds = 0
        self.behind_entries = 0
        """Entries that the ledger had and the books had not, when it was last read."""
        self.behind_ms = 0
        """How much older than the ledger's clock the books were then, 0 when nothing was missing."""
        self.left_out = 0
        """Of the last complete round: what changed since the books, which were too far behind to wait for it."""
        self.settled = 0
        """Suspects that were judged when the books had come to their place."""
        self._inspection = inspection
        self._live = live
        self._shards = shards
        self._books = Books(scope)
        self._comparison = Comparison(self.shard, self._books)
        self._chain = Cursor(START, records.GENESIS)
        self._read = Differences()
        self.entries = 0
        """Entries read so far, each once."""
        self._has_more = False
        self._newest_epoch = 0
        self._page_entries = PAGE_ENTRIES_MAX // 8
        self._suspects: deque[Told] = deque()
        self._operations = OperationAudit(live)
        self._taken_at_ms = 0
        self._read_place = START
        self._left_out = 0
        self._found = Differences()
        self._unproved: list[tuple[tuple[Kind, str], Told]] = []

    async def round(self) -> AsyncIterator[Step]:
        """Compare everything once, in small steps; ``findings`` has the result when it ends."""
        self._found = Differences()
        self._suspects.clear()
        self._unproved.clear()
        self._left_out = 0
        self._accept(await self._live.place())
        self._newest_epoch = (await self._inspection.ends(self.shard))[1].epoch
        async for step in self._follow():
            yield step
        if not await self._is_behind() and not await self._has_lost_its_end():
            async for step in self._compare_all():
                yield step
        if self.scope != "claims":
            await look_at_ends(self._inspection, self.shard, await self._live.place(), self._found)
        for kind in LATE:
            async for step in self._look_again(kind):
                yield step
        await prove(self._inspection, self.shard, self._books.place.epoch, self._unproved, self._found)
        self.findings = self._all_found()
        self.left_out = self._left_out
        self.rounds += 1

    def begin_from(self, cursor: Cursor, fold: Fold) -> None:
        """Take over what the journal up to ``cursor`` folds to; before the first round."""
        self._books.load(cursor.place, fold)
        self._chain = cursor

    @property
    def size(self) -> Size:
        positions = sum(map(len, self._books.skus.values()))
        return Size(positions, len(self._books.reservations))

    async def follow(self) -> AsyncIterator[Step]:
        """Take what the journal has got since, in small steps, as far as the ledger is now."""
        self._accept(await self._live.place())
        async for step in self._follow():
            yield step
        self._accept(await self._live.place())

    async def _follow(self) -> AsyncIterator[Step]:
        until = self._read_place
        while entries := await self._advance():
            self.entries += entries
            yield Step("journal", self.entries, max(self.entries, self._books.place.seq))
            if not self._has_more or self._chain.place >= until:
                return

    def _all_found(self) -> Differences:
        """What the round found, and what is known to be wrong with the journal."""
        found = Differences()
        found.join(self._read)
        found.join(self._found)
        return found

    def is_read_again(self) -> None:
        """The whole journal was read by somebody else: what was wrong when it was first read is known better there."""
        self._read.keep("entry-unbalanced")
        self.findings = self._all_found()

    # --- the journal --------------------------------------------------------------------------------------------

    async def _advance(self) -> int:
        """Take the next page of entries, settling each suspect at its place; how many there were."""
        page = await self._inspection.entries(self.shard, self._chain.place, self._page_entries)
        self._has_more = len(page) == self._page_entries
        if page:
            size = sum(len(stored.body) for stored in page) // len(page) + 1
            self._page_entries = max(8, min(PAGE_BYTES // size, PAGE_ENTRIES_MAX))
        for stored in page:
            self._take(stored)
        return len(page)

    def _take(self, stored: StoredEntry) -> None:
        place = stored.cursor.place
        if self.scope != "claims":
            note_links(self._read, self.shard, self._chain, stored, self._newest_epoch)
        self._chain = stored.cursor
        self._taken_at_ms = stored.at_ms
        # Those between two entries are judged only where one is missing: by the books before the gap.
        while self._suspects and self._suspects[0].place < place:
            self._settle_first()
        if place.epoch >= self._newest_epoch:  # the books of an epoch begin with an empty ledger
            self._keep_books(stored)
        while self._suspects and self._suspects[0].place == place:
            self._settle_first()

    def _settle_first(self) -> None:
        self._judge(self._suspects.popleft())
        self.settled += 1

    def _keep_books(self, stored: StoredEntry) -> None:
        place = stored.cursor.place
        try:
            if self.scope == "stock":
                self._books.take_stock(skim(place, stored.body))
                return
            entry = records.decode(place, stored.body)
        except Unreadable as error:
            self._read.note(unreadable(self.shard, place, error))
            return
        for flaw in self._books.take(entry):
            subject = f"{place} {flaw.sku}@{flaw.location}"
            self._read.note(Difference("entry-unbalanced", self.shard, subject, str(place), flaw.said, flaw.moved))

    # --- live ---------------------------------------------------------------------------------------------------

    def _accept(self, reading: Reading) -> None:
        """Raises ``NotAudited`` when this is not a ledger that can be compared now."""
        there = reading.shards
        if there is not None and there != self._shards:
            raise NotAudited(wrong_shards(there, self._shards))
        before, place = self._chain.place, reading.place
        self.behind_entries = max(0, place.seq - before.seq) if place.epoch == before.epoch else place.seq
        self.behind_ms = max(0, reading.now_ms - self._taken_at_ms) if self.behind_entries else 0
        self._read_place = place

    async def _is_behind(self) -> bool:
        """Whether the ledger has lost what the journal has; that is noted."""
        there = (await self._live.place()).place
        if there >= self._chain.place:
            return False
        live: Numbers = {"place": str(there)}
        journal: Numbers = {"place": str(self._chain.place)}
        self._found.note(Difference("ledger-behind", self.shard, f"shard {self.shard}", str(there), live, journal))
        return True

    async def _has_lost_its_end(self) -> bool:
        """Whether the journal has less than its cursor says: nothing can be compared at a place that never comes."""
        cursor, newest = await self._inspection.ends(self.shard)
        return newest < cursor

    async def _compare_all(self) -> AsyncIterator[Step]:
        reads: dict[Thing, Callable[[Sequence[str]], Awaitable[Reading]]] = {
            "sku": self._live.skus,
            "key": self._live.hashes,
            "count": self._live.texts,
            "op": self._live.records,
            "client": self._live.clients,
        }
        for thing in THINGS[self.scope]:
            done = 0
            async for names in self._names(thing):
                if thing == "sku" and self.scope == "claims":
                    self._balance(names)
                else:
                    await self._compare(thing, await reads[thing](names))
                done += len(names)
                yield Step(thing, done, max(done, len(self._comparison.known(thing))))
                async for step in self._settle(SUSPECTS_MAX):
                    yield step
        async for step in self._settle(0):
            yield step
        await self._operations.judge(self._found)

    async def _look_again(self, kind: Kind) -> AsyncIterator[Step]:
        """After everything stood still, the keeper has to get to what came due meanwhile."""
        clock = asyncio.get_running_loop().time
        until_s = clock() + LATE_LOOK_S
        while ids := [subject for found, subject in self._found.kept if found == kind]:
            reading = await self._live.records(ids)
            told = [Told(reading.place, reading.now_ms, "op", id_, reading.found[id_]) for id_ in ids]
            self._found.drop(kind, {each.name for each in told if not self._comparison.is_late(each)})
            if clock() >= until_s:
                return
            yield Step("late", 0, len(ids))
            await asyncio.sleep(LATE_POLL_S)

    async def _names(self, thing: Thing) -> AsyncIterator[list[str]]:
        """The names of all that the books have, then of all that they have not and the ledger has; in portions."""
        size = PORTIONS[thing]
        for portion in self._portions(thing):
            yield portion
        if thing in ("key", "count") or (thing == "sku" and self.scope == "claims"):
            return  # all keys that positions can have were asked for; a count nobody told of ends by itself
        unknown: list[str] = []
        async for names in self._live.names(thing):
            there = self._comparison.known(thing)
            unknown += [name for name in names if name not in there]
            while len(unknown) >= size:
                yield unknown[:size]
                del unknown[:size]
        if unknown:
            yield unknown

    def _portions(self, thing: Thing) -> Iterator[list[str]]:
        portion: list[str] = []
        weight, weight_max = 0, PORTIONS[thing]
        for name in self._wanted(thing):
            portion.append(name)
            weight += 1 + (self._books.keys.fields_of(name) if thing == "key" else 0)
            if weight >= weight_max:
                yield portion
                portion, weight = [], 0
        if portion:
            yield portion

    def _wanted(self, thing: Thing) -> Iterator[str]:
        """What the books know, and of the keys of positions also those that must not be there."""
        yield from list(self._comparison.known(thing))
        if thing == "key" and self.scope != "claims":
            for sku, spots in list(self._books.skus.items()):
                keys = [f"view:{escaped(sku)}", *(f"feed:{escaped(sku)}:{escaped(location)}" for location in spots)]
                yield from (key for key in keys if key not in self._books.keys.hashes)

    def _balance(self, skus: list[str]) -> None:
        """Whether positions and reservations claim the same, by the books alone."""
        for sku in skus:
            self._judge(Told(self._chain.place, self._taken_at_ms, "sku", sku, {}))

    async def _compare(self, thing: Thing, reading: Reading) -> None:
        """Nothing moves the books between the reading and this, and they are never ahead of it."""
        self._accept(reading)
        if reading.place < self._chain.place:
            raise NotAudited(f"the ledger went back to {reading.place} while it was read")
        for name, found in reading.found.items():
            told = Told(reading.place, reading.now_ms, thing, name, found)
            if not self._comparison.differences(told):
                continue
            if reading.place == self._chain.place:
                self._judge(told)
            elif self.behind_entries > FAR_BEHIND_ENTRIES and self._comparison.is_newer(told):
                self._left_out += 1
            else:
                self._suspects.append(told)
        if thing == "op":
            await self._operations.look(reading)

    def _judge(self, told: Told) -> None:
        for difference in self._comparison.differences(told):
            self._found.note(difference)
            if len(self._unproved) < PROVED_MAX:
                self._unproved.append(((difference.kind, difference.subject), told))

    async def _settle(self, left_max: int) -> AsyncIterator[Step]:
        """Let the books come to the places of the suspects, until few enough are left."""
        clock = asyncio.get_running_loop().time
        moved_at = clock()
        while len(self._suspects) > left_max:
            if await self._advance():
                moved_at = clock()
                yield Step("settle", SUSPECTS_MAX - min(SUSPECTS_MAX, len(self._suspects)), SUSPECTS_MAX)
                continue
            yield Step("settle", SUSPECTS_MAX - min(SUSPECTS_MAX, len(self._suspects)), SUSPECTS_MAX)
            if clock() - moved_at > NO_PROGRESS_S:
                raise NotAudited(
                    f"the journal comes no further than {self._chain.place}, the ledger is at"
                    f" {self._suspects[-1].place}: see whether `availability journal` runs, and what it says"
                )
            await asyncio.sleep(POLL_S)
