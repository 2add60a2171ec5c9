"""Owns which generations of the ledger there were, with how many shards each, and who is making the next one."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import asyncpg

from ledger.journal.postgres import connect, now_ms
from ledger.journal.records import Place

FILLING_LOCK = 0x6669_6C6C
"""The class of the advisory lock that makes who fills a ledger anew the only one ("fill")."""

Reason = Literal["first", "rehome", "rebuild"]


WAIT_S: Final = 10.0
POLL_S: Final = 0.1
_HOLDER: Final = """
select pid, coalesce(host(client_addr) || ':' || client_port, 'this machine') as address, backend_start as began_at
from pg_locks join pg_stat_activity using (pid)
where locktype = 'advisory' and classid = $1 and objid = 0 and objsubid = 2 and granted
    and pg_locks.database = (select oid from pg_database where datname = current_database())
"""


class Holder(NamedTuple):
    """The session that fills the ledger anew; ``pid`` is that of its process at Postgres, 0 when it ended just now."""

    pid: int
    told: str


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
    async def open(
        cls, postgres_url: str, waiting: Callable[[int, int], None] = lambda _seconds, _of: None
    ) -> "Epochs | Holder":
        """Who else has them, after ``WAIT_S``: the session of a process that was killed lives a moment longer than it.

        ``waiting`` is told how many seconds of how many were waited.
        """
        connection = await connect(postgres_url)
        began_s = time.monotonic()
        while not await connection.fetchval("select pg_try_advisory_lock($1, 0)", FILLING_LOCK):
            waited_s = time.monotonic() - began_s
            if waited_s >= WAIT_S:
                holder = await _holder(connection)
                await connection.close()
                return holder
            waiting(int(waited_s), int(WAIT_S))
            await asyncio.sleep(POLL_S)
        return cls(connection)

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


async def _holder(connection: asyncpg.Connection) -> Holder:
    row = await connection.fetchrow(_HOLDER, FILLING_LOCK)
    if row is None:
        return Holder(0, "it ended just now")
    began = f"{row['began_at']:%Y-%m-%dT%H:%M:%SZ}" if row["began_at"] else "a time that only its role is told"
    return Holder(row["pid"], f"Postgres's session {row['pid']}, from {row['address']}, since {began}")
