"""Owns the audit of a whole ledger: each shard's in turn, and what they found together."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Self

from ledger.differences import Difference, Kind
from ledger.journal.inspection import Inspection
from ledger.live import LiveShard
from ledger.shard_audit import ShardAudit, Size, Step


class Audit:
    """Made by ``open``. Methods raise ``NotAudited``, or one of ``LIVE_FAILED`` and ``JOURNAL_FAILED``.

    They can be called again after that, and go on.
    """

    def __init__(self, inspection: Inspection, live: list[LiveShard], again_entries_max: int | None) -> None:
        self._inspection = inspection
        self._live = live
        self._shards = [ShardAudit(inspection, shard, len(live), again_entries_max) for shard in live]

    @classmethod
    async def open(
        cls, redis_url: str, postgres_url: str, shards: int, *, again_entries_max: int | None = None
    ) -> Self:
        """Connects when first asked something.

        Each round reads the journal again, ``again_entries_max`` entries of each shard, or with None all of them.
        """
        inspection = await Inspection.open(postgres_url)
        return cls(inspection, [LiveShard(redis_url, shard) for shard in range(shards)], again_entries_max)

    async def close(self) -> None:
        for shard in self._live:
            await shard.close()
        await self._inspection.close()

    async def round(self) -> AsyncIterator[Step]:
        """Compare everything once, in small steps; then ``counts`` and ``differences`` tell what was found."""
        for shard in self._shards:
            async for step in shard.round():
                yield step

    async def follow(self) -> AsyncIterator[Step]:
        """Take what the journals have got since, in small steps, so that the next round has less to do."""
        for shard in self._shards:
            async for step in shard.follow():
                yield step

    @property
    def counts(self) -> "Counter[Kind]":
        """How many differences of each kind the last complete round of each shard found."""
        return sum((shard.findings.counts for shard in self._shards), Counter[Kind]())

    @property
    def differences(self) -> list[Difference]:
        """Those that are kept, in the order of shards."""
        return [difference for shard in self._shards for difference in shard.findings.kept.values()]

    @property
    def size(self) -> Size:
        """What the journals fold to."""
        sizes = [shard.size for shard in self._shards]
        return Size(sum(size.positions for size in sizes), sum(size.reservations for size in sizes))

    @property
    def entries(self) -> int:
        """Entries read so far, each once."""
        return sum(shard.entries for shard in self._shards)

    @property
    def settled(self) -> int:
        """Suspects that were judged when the journal had come to where they were read."""
        return sum(shard.settled for shard in self._shards)

    @property
    def behind_entries(self) -> int:
        """Entries that the ledger had and the audit had not taken, when the ledger was last read."""
        return sum(shard.behind_entries for shard in self._shards)
