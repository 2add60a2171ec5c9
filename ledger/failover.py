"""Owns the fenced failover of the ledger to a replica, and what an old primary has that the journal has not.

Replication is asynchronous: a replica may lack the end of what was acknowledged, and has it nowhere but in the journal.
So a replica is never served as it is. The steps, each of which may be the last one before a crash; begun again, it
goes on:

1. the primary is *stopped*: one that answers is refused, because its callers would go on changing it;
2. the replica is *promoted*;
3. what it has more than the journal goes there; what it has less comes from there: the ledger is filled anew, under a
   new epoch, which is what refuses the old primary and who still uses it, by comparison with the journal.

Lost is what was acknowledged and is neither in the journal nor on the replica; ``left_behind`` finds it on the old
primary's disk.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from ledger.closing import FillRefused
from ledger.filling import Filled, FillPlan, fill_anew
from ledger.journal.checkpointing import Progress
from ledger.journal.reader import Journal
from ledger.journal.records import START, Place, Unreadable, decode
from ledger.journal.stream import JournalStream
from ledger.keyspace import Keyspace
from ledger.messages import JournalOperation
from ledger.replica import answers, promote, unfit

READ_MS = 20


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
    """What there is now; ``kept`` says whether the replica's own configuration knows that it is a primary."""

    difference: Exchanged
    filled: Filled
    kept: bool


class LeftBehind(NamedTuple):
    """An operation of an entry that the journal does not have; None stands for an entry that cannot be read."""

    shard: int
    place: Place
    operation: JournalOperation | None


async def fail_over(plan: FailoverPlan, progress: Progress = lambda _step, _done, _total: None) -> FailedOver:
    """Make the replica the ledger. Raises as ``fill_anew`` does, and ``FillRefused`` before anything was changed."""
    if await answers(plan.primary_url):
        raise FillRefused("the primary answers: stop its server, so that nobody can change it, and try again")
    if flaws := await unfit(plan.replica_url):
        raise FillRefused(f"the replica is unfit: {'; '.join(flaws)}")
    kept = await promote(plan.replica_url)
    journal = await Journal.open(plan.postgres_url)
    try:
        difference = await _exchange(plan, journal)
    finally:
        await journal.close()
    filled = await fill_anew(FillPlan(plan.replica_url, plan.postgres_url, None, "rebuild", plan.configured), progress)
    return FailedOver(difference, filled, kept)


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
                        for operation in _operations(entry.place, entry.body):
                            yield LeftBehind(shard, entry.place, operation)
            finally:
                await stream.close()
    finally:
        await journal.close()


def _operations(place: Place, body: bytes) -> list[JournalOperation] | list[None]:
    try:
        return decode(place, body).operations
    except Unreadable:
        return [None]


async def _exchange(plan: FailoverPlan, journal: Journal) -> Exchanged:
    """How far the promoted server and the journal are apart, where both are in the same epoch."""
    lacked = saved = 0
    for shard in range(await _shards(plan)):
        end = (await journal.end(shard)).place
        keyspace = await Keyspace.open(plan.replica_url, shard)
        try:
            record = await keyspace.record()
        finally:
            await keyspace.close()
        place = Place(record.epoch, record.seq) if record else START
        if place.epoch in {end.epoch, START.epoch} or end == START:
            lacked += max(0, end.seq - place.seq)
            saved += max(0, place.seq - end.seq)
    return Exchanged(lacked, saved)


async def _shards(plan: FailoverPlan) -> int:
    keyspace = await Keyspace.open(plan.replica_url, 0)
    try:
        record = await keyspace.record()
    finally:
        await keyspace.close()
    return (record.shards if record else None) or plan.configured
