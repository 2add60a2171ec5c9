"""Owns the setting back of the outboxes, so that what was journaled since some time is announced once more."""

from typing import NamedTuple

from ledger.journal.postgres import connect
from ledger.journal.records import START, Place


class Again(NamedTuple):
    """Of a shard: the entry ``after`` which all are announced again, and how many those are."""

    shard: int
    after: Place
    entries: int


async def announced_since(postgres_url: str, at_ms: int) -> list[Again]:
    """Of each shard, what the journal has since then and the outbox has passed already. Raises one of ``FAILED``."""
    connection = await connect(postgres_url)
    try:
        found = []
        for row in await connection.fetch("select shard, epoch, seq from availability.outbox_cursor order by shard"):
            before = await connection.fetchrow(
                "select epoch, seq from availability.entry where shard = $1 and at_ms < $2"
                " order by epoch desc, seq desc limit 1",
                *(row["shard"], at_ms),
            )
            after = Place(before["epoch"], before["seq"]) if before else START
            entries = await connection.fetchval(
                "select count(*) from availability.entry"
                " where shard = $1 and (epoch, seq) > ($2, $3) and (epoch, seq) <= ($4, $5)",
                *(row["shard"], *after, row["epoch"], row["seq"]),
            )
            found.append(Again(row["shard"], after, entries))
    finally:
        connection.terminate()
    return found


async def announce_again(postgres_url: str, shards: list[Again]) -> None:
    """Set the outboxes back; whoever announces begins there within a second. Raises one of ``FAILED``."""
    connection = await connect(postgres_url)
    try:
        for shard, after, _ in shards:
            await connection.execute(
                "update availability.outbox_cursor set epoch = $1, seq = $2"
                " where shard = $3 and (epoch, seq) > ($1, $2)",
                *(*after, shard),
            )
    finally:
        connection.terminate()
