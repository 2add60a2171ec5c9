"""Owns the audit of a whole ledger: each shard's in turn, and what they found together."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Literal, NamedTuple, Self

from ledger.differences import Difference, Differences, Kind
from ledger.journal.books import Scope
from ledger.journal.checkpoints import Checkpoints
from ledger.journal.inspection import Inspection
from ledger.journal.reader import Journal
from ledger.live import LiveShard
from ledger.patrol import Patrol
from ledger.shard_audit import ShardAudit, Size
from ledger.state import Step

AuditScope = Scope | Literal["journal"]
"""What of the ledger, and ``journal``: all of its entries once more, by themselves."""
WHOLE: Final[tuple[AuditScope, ...]] = ("all", "journal")
SCOPES: Final[tuple[AuditScope, ...]] = ("stock", "claims", "journal")
"""What is audited apart when a sale may be faster than all of it can be followed: ``stock`` always can."""


class Behind(NamedTuple):
    """How far an audit was behind the ledger when that was last read: entries, and the time that they took."""

    entries: int
    ms: int


class Audit:
    """Made by ``open``. Methods raise ``NotAudited``, or one of ``LIVE_FAILED`` and ``JOURNAL_FAILED``.

    They can be called again after that, and go on.
    """

    def __init__(self, inspection: Inspection, live: list[LiveShard], scopes: Sequence[AuditScope]) -> None:
        self._inspection = inspection
        self._live = live
        self._patrols = [Patrol(inspection, shard) for shard in live] if "journal" in scopes else []
        self._audits: dict[AuditScope, list[ShardAudit]] = {
            scope: [ShardAudit(inspection, shard, len(live), scope) for shard in live]
            for scope in scopes
            if scope != "journal"
        }

    @classmethod
    async def open(
        cls, redis_url: str, postgres_url: str, shards: int, *, scopes: Sequence[AuditScope] = WHOLE
    ) -> Self:
        """Connects when first asked something. Each of ``scopes`` has rounds of its own."""
        inspection = await Inspection.open(postgres_url)
        return cls(inspection, [LiveShard(redis_url, shard) for shard in range(shards)], scopes)

    async def close(self) -> None:
        for shard in self._live:
            await shard.close()
        await self._inspection.close()

    async def begin_from_checkpoint(
        self, postgres_url: str, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> int | None:
        """Take over the newest checkpoint that can be used, before the first round; its number, None = there is none.

        What it was made from is then not read: neither folded, nor held against the chain and the rows of movements.
        ``progress`` is told how much of how much is read.
        """
        journal = await Journal.open(postgres_url)
        checkpoints = await Checkpoints.open(postgres_url)
        try:
            generation = await journal.generation(len(self._live))
            if generation is None or generation.shards != len(self._live):
                return None
            folding = await checkpoints.newest(journal, *generation, progress=progress)
        finally:
            await checkpoints.close()
            await journal.close()
        if folding is None:
            return None
        for audits in self._audits.values():
            for audit, cursor, fold in zip(audits, folding.cursors, folding.folds, strict=True):
                audit.begin_from(cursor, fold)
        for patrol, cursor in zip(self._patrols, folding.cursors, strict=False):
            patrol.begin_from(cursor)
        return folding.checkpoint

    async def round(self, *scopes: AuditScope) -> AsyncIterator[Step]:
        """Compare everything once, in small steps; then ``counts`` and ``differences`` tell what was found."""
        for scope in scopes or WHOLE:
            for audit in self._patrols if scope == "journal" else self._audits[scope]:
                async for step in audit.round():
                    yield step
            if scope == "journal":
                for audits in self._audits.values():
                    for each in audits:
                        each.is_read_again()

    async def follow(self, scope: AuditScope) -> AsyncIterator[Step]:
        """Take what the journals have got since, in small steps, so that the next round has less to do."""
        for shard in self._audits.get(scope, ()):
            async for step in shard.follow():
                yield step

    @property
    def counts(self) -> "Counter[Kind]":
        """How many differences of each kind the last complete rounds of each shard found."""
        return sum((self._found_in(shard).counts for shard in range(len(self._live))), Counter[Kind]())

    @property
    def differences(self) -> list[Difference]:
        """Those that are kept, in the order of shards."""
        return [each for shard in range(len(self._live)) for each in self._found_in(shard).kept.values()]

    def _found_in(self, shard: int) -> Differences:
        """Together by all scopes, of which two may have found the same."""
        both = Differences()
        for audits in self._audits.values():
            both.join(audits[shard].findings)
        for patrol in self._patrols[shard : shard + 1]:
            both.join(patrol.findings)
        return both

    @property
    def size(self) -> Size:
        """What the journals fold to."""
        sizes = [shard.size for audits in self._audits.values() for shard in audits]
        return Size(sum(size.positions for size in sizes), sum(size.reservations for size in sizes))

    @property
    def entries(self) -> int:
        """Entries read so far; each scope reads them."""
        return sum(shard.entries for audits in self._audits.values() for shard in audits)

    @property
    def settled(self) -> int:
        """Suspects that were judged when the journal had come to where they were read."""
        return sum(shard.settled for audits in self._audits.values() for shard in audits)

    def left_out(self, scope: AuditScope) -> int:
        """What the last complete rounds left to the next ones, being too far behind to wait for it."""
        return sum(shard.left_out for shard in self._audits[scope])

    def behind(self, scope: AuditScope) -> Behind:
        """How far it is behind, of all shards the farthest; the ``journal`` goes by itself."""
        audits = self._audits.get(scope)
        if audits is None:
            return Behind(0, 0)
        return Behind(max(shard.behind_entries for shard in audits), max(shard.behind_ms for shard in audits))
