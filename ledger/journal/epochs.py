"""Owns which generations of the ledger there were, with how many shards each, and who is making the next one."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import asyncpg

from ledger.journal.postgres import connect, now_ms
from ledger.journal.records import Place

FILLING_LOCK = 0x6669_6C6C
"""The class of the advisory lock that makes who fills a ledger anew the only one ("fill")."""

Reason = Literal["first", "rehome", "rebuild"]


class Epoch(NamedTuple):
    """A generation of the ledger; its entries tell all of it if it is ``complete``."""

    epoch: int
    shards: int
    complete: bool


@dataclass
class Epochs:
    """Made by ``open``. Every method raises one of ``FAILED`` when Postgres is away."""

    _connection: asyncpg.Connection

    @classmethod
    async def open(cls, postgres_url: str) -> "Epochs | None":
        """None when somebody else has them."""
        connection = await connect(postgres_url)
        if await connection.fetchval("select pg_try_advisory_lock($1, 0)", FILLING_LOCK):
            return cls(connection)
        await connection.close()
        return None

    async def close(self) -> None:
        """Let somebody else have them; safe after any failure."""
        self._connection.terminate()

    async def all(self) -> list[Epoch]:
        """Every generation, the oldest first."""
        rows = await self._connection.fetch(
            "select epoch, shards, completed_at_ms is not null as complete from availability.epoch order by epoch"
        )
        return [Epoch(row["epoch"], row["shards"], row["complete"]) for row in rows]

    async def newest_entry(self) -> int:
        """The highest epoch that the journal has of any shard; 0 when it has nothing."""
        epoch: int = await self._connection.fetchval("select coalesce(max(epoch), 0) from availability.cursor")
        return epoch

    async def begin(self, epoch: int, shards: int, reason: Reason) -> None:
        """A new generation, which counts for nothing yet. The first one was complete before there were others."""
        at_ms = now_ms()
        await self._connection.execute(
            "insert into availability.epoch values ($1, $2, $3, $4, $5)",
            *(epoch, shards, reason, at_ms, at_ms if reason == "first" else None),
        )

    async def complete(self, epoch: int) -> None:
        """The journal has all of it now."""
        async with self._connection.transaction():
            at_ms = now_ms()
            await self._connection.execute(
                "update availability.epoch set completed_at_ms = $2 where epoch = $1", epoch, at_ms
            )
            # Who contradicted the journal is not in force any more.
            await self._connection.execute(
                "update availability.reject set settled_at_ms = $2"
                " where epoch < $1 and reason = 'conflict' and settled_at_ms is null",
                *(epoch, at_ms),
            )

    async def cursors(self) -> dict[int, Place]:
        """How far the journal of each shard has come."""
        rows = await self._connection.fetch("select shard, epoch, seq from availability.cursor")
        return {row["shard"]: Place(row["epoch"], row["seq"]) for row in rows}
