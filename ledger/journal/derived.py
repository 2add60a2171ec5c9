"""Owns how what is made from a shard's journal has a cursor of its own, and one session that moves it."""

import asyncpg

from ledger.journal.postgres import DERIVED, connect, take_lock
from ledger.journal.records import Place


async def take_cursor(
    postgres_url: str, table: str, lock_class: int, shard: int, settings: dict[str, str] | None = None
) -> tuple[asyncpg.Connection, Place]:
    """Wait until no other session has the shard, then take it: that session, and the cursor that ``table`` has.

    ``table`` is a name of ours; ``settings`` are more of the session. Raises one of ``FAILED``.
    """
    connection = await connect(postgres_url, DERIVED | (settings or {}))
    try:
        await take_lock(connection, lock_class, shard)
        row = await connection.fetchrow(
            f"insert into availability.{table} (shard) values ($1)"  # noqa: S608
            " on conflict (shard) do update set shard = excluded.shard returning epoch, seq",
            shard,
        )
    except BaseException:
        connection.terminate()
        raise
    assert row is not None
    return connection, Place(row["epoch"], row["seq"])
