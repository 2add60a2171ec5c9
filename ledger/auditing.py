"""Owns the audit of a whole ledger: each shard's in turn, and what they found together."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple, Self

from ledger.differences import Difference, Findings, Kind
from ledger.journal.books import Scope
from ledger.journal.checkpoints import Checkpoints
from ledger.journal.inspection import Inspection
from ledger.journal.reader import Journal
from ledger.live import LiveShard
from ledger.shard_audit import ShardAudit, Size, Step

SCOPES: Final[tuple[Scope, ...]] = ("stock", "claims")
"""What is audited apart when a sale may be faster than all of it can be followed: ``stock`` always can."""


class Behind(NamedTuple):
    """How far an audit was behind the ledger when that was last read: entries, and the time that they took."""

    entries: int
    ms: int


class Audit:
    """Made by ``open``. Methods raise ``NotAudited``, or one of ``LIVE_FAILED`` and ``JOURNAL_FAILED``.

    They can be called again after that, and go on.
    """

    def __init__(
        self, inspection: Inspection, live: list[LiveShard], again_entries_max: int | None, scopes: Sequence[Scope]
    ) -> None:
        self._inspection = inspection
        self._live = live
        self._audits = {
            scope: [ShardAudit(inspection, shard, len(live), again_entries_max, scope) for shard in live]
            for scope in scopes
        }

    @classmethod
    async def open(
        cls,
        redis_url: str,
        postgres_url: str,
        shards: int,
        *,
        again_entries_max: int | None = None,
        scopes: Sequence[Scope] = ("all",),
    ) -> Self:
        """Connects when first asked something.

        Each round reads the journal again, ``again_entries_max`` entries of each shard, or with None all of them. Each
        of ``scopes`` has rounds of its own.
        """
        inspection = await Inspection.open(postgres_url)
        return cls(inspection, [LiveShard(redis_url, shard) for shard in range(shards)], again_entries_max, scopes)

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
        return folding.checkpoint

    async def round(self, scope: Scope = "all") -> AsyncIterator[Step]:
        """Compare everything once, in small steps; then ``counts`` and ``differences`` tell what was found."""
        for shard in self._audits[scope]:
            async for step in shard.round():
                yield step

    async def follow(self, scope: Scope = "all") -> AsyncIterator[Step]:
        """Take what the journals have got since, in small steps, so that the next round has less to do."""
        for shard in self._audits[scope]:
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

    def _found_in(self, shard: int) -> Findings:
        """Together by all scopes, of which two may have found the same."""
        both = Findings()
        for audits in self._audits.values():
            both.join(audits[shard].findings)
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

    def left_out(self, scope: Scope) -> int:
        """What the last complete rounds left to the next ones, being too far behind to wait for it."""
        return sum(shard.left_out for shard in self._audits[scope])

    def behind(self, scope: Scope) -> Behind:
        """How far it is behind, of all shards the farthest."""
        audits = self._audits[scope]
        return Behind(max(shard.behind_entries for shard in audits), max(shard.behind_ms for shard in audits))
