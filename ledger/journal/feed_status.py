"""Owns what is known of each feed's source: when it was last heard, and how new its news was."""

from dataclasses import dataclass

import asyncpg

from ledger.journal.postgres import open_pool
from ledger.journal.reader import SourceStatus


@dataclass
class FeedStatus:
    """Made by ``open``. Every method raises one of ``JOURNAL_FAILED`` when Postgres is away."""

    _pool: asyncpg.Pool

    @classmethod
    async def open(cls, postgres_url: str) -> "FeedStatus":
        """Connect when first asked something."""
        return cls(await open_pool(postgres_url))

    async def close(self) -> None:
        self._pool.terminate()

    async def heard(self, sources: list[tuple[str, int, int]]) -> None:
        """Note (source, newest occurred_at_ms, heard_at_ms) of each; older news changes nothing."""
        await self._pool.executemany(
            "insert into availability.feed_status as known values ($1, $2, $3) on conflict (source) do update set"
            " newest_occurred_at_ms = greatest(known.newest_occurred_at_ms, excluded.newest_occurred_at_ms),"
            " heard_at_ms = greatest(known.heard_at_ms, excluded.heard_at_ms)",
            sorted(sources),
        )

    async def all(self) -> list[SourceStatus]:
        """Every source that was ever heard, by name."""
        rows = await self._pool.fetch("select * from availability.feed_status order by source")
        return [SourceStatus(row["source"], row["newest_occurred_at_ms"], row["heard_at_ms"]) for row in rows]
