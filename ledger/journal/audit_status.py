"""Owns what is told of the audit's last complete round, from the keeper to everybody else."""

from typing import Final, Self

import asyncpg
import msgspec
from msgspec import Struct

from ledger.differences import Difference
from ledger.journal.postgres import now_ms, open_pool

TOLD_MAX: Final = 20

_TELL = """
insert into availability.audit (completed_at_ms, differences, counts, first) values ($1, $2, $3, $4)
on conflict (only_row) do update set completed_at_ms = $1, differences = $2, counts = $3, first = $4
"""


class AuditReport(Struct, frozen=True):
    """What the last complete round found, how long ago it ended, and the first differences with their evidence."""

    completed_ms_ago: int
    counts: dict[str, int]
    first: list[Difference]


class AuditStatus:
    """Made by ``open``. Methods raise one of ``FAILED`` when Postgres is away, or has not got the table yet."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, postgres_url: str) -> Self:
        """Connect when first asked something."""
        return cls(await open_pool(postgres_url, size=1))

    async def close(self) -> None:
        self._pool.terminate()

    async def tell(self, counts: dict[str, int], differences: list[Difference]) -> None:
        """A round has ended just now."""
        encode = msgspec.json.encode
        first = encode(differences[:TOLD_MAX]).decode()
        await self._pool.execute(_TELL, now_ms(), sum(counts.values()), encode(counts).decode(), first)

    async def last(self) -> AuditReport | None:
        """The last round; None when there was none."""
        row = await self._pool.fetchrow("select completed_at_ms, counts, first from availability.audit")
        if row is None:
            return None
        return AuditReport(
            max(0, now_ms() - row["completed_at_ms"]),
            msgspec.json.decode(row["counts"], type=dict[str, int]),
            msgspec.json.decode(row["first"], type=list[Difference]),
        )
