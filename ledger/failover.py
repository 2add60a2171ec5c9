"""Owns the fenced failover of the ledger to a replica, and what an old primary has that the journal has not.

Replication is asynchronous: a replica may lack the end of what was acknowledged, and has it nowhere but in the journal.
So a replica is never served as it is. The steps, each of which may be the last one before a crash; begun again, it
goes on:

1. a primary that answers is *closed*, by the fence that a ledger has while it is filled anew: it refuses every caller,
   also one that reaches no journal, and after its restart. The replica must then get all that it has, or nothing is
   done. One that does not answer must be stopped; at the end it is closed if it answers then, and otherwise told of;
2. the replica is *promoted*;
3. what it has more than the journal goes there; what it has less comes from there: the ledger is filled anew, under a
   new epoch, which is what refuses the old primary and who still uses it, by comparison with the journal.

Lost is what was acknowledged and is neither in the journal nor on the replica; ``left_behind`` finds it on the old
primary's disk.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from ledger.closing import FillRefused
from ledger.filling import Filled, FillPlan, fill_anew
from ledger.journal.checkpointing import Progress
from ledger.journal.reader import Journal
from ledger.journal.records import START, Place, Unreadable, decode
from ledger.journal.stream import JournalStream
from ledger.journal.writer import is_written
from ledger.keyspace import KEYSPACE_FAILED, Keyspace
from ledger.messages import JournalOperation
from ledger.replica import answers, is_primary, is_same, promote, unfit
from ledger.state import FILLING, ShardRecord

READ_MS = 20
REPLICATED_S: Final = 10.0
"""A replica that is connected gets what a closed primary has in less."""
POLL_S: Final = 0.05


class FailoverPlan(NamedTuple):
    """The URLs of the ``primary`` that is lost and of its ``replica``; the rest as in ``FillPlan``."""

    primary_url: str
    replica_url: str
    postgres_url: str
    configured: int


class Exchanged(NamedTuple):
    """Entries of all shards that the replica ``lacked`` and the journal had, and the other way round (``saved``)."""

    lacked: int
    saved: int


class FailedOver(NamedTuple):
    """What there is now; ``kept`` says whether the replica's own configuration knows that it is a primary.

    ``fenced``: the old primary refuses everybody. ``lossless``: it was closed before, and the replica had all of it.
    """

    difference: Exchanged
    filled: Filled
    kept: bool
    fenced: bool
    lossless: bool


class LeftBehind(NamedTuple):
    """An operation of an entry that the journal does not have; None stands for an entry that cannot be read."""

    shard: int
    place: Place
    operation: JournalOperation | None


async def fail_over(plan: FailoverPlan, progress: Progress = lambda _step, _done, _total: None) -> FailedOver:
    """Make the replica the ledger. Raises as ``fill_anew`` does, and ``FillRefused`` before anything was changed."""
    if flaws := await unfit(plan.replica_url):
        raise FillRefused(f"the replica is unfit: {'; '.join(flaws)}")
    await _insist_on_the_journal(plan)
    answered = await answers(plan.primary_url)
    lossless = answered and await _close_primary(plan)
    kept = await promote(plan.replica_url)
    journal = await Journal.open(plan.postgres_url)
    try:
        difference = await _exchange(plan, journal)
    finally:
        await journal.close()
    filled = await fill_anew(FillPlan(plan.replica_url, plan.postgres_url, None, "rebuild", plan.configured), progress)
    fenced = answered or await _is_closed_now(plan)
    return FailedOver(difference, filled, kept, fenced, lossless)


async def _insist_on_the_journal(plan: FailoverPlan) -> None:
    """``FillRefused`` while a process writes it: from the old primary, and nobody else could from the new one."""
    written = [shard for shard in range(plan.configured) if await is_written(plan.postgres_url, shard)]
    if written:
        raise FillRefused(
            f"`availability journal` is running, and follows the old primary (shards {written}): stop it, and try"
            " again; nothing was changed"
        )


async def _close_primary(plan: FailoverPlan) -> bool:
    """Nobody changes the primary any more, and the replica has all of it; or ``FillRefused``, and it is as it was.

    False when somebody who did not come to the end has closed it, and promoted the replica: what that had is not known.
    """
    if await is_same(plan.primary_url, plan.replica_url):
        raise FillRefused("redis_url and redis_standby_url name the same server")
    try:
        before = await _closed(plan)
    except KEYSPACE_FAILED as error:
        raise FillRefused(
            f"the primary answers, and cannot be closed ({type(error).__name__}: {error}): stop its server, so that"
            " nobody can change it, and try again"
        ) from error
    if not any(record.shards for record in before) and await is_primary(plan.replica_url):
        return False
    if not await _has_all(plan, len(before)):
        for shard, record in enumerate(before):
            if record.shards:
                await _fence(plan.primary_url, shard, record.shards)
        raise FillRefused(
            "the primary answers, and the replica does not get what it has: nothing was changed. To go on without what"
            " the replica and the journal lack, stop the primary's server"
        )
    return True


async def _closed(plan: FailoverPlan) -> list[ShardRecord]:
    """Close every shard of the primary; their records as they were. Raises one of ``KEYSPACE_FAILED``."""
    first = await _fence(plan.primary_url, 0, FILLING)
    shards = first.shards or plan.configured
    return [first, *[await _fence(plan.primary_url, shard, FILLING) for shard in range(1, shards)]]


async def _fence(redis_url: str, shard: int, shards: int) -> ShardRecord:
    async with Keyspace.opened(redis_url, shard) as keyspace:
        return await keyspace.fence(shards=shards)


async def _has_all(plan: FailoverPlan, shards: int) -> bool:
    """Whether the replica comes to where the closed primary is."""
    clock = asyncio.get_running_loop().time
    until_s = clock() + REPLICATED_S
    try:
        wanted = [await _record(plan.primary_url, shard) for shard in range(shards)]
        while [await _record(plan.replica_url, shard) for shard in range(shards)] != wanted:
            if clock() > until_s:
                return False
            await asyncio.sleep(POLL_S)
    except KEYSPACE_FAILED:
        return False
    return True


async def _record(redis_url: str, shard: int) -> ShardRecord | None:
    keyspace = Keyspace.on(redis_url, shard)
    try:
        return await keyspace.record()
    finally:
        await keyspace.close()


async def _is_closed_now(plan: FailoverPlan) -> bool:
    """Close the old primary, if it has come back meanwhile."""
    if not await answers(plan.primary_url):
        return False
    try:
        await _closed(plan)
    except KEYSPACE_FAILED:
        return False
    return True


async def left_behind(redis_url: str, postgres_url: str, shards: int) -> AsyncIterator[LeftBehind]:
    """What is in the streams of a server, and not in the journal: after a failover, what was acknowledged and is lost.

    Raises one of ``KEYSPACE_FAILED`` or ``JOURNAL_FAILED``. The server is only read.
    """
    journal = await Journal.open(postgres_url)
    try:
        for shard in range(shards):
            stream = JournalStream(redis_url, shard)
            try:
                while entries := await stream.read(READ_MS):
                    for entry in await journal.lacking(shard, entries):
                        for operation in _acknowledged(entry.place, entry.body):
                            yield LeftBehind(shard, entry.place, operation)
            finally:
                await stream.close()
    finally:
        await journal.close()


def _acknowledged(place: Place, body: bytes) -> list[JournalOperation] | list[None]:
    """Not what a failover or rebuild that broke off had put back: that was never told to anybody."""
    try:
        operations = decode(place, body).operations
    except Unreadable:
        return [None]
    return [operation for operation in operations if not operation.verb.startswith("restore")]


async def _exchange(plan: FailoverPlan, journal: Journal) -> Exchanged:
    """How far the promoted server and the journal are apart, where both are in the same epoch."""
    lacked = saved = 0
    for shard in range(await _shards(plan)):
        end = (await journal.end(shard)).place
        record = await _record(plan.replica_url, shard)
        place = Place(record.epoch, record.seq) if record else START
        if place.epoch in {end.epoch, START.epoch} or end == START:
            lacked += max(0, end.seq - place.seq)
            saved += max(0, place.seq - end.seq)
    return Exchanged(lacked, saved)


async def _shards(plan: FailoverPlan) -> int:
    record = await _record(plan.replica_url, 0)
    return (record.shards if record else None) or plan.configured
