"""Owns the putting back of entries that were removed from a journal, as far as the ledger's stream still has them.

The stream keeps the last entries behind the journal's cursor. That these are the removed ones is proved by the hash
chain: it leads from the entry before the gap through each of them to the one behind it, or to the cursor.
"""

import logging
from collections.abc import AsyncIterator

import asyncpg

from ledger.journal import records
from ledger.journal.postgres import REFUSED, connect, now_ms
from ledger.journal.records import GENESIS, START, Cursor, Place, Prepared, RawEntry
from ledger.journal.stream import TAIL_ENTRIES, JournalStream

READ_MS = 20

logger = logging.getLogger(__name__)


async def mend(redis_url: str, postgres_url: str, shard: int) -> int:
    """Put back what can be; how many entries. It may be run beside a writer, and beside itself.

    Raises one of ``FAILED`` or ``STREAM_FAILED``.
    """
    connection = await connect(postgres_url)
    try:
        cursor = await _cursor(connection, shard)
        if await _is_whole(connection, shard, cursor.place):
            return 0
        missing = [entry async for entry in _missing(connection, redis_url, shard, cursor.place)]
        count = 0
        for run in _runs(missing):
            for made in await _proved(connection, shard, run, cursor):
                count += await _put_back(connection, made)
    finally:
        connection.terminate()
    if count:
        logger.warning(
            "shard %d: %d entries that the journal had lost came back from the ledger's stream", shard, count
        )
    return count


async def _cursor(connection: asyncpg.Connection, shard: int) -> Cursor:
    row = await connection.fetchrow("select epoch, seq, hash from availability.cursor where shard = $1", shard)
    return Cursor(Place(row["epoch"], row["seq"]), row["hash"]) if row else Cursor(START, GENESIS)


async def _is_whole(connection: asyncpg.Connection, shard: int, cursor: Place) -> bool:
    """Whether the journal has every number of which the stream still has the entry."""
    first = max(0, cursor.seq - 2 * TAIL_ENTRIES)
    there: int = await connection.fetchval(
        "select count(*) from availability.entry where shard = $1 and epoch = $2 and seq > $3 and seq <= $4",
        *(shard, cursor.epoch, first, cursor.seq),
    )
    return there == cursor.seq - first


async def _missing(
    connection: asyncpg.Connection, redis_url: str, shard: int, cursor: Place
) -> AsyncIterator[RawEntry]:
    """What the stream has up to ``cursor`` and the journal has not."""
    stream = JournalStream(redis_url, shard)
    try:
        while entries := [entry for entry in await stream.read(READ_MS) if entry.place <= cursor]:
            rows = await connection.fetch(
                "select epoch, seq from availability.entry"
                " where shard = $1 and (epoch, seq) >= ($2, $3) and (epoch, seq) <= ($4, $5)",
                *(shard, *entries[0].place, *entries[-1].place),
            )
            there = {Place(row["epoch"], row["seq"]) for row in rows}
            for entry in entries:
                if entry.place not in there:
                    yield entry
    finally:
        await stream.close()


def _runs(entries: list[RawEntry]) -> list[list[RawEntry]]:
    """Those that follow each other, together."""
    runs: list[list[RawEntry]] = []
    for entry in entries:
        if runs and records.follows(runs[-1][-1].place, entry.place):
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs


async def _proved(connection: asyncpg.Connection, shard: int, run: list[RawEntry], cursor: Cursor) -> list[Prepared]:
    """The entries made ready to be stored, if the chain leads through all of them; otherwise none."""
    before = await connection.fetchrow(
        "select epoch, seq, hash from availability.entry"
        " where shard = $1 and (epoch, seq) < ($2, $3) order by epoch desc, seq desc limit 1",
        *(shard, *run[0].place),
    )
    after = await connection.fetchrow(
        "select epoch, seq, body, hash from availability.entry"
        " where shard = $1 and (epoch, seq) > ($2, $3) order by epoch, seq limit 1",
        *(shard, *run[-1].place),
    )
    made: list[Prepared] = []
    chain = before["hash"] if before else GENESIS
    for entry in run:
        made.append(records.prepare(shard, chain, entry, now_ms()))
        chain = made[-1].hash
    if after is None:
        return made if Cursor(run[-1].place, chain) == cursor else []
    return made if records.chained(chain, after["body"]) == after["hash"] else []


async def _put_back(connection: asyncpg.Connection, made: Prepared) -> bool:
    """The entry, and its movements unless these are there; whether it was still missing."""
    try:
        return await _insert(connection, made)
    except REFUSED:  # as when it came first: the reject that tells of it is there since then
        shard, epoch, seq, _, body, after = made.row
        return await _insert(connection, made._replace(row=(shard, epoch, seq, now_ms(), body, after), movements=[]))


async def _insert(connection: asyncpg.Connection, made: Prepared) -> bool:
    async with connection.transaction():
        is_new = await connection.fetchval(
            "insert into availability.entry (shard, epoch, seq, at_ms, body, hash) values ($1, $2, $3, $4, $5, $6)"
            " on conflict do nothing returning true",
            *made.row,
        )
        has_movements = await connection.fetchval(
            "select exists (select from availability.movement where shard = $1 and epoch = $2 and seq = $3)",
            *made.row[:3],
        )
        if is_new and made.movements and not has_movements:
            await connection.copy_records_to_table(
                "movement", schema_name="availability", columns=records.MOVEMENT_COLUMNS, records=made.movements
            )
    return bool(is_new)
