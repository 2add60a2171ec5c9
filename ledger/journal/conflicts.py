"""Owns the conflicts at which the journal of a shard has stopped: which there are, and how they are settled."""

from typing import NamedTuple

from ledger.journal.postgres import connect, now_ms
from ledger.journal.records import Place


class Conflict(NamedTuple):
    """An entry that came under a number that the journal has with other content; ``raw`` is what came."""

    shard: int
    place: Place
    raw: bytes
    told: str
    at_ms: int


async def conflicts(postgres_url: str) -> list[Conflict]:
    """Those that are not settled, in the journal's order. Raises one of ``FAILED``."""
    connection = await connect(postgres_url)
    try:
        rows = await connection.fetch(
            "select shard, epoch, seq, raw, error, at_ms from availability.reject"
            " where reason = 'conflict' and settled_at_ms is null order by shard, epoch, seq"
        )
    finally:
        connection.terminate()
    return [
        Conflict(row["shard"], Place(row["epoch"], row["seq"]), row["raw"], row["error"], row["at_ms"]) for row in rows
    ]


async def settle_conflicts(postgres_url: str) -> int:
    """What the journal has stays, and it goes on behind its cursor; how many were settled. Raises one of ``FAILED``."""
    connection = await connect(postgres_url)
    try:
        done: str = await connection.execute(
            "update availability.reject set settled_at_ms = $1 where reason = 'conflict' and settled_at_ms is null",
            now_ms(),
        )
    finally:
        connection.terminate()
    return int(done.split()[1])
