"""Owns what is told of the audit's last complete rounds, from the keeper to everybody else."""

from typing import Final, NamedTuple, Self

import asyncpg
import msgspec
from msgspec import Struct

from ledger.differences import Difference
from ledger.journal.postgres import now_ms, open_pool

TOLD_MAX: Final = 20

_TELL = """
insert into availability.audit as told (completed_at_ms, claims_completed_at_ms, claims_behind_entries,
    claims_behind_ms, claims_left_out, differences, counts, first) values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (only_row) do update set completed_at_ms = coalesce($1, told.completed_at_ms),
    claims_completed_at_ms = coalesce($2, told.claims_completed_at_ms), claims_behind_entries = $3,
    claims_behind_ms = $4, claims_left_out = $5, differences = $6, counts = $7, first = $8
"""


class ClaimsStanding(NamedTuple):
    """How far the audit of reservations is behind the ledger, and how many its last round left to the next."""

    behind_entries: int
    behind_ms: int
    left_out: int


class AuditReport(Struct, frozen=True):
    """What the last complete rounds found, how long ago they ended, and the first differences with their evidence.

    ``completed_ms_ago`` is that of positions and what belongs to them, ``claims_completed_ms_ago`` that of
    reservations; None where none was complete.
    """

    completed_ms_ago: int | None
    claims_completed_ms_ago: int | None
    claims: ClaimsStanding
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

    async def tell(
        self, counts: dict[str, int], differences: list[Difference], claims: ClaimsStanding, scope: str
    ) -> None:
        """A round has ended just now, of this scope."""
        encode = msgspec.json.encode
        first = encode(differences[:TOLD_MAX]).decode()
        ended = [now_ms() if scope == each else None for each in ("stock", "claims")]
        await self._pool.execute(_TELL, *ended, *claims, sum(counts.values()), encode(counts).decode(), first)

    async def last(self) -> AuditReport | None:
        """The last rounds; None when there was none."""
        row = await self._pool.fetchrow("select * from availability.audit")
        if row is None:
            return None
        return AuditReport(
            _since(row["completed_at_ms"]),
            _since(row["claims_completed_at_ms"]),
            ClaimsStanding(row["claims_behind_entries"], row["claims_behind_ms"], row["claims_left_out"]),
            msgspec.json.decode(row["counts"], type=dict[str, int]),
            msgspec.json.decode(row["first"], type=list[Difference]),
        )


def _since(at_ms: int | None) -> int | None:
    return None if at_ms is None else max(0, now_ms() - at_ms)
