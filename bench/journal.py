"""Owns reading the journal from outside, in plain SQL: how far it is, whether it is whole, what was held and when."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import asyncpg
from redis.asyncio import Redis

CATCH_UP_S = 90.0
PAUSE_S = 0.05

_CHAIN = """
with ordered as (
    select shard, epoch, seq, body, hash, lag(epoch) over w as epoch_before, lag(seq) over w as seq_before,
        coalesce(lag(hash) over w, decode(repeat('00', 32), 'hex')) as hash_before
    from availability.entry window w as (partition by shard order by epoch, seq)
)
select count(*) as entries,
    count(*) filter (where not case
        when epoch_before is null then seq = 1
        when epoch_before = epoch then seq = seq_before + 1
        else seq in (1, seq_before + 1)
    end) as gaps,
    count(*) filter (where hash <> sha256(hash_before || body)) as broken
from ordered
"""
BEHIND = "select shard, epoch, seq from availability.cursor"
ANNOUNCED = "select shard, epoch, seq from availability.outbox_cursor"
_HELD = """
select subject, max(times) as times from (
    select subject, shard, count(distinct (epoch, seq, operation_index)) as times
    from availability.movement where client = any($1) and verb = 'hold' group by subject, shard
) as by_shard group by subject
"""
_LEAST = """
select sku, location, min(available)::bigint as least from (
    select sku, location, sum(quantity * (
            (to_bucket = 'on_hand')::int - (from_bucket = 'on_hand')::int
            - (to_bucket in ('held', 'committed', 'picked'))::int
            + (from_bucket in ('held', 'committed', 'picked'))::int
        )) over (partition by sku, location order by epoch, seq, operation_index, movement_index) as available
    from availability.movement where starts_with(sku, $1)
) as at_each_movement group by sku, location
"""

Ends = dict[int, tuple[int, int]]
"""For each shard, the epoch and seq of an entry."""


class Said(NamedTuple):
    """Whether a claim holds, and the figures of both sides."""

    holds: bool
    figures: str


async def ends(redis_url: str, connection: asyncpg.Connection) -> Ends:
    """The last entry in the ledger of each shard that has a journal."""
    found: Ends = {}
    async with Redis.from_url(redis_url) as redis:
        for row in await connection.fetch(BEHIND):
            newest: Any = await redis.xrevrange(f"{{s{row['shard']}}}:journal", count=1)
            for identity, _fields in newest:
                epoch, _, seq = identity.decode().partition("-")
                found[row["shard"]] = int(epoch), int(seq)
    return found


async def caught_up(connection: asyncpg.Connection, until_ends: Ends) -> Said:
    """Whether it comes to these entries, within ``CATCH_UP_S``."""
    waited_s = await until(lambda: has_come_to(connection, BEHIND, until_ends))
    where = ", ".join(f"shard {shard} at {epoch}-{seq}" for shard, (epoch, seq) in sorted(until_ends.items()))
    return Said(waited_s is not None, f"{where}, {after(waited_s)}")


async def is_whole(connection: asyncpg.Connection) -> Said:
    """Whether the numbers have no gap, each entry's hash follows from the one before, and none was rejected."""
    (chain,) = await connection.fetch(_CHAIN)
    rejects = await connection.fetchval("select count(*) from availability.reject")
    figures = f"{chain['entries']:,} entries, {chain['gaps']} gaps, {chain['broken']} broken links, {rejects} rejects"
    return Said(not (chain["gaps"] or chain["broken"] or rejects), figures)


async def held(connection: asyncpg.Connection, clients: Sequence[str]) -> dict[str, int]:
    """How often each reservation of these clients was held."""
    async with connection.transaction():
        return {row["subject"]: row["times"] async for row in connection.cursor(_HELD, list(clients), prefetch=5_000)}


async def least_available(connection: asyncpg.Connection, prefix: str) -> dict[tuple[str, str], int]:
    """The least that was ever available, by location and SKU, of SKUs that begin so: at each movement, in order."""
    rows = await connection.fetch(_LEAST, prefix)
    return {(row["location"], row["sku"]): row["least"] for row in rows}


async def has_come_to(connection: asyncpg.Connection, query: str, until_ends: Ends) -> bool:
    rows = await connection.fetch(query)
    found = {row["shard"]: (row["epoch"], row["seq"]) for row in rows}
    return bool(until_ends) and all(found.get(shard, (0, 0)) >= end for shard, end in until_ends.items())


async def until(condition: Callable[[], Awaitable[bool]]) -> float | None:
    """How long it took in seconds until it was so; None when it is not, after ``CATCH_UP_S``."""
    began_at = time.monotonic()
    while not await condition():
        if time.monotonic() > began_at + CATCH_UP_S:
            return None
        await asyncio.sleep(PAUSE_S)
    return time.monotonic() - began_at


def after(waited_s: float | None) -> str:
    return f"not within {CATCH_UP_S:.0f} s" if waited_s is None else f"after {waited_s:.1f} s"
