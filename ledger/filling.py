"""Owns the filling of a ledger anew from its journal, under a new epoch: with another number of shards, or the same.

The steps, each of which may be the last one before a crash; begun again, it goes on from what is sure:

1. the ledger is *closed*: no process may use it from then on;
2. the journal gets all that the ledger has done;
3. the journal is *folded*: from the start of the last complete epoch, whose entries tell all there is, or from the
   newest checkpoint of it;
4. the new epoch begins; the old keys are removed, and what was folded is *put back*, as entries of that epoch;
5. the journal gets these too, the ledger is compared with what was folded, and the epoch is *complete*;
6. the ledger is *opened*, for processes whose settings say the new number of shards.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from ledger import messages as m
from ledger.closing import CALL_TIMEOUT_MS, Closing, FillRefused
from ledger.journal.catching_up import NotReached
from ledger.journal.checkpointing import Progress, fold_on, newest_folding
from ledger.journal.checkpoints import Checkpoints
from ledger.journal.epochs import Epoch, Epochs, Holder, Reason
from ledger.journal.folding import Folding
from ledger.journal.mending import mend
from ledger.journal.migrations import migrate
from ledger.journal.reader import Generation, Journal
from ledger.keyspace import Keyspace
from ledger.rehoming import Rehoming
from ledger.shard import Limits, Shard
from ledger.state import FILLING, ShardRecord


class NotFilled(Exception):
    """It could not be done; the text says why. Begun again, it goes on."""


class FillPlan(NamedTuple):
    """What was asked for; ``shards`` None = as many as there are.

    ``configured``: the number of shards of a ledger that does not tell it itself. ``damaged``: it is also done from a
    journal of which something is missing or was changed, and which the ledger's stream does not have.
    """

    redis_url: str
    postgres_url: str
    shards: int | None
    reason: Reason
    configured: int
    damaged: bool = False


class Filled(NamedTuple):
    """What there is now."""

    epoch: int
    shards: int
    positions: int
    reservations: int
    checkpoint: int | None = None
    """From which one on the journal was folded; None = from the epoch's start."""
    movements: int = 0
    """So many were folded, in ``folded_s``."""
    folded_s: float = 0.0
    damages: int = 0
    """Places where the journal is not what its chain says: there the ledger may be another than it was."""


async def fill_anew(plan: FillPlan, progress: Progress = lambda _step, _done, _total: None) -> Filled:
    """Fill the ledger anew.

    Raises ``FillRefused`` or ``NotFilled``, and when a server is away one of ``JOURNAL_FAILED`` or ``KEYSPACE_FAILED``.
    """
    await migrate(plan.postgres_url)
    epochs = await Epochs.open(plan.postgres_url, lambda done, total: progress("wait", done, total))
    if isinstance(epochs, Holder):
        raise FillRefused(
            f"another `availability rehome` or `rebuild` is under way: {epochs.told}. If its process is dead, `select"
            f" pg_terminate_backend({epochs.pid})` there ends it; then try again"
        )
    journal = await Journal.open(plan.postgres_url)
    try:
        return await _Filling(plan, progress, epochs, journal).run()
    except NotReached as error:
        raise NotFilled(str(error)) from error
    finally:
        await journal.close()
        await epochs.close()


class _Filling:
    def __init__(self, plan: FillPlan, progress: Progress, epochs: Epochs, journal: Journal) -> None:
        self._plan = plan
        self._shards = 0
        self._progress = progress
        self._epochs = epochs
        self._journal = journal
        self._closing = Closing(plan.redis_url, plan.postgres_url, journal, plan.reason, progress)

    async def run(self) -> Filled:
        plan = self._plan
        first = await self._record(0)
        known = await self._known(first)
        base = next(epoch for epoch in reversed(known) if epoch.complete)
        begun = known[-1] is not base
        shards = self._shards = plan.shards or base.shards
        closed = first is not None and first.shards == FILLING
        touched = max([shards, *(epoch.shards for epoch in known)])
        if plan.reason == "rehome" and base.shards == shards and not begun:
            if not closed:
                raise FillRefused(f"the ledger has {shards} shards already")
            await self._closing.open_for(shards, touched)
            return Filled(base.epoch, shards, 0, 0)
        if not begun:
            await self._closing.close(base.shards, closed=closed)
        began_s = time.perf_counter()
        folding = await self._fold(base)
        if folding.damages and await self._mended(base.shards):
            folding = await self._fold(base)
        if folding.damages and not plan.damaged:
            if not begun:
                await self._closing.open_for(base.shards, base.shards)
            raise FillRefused(
                f"{folding.first_damage} ({folding.damages} such places). A ledger made from it would lack what is"
                " missing there; nothing was changed. Put back the backup of Postgres, start `availability journal`,"
                f" and try again; or go on without what is missing: `availability {plan.reason} --damaged`"
            )
        folded = folding.checkpoint, folding.movements, time.perf_counter() - began_s, folding.damages
        rehoming = Rehoming(folding.folds, shards)
        if rehoming.torn and plan.reason == "rehome" and not begun:
            await self._closing.open_for(base.shards, base.shards)
            raise FillRefused(
                f"{rehoming.torn} reservations are in the middle of a change over several shards: start `availability"
                " keeper`, which finishes it within seconds, stop it, and try again"
            )
        epoch = await self._begin(known, touched)
        await self._put_back(rehoming, epoch)
        await self._closing.journaled(range(shards), "journal")
        positions = await self._compare(rehoming)
        await self._epochs.complete(epoch)
        await self._closing.open_for(shards, touched, epoch)
        return Filled(epoch, shards, positions, rehoming.reservations, *folded)

    # --- what there is ------------------------------------------------------------------------------------------

    async def _record(self, shard: int) -> ShardRecord | None:
        async with Keyspace.opened(self._plan.redis_url, shard) as keyspace:
            return await keyspace.record()

    async def _known(self, first: ShardRecord | None) -> list[Epoch]:
        """The generations so far; the first one is noted when it is about to be followed by another."""
        if known := await self._epochs.all():
            return known
        newest = await self._epochs.newest_entry()
        if first is None and newest == 0:
            raise FillRefused("the ledger is empty, and so is its journal: set the number of shards in the settings")
        shards = (first.shards if first else None) or self._plan.configured
        epoch = first.epoch if first else newest
        there = 1 + max((shard for shard, at in (await self._epochs.cursors()).items() if at.epoch == epoch), default=0)
        if there > shards:
            raise FillRefused(
                f"the journal has entries of {there} shards, the settings say {shards}: set shards = {there}"
            )
        await self._epochs.begin(epoch, shards, "first")
        return [Epoch(epoch, shards, complete=True)]

    # --- filling ------------------------------------------------------------------------------------------------

    async def _fold(self, base: Epoch) -> Folding:
        checkpoints = await Checkpoints.open(self._plan.postgres_url)
        try:
            generation = Generation(base.epoch, base.shards)
            folding = await newest_folding(checkpoints, self._journal, generation, self._progress)
        finally:
            await checkpoints.close()
        await fold_on(folding, self._journal, self._progress)
        await folding.note_lost_ends(self._journal)
        return folding

    async def _mended(self, shards: int) -> int:
        """How many entries the journal got back."""
        return sum([await mend(self._plan.redis_url, self._plan.postgres_url, shard) for shard in range(shards)])

    async def _begin(self, known: list[Epoch], touched: int) -> int:
        """The new epoch, with every shard of the old and the new ledger empty."""
        records = [record for shard in range(touched) if (record := await self._record(shard))]
        newest = await self._epochs.newest_entry()
        epoch = 1 + max([newest, *(epoch.epoch for epoch in known), *(record.epoch for record in records)])
        await self._epochs.begin(epoch, self._shards, self._plan.reason)
        clock_ms = max((record.clock_ms for record in records), default=0)
        for shard in range(touched):
            async with Keyspace.opened(self._plan.redis_url, shard) as keyspace:
                await keyspace.fence(shards=FILLING, epoch=epoch, clock_ms=clock_ms)
                await keyspace.clear(epoch, journal=self._plan.reason == "rebuild")
            self._progress("clear", shard + 1, touched)
        return epoch

    async def _put_back(self, rehoming: Rehoming, epoch: int) -> None:
        total = rehoming.weight
        done = 0

        def more(portion: m.Restore) -> None:
            nonlocal done
            done += rehoming.weight_of(portion)
            self._progress("restore", done, total)

        try:
            async with asyncio.TaskGroup() as group:
                for shard in range(self._shards):
                    group.create_task(self._put_back_into(shard, rehoming, epoch, more))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _put_back_into(
        self, shard: int, rehoming: Rehoming, epoch: int, more: Callable[[m.Restore], None]
    ) -> None:
        limits = Limits(1, 1, CALL_TIMEOUT_MS, 1, 1, FILLING)
        link = Shard(
            *(self._plan.redis_url, shard, limits),
            now_ms=None,
            observe=lambda _operations, _seconds: None,
            refusal=lambda _shard, _run: None,
            epoch=epoch,
        )
        try:
            for portion in rehoming.portions(shard):
                (answer,) = await link.send([portion])
                if not isinstance(answer, m.Restored):
                    raise NotFilled(f"shard {shard} does not take what is put back: {answer}")
                more(portion)
        finally:
            await link.close()

    async def _compare(self, rehoming: Rehoming) -> int:
        """Hold the ledger against what was folded; how many positions it has."""
        total = 0
        for shard in range(self._shards):
            positions, records = rehoming.expected(shard)
            async with Keyspace.opened(self._plan.redis_url, shard) as keyspace:
                live = {place: position async for place, position in keyspace.positions()}
                known = await keyspace.records()
            wrong = [place for place in positions.keys() | live.keys() if positions.get(place) != live.get(place)]
            if wrong or known != records:
                raise NotFilled(
                    f"shard {shard} is not what was folded: {len(wrong)} positions differ, as {sorted(wrong)[:1]};"
                    f" {known} reservations and operations instead of {records}"
                )
            total += len(live)
            self._progress("compare", shard + 1, self._shards)
        return total
