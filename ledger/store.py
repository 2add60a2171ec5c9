"""The ledger on a Valkey or Redis server: one method a verb, each one call of the coalescer."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

from msgspec.structs import replace

from ledger import messages as m
from ledger.coalescer import Coalescer
from ledger.errors import LedgerError, Overloaded, Unavailable, Unknown
from ledger.journal.records import Place
from ledger.shard import Limits, Shard
from ledger.state import Standing, State

BATCH_WEIGHT_MAX = 4_096
"""Positions in one call, about: no call keeps the others waiting for long."""
PORTION_EVENTS_MAX = 256
PORTION_ITEMS_MAX = 16
"""What is longer goes in several operations, so that it can be spread over several calls."""

Thing = TypeVar("Thing")


class Ledger:
    """The door to the ledger.

    Every method takes a message and answers its outcome. Each may raise Overloaded or Unavailable (surely not done)
    or Unknown (asking again with the same id settles it).
    """

    def __init__(
        self,
        url: str,
        *,
        operations_max: int = 256,
        queue_operations_max: int = 20_000,
        backlog_entries_max: int = 200_000,
        low_stock: int = 5,
        timeout_ms: int = 2_000,
        now_ms: Callable[[], int] | None = None,
        observe: Callable[[int, float], None] = lambda _operations, _seconds: None,
        refusal: Callable[[str], str | None] = lambda _run: None,
    ) -> None:
        """Connects to nothing yet: the first operation, or ``check``, does.

        ``now_ms`` sets the ledger's clock, for tests and simulation only. ``observe`` is told of each call: how many
        operations it carried and the seconds it took. ``refusal`` is asked before each call, with the run of the server
        (see ``Standing``), why nothing may be changed there; what only looks goes on.
        """
        limits = Limits(backlog_entries_max, low_stock, timeout_ms)
        self._shard = Shard(url, 0, limits, now_ms=now_ms, observe=observe, refusal=refusal)
        self._coalescer = Coalescer(
            self._shard.send,
            operations_max=operations_max,
            weight_max=BATCH_WEIGHT_MAX,
            queue_operations_max=queue_operations_max,
        )

    @classmethod
    async def open(cls, url: str, **options: Any) -> Self:
        """A ledger (options as of the constructor) whose server was tried once; it need not be there yet."""
        ledger = cls(url, **options)
        await ledger.check()
        return ledger

    async def close(self) -> None:
        """Answers what is queued, then drops the connection."""
        await self._coalescer.close()
        await self._shard.close()

    async def check(self) -> State:
        """Asks the server something harmless, so that ``state`` is of now."""
        with suppress(LedgerError):  # the state says why
            await self.read(m.Read([]))
        return self.state()

    def state(self) -> State:
        """As the last call left it."""
        reasons = self._shard.not_ready()
        return State(not reasons, reasons, self._coalescer.depth)

    async def standing(self, at: Place) -> Standing:
        """How far the ledger has come, and what it has at a place of its journal."""
        return await self._shard.standing(at)

    async def hold(self, hold: m.Hold) -> m.HoldOutcome:
        return cast(m.HoldOutcome, await self._coalescer.submit(hold))

    async def extend(self, extend: m.Extend) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._coalescer.submit(extend))

    async def commit(self, commit: m.Commit) -> m.CommitOutcome:
        return cast(m.CommitOutcome, await self._coalescer.submit(commit))

    async def release(self, release: m.Release) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._coalescer.submit(release))

    async def pick(self, pick: m.Pick) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._coalescer.submit(pick))

    async def ship(self, ship: m.Ship) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._coalescer.submit(ship))

    async def cancel(self, cancel: m.Cancel) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._coalescer.submit(cancel))

    async def return_(self, return_: m.Return) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._coalescer.submit(return_))

    async def move(self, move: m.Move) -> m.MoveOutcome:
        return cast(m.MoveOutcome, await self._coalescer.submit(move))

    async def expire(self, expire: m.Expire) -> m.Expired:
        return cast(m.Expired, await self._coalescer.submit(expire))

    async def apply(self, apply: m.Apply) -> m.Applied:
        """A failure part-way leaves the earlier events applied; repeating them all is safe."""
        portions = _portions(apply.events, PORTION_EVENTS_MAX)
        outcomes = await self._submit_all([m.Apply(apply.client, events) for events in portions])
        return m.Applied([result for outcome in cast("list[m.Applied]", outcomes) for result in outcome.results])

    async def count(self, count: m.Count) -> m.CountOutcome:
        """A failure part-way leaves a part of it counted; repeating it all is safe."""
        portions = _portions(count.events, PORTION_EVENTS_MAX)
        first, *others = (replace(count, events=events, portion=number) for number, events in enumerate(portions))
        outcome = cast(m.CountOutcome, await self._coalescer.submit(first))
        if not isinstance(outcome, m.Counted) or not others:
            return outcome
        try:
            outcomes = [outcome, *cast("list[m.Counted]", await self._submit_all(others))]
        except (Overloaded, Unavailable) as failure:
            raise Unknown(f"a part of it failed: {failure}") from failure
        results = [result for counted in outcomes for result in counted.results]
        return m.Counted(all(counted.replayed for counted in outcomes), results)

    async def read(self, read: m.Read) -> m.Positions:
        """Many items are read in several calls, so not all of one instant; ``now_ms`` is of the first."""
        portions = _portions(read.items, PORTION_ITEMS_MAX)
        reads = self._coalescer.submit_all([m.Read(items) for items in portions])
        outcomes = cast("list[m.Positions]", await asyncio.gather(*reads))
        return m.Positions(outcomes[0].now_ms, [item for outcome in outcomes for item in outcome.items])

    async def _submit_all(self, operations: Sequence[m.Operation]) -> list[m.Outcome]:
        """The outcomes in order. Where only some portions failed, it is unknown what was done of the whole."""
        answers = await asyncio.gather(*self._coalescer.submit_all(operations), return_exceptions=True)
        outcomes = [answer for answer in answers if not isinstance(answer, BaseException)]
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if failures:
            raise Unknown(f"a part of it failed: {failures[0]}") if outcomes else failures[0]
        return outcomes

    async def find(self, find: m.Find) -> m.Found | m.NotFound:
        return cast("m.Found | m.NotFound", await self._coalescer.submit(find))

    async def put_location(self, put_location: m.PutLocation) -> m.LocationStored:
        return cast(m.LocationStored, await self._coalescer.submit(put_location))

    async def put_safety_stock(self, put_safety_stock: m.PutSafetyStock) -> m.SafetyStockOutcome:
        return cast(m.SafetyStockOutcome, await self._coalescer.submit(put_safety_stock))

    async def locations(self, locations: m.Locations) -> m.LocationList:
        return cast(m.LocationList, await self._coalescer.submit(locations))


def _portions(things: list[Thing], size: int) -> list[list[Thing]]:
    """At least one, if only an empty one."""
    return [things[start : start + size] for start in range(0, max(1, len(things)), size)]
