"""The ledger on Valkey or Redis servers: one method a verb. With one shard, each is one call of its coalescer."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

from msgspec.structs import replace

from ledger import messages as m
from ledger.coalescer import Coalescer
from ledger.errors import LedgerError, Overloaded, Unavailable, Unknown
from ledger.journal.records import Place
from ledger.keys import shard_of
from ledger.shard import Limits, Shard
from ledger.spanning import Spanning
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
        shards: int = 1,
        operations_max: int = 256,
        queue_operations_max: int = 20_000,
        queue_wait_ms_max: int = 2_000,
        backlog_entries_max: int = 200_000,
        low_stock: int = 5,
        timeout_ms: int = 2_000,
        client_open_reservations_max: int = m.CLIENT_OPEN_RESERVATIONS_MAX,
        client_held_units_max: int = m.CLIENT_HELD_UNITS_MAX,
        now_ms: Callable[[], int] | None = None,
        observe: Callable[[int, float], None] = lambda _operations, _seconds: None,
        refusal: Callable[[int, str], str | None] = lambda _shard, _run: None,
    ) -> None:
        """Connects to nothing yet: the first operation, or ``check``, does.

        ``shards`` must be what the ledger was filled with (``availability rehome`` changes it). ``now_ms`` sets the
        ledger's clock, for tests and simulation only. ``observe`` is told of each call: how many operations it carried
        and the seconds it took. ``refusal`` is asked before each call, with the shard and the run of its server (see
        ``Standing``), why nothing may be changed there; what only looks goes on.
        """
        of_clients = client_open_reservations_max, client_held_units_max
        limits = Limits(backlog_entries_max, low_stock, timeout_ms, *of_clients, shards)
        self._shards: list[Shard] = []
        for number in range(shards):
            first = self._shards[0] if number else None
            self._shards.append(
                Shard(url, number, limits, now_ms=now_ms, observe=observe, refusal=refusal, first=first)
            )
        self._coalescers = [
            Coalescer(
                shard.send,
                operations_max=operations_max,
                weight_max=BATCH_WEIGHT_MAX,
                queue_operations_max=queue_operations_max,
                queue_wait_ms_max=queue_wait_ms_max,
            )
            for shard in self._shards
        ]
        self._spanning = Spanning(self._coalescers, low_stock=low_stock) if shards > 1 else None

    @property
    def shards(self) -> int:
        return len(self._shards)

    @classmethod
    async def open(cls, url: str, **options: Any) -> Self:
        """A ledger (options as of the constructor) whose server was tried once; it need not be there yet."""
        ledger = cls(url, **options)
        await ledger.check()
        return ledger

    async def close(self) -> None:
        """Answers what is queued, then drops the connection."""
        await asyncio.gather(*(coalescer.close() for coalescer in self._coalescers))
        await asyncio.gather(*(shard.close() for shard in self._shards))

    async def check(self) -> State:
        """Asks every shard something harmless, so that ``state`` is of now."""
        with suppress(LedgerError):  # the state says why
            await self._submit_all([(shard, m.Read([])) for shard in range(self.shards)])
        return self.state()

    @property
    def ready(self) -> bool:
        """Whether it may promise, as the last call left it; ``state`` says why not."""
        return not any(shard.not_ready() for shard in self._shards)

    @property
    def turn(self) -> int:
        """Counts the batches that have left: while it stays, what was asked since the last one has yet to be sent."""
        return sum([coalescer.turn for coalescer in self._coalescers])

    def state(self) -> State:
        """As the last call left it."""
        reasons = [
            reason if self.shards == 1 else f"shard {number}: {reason}"
            for number, shard in enumerate(self._shards)
            for reason in shard.not_ready()
        ]
        return State(not reasons, reasons, sum(coalescer.depth for coalescer in self._coalescers))

    def queue_wait_s(self) -> float:
        """How long the oldest operation has waited for its call."""
        return max(coalescer.wait_s for coalescer in self._coalescers)

    def refused(self) -> dict[str, int]:
        """Operations that were not taken because too much waits, so far, by reason."""
        return dict(sum((coalescer.refused for coalescer in self._coalescers), Counter[str]()))

    async def standing(self, shard: int, at: Place) -> Standing:
        """How far a shard has come, and what it has at a place of its journal."""
        return await self._shards[shard].standing(at)

    def hold(self, hold: m.Hold) -> Awaitable[m.HoldOutcome]:
        """With one shard the hold is queued by the call itself, so that many need no task each."""
        if self._spanning is not None:
            return self._spanning.hold(hold)
        return cast("Awaitable[m.HoldOutcome]", self._coalescers[0].submit(hold))

    async def _change(self, change: m.Change) -> Any:
        if self._spanning is not None:
            return await self._spanning.change(change)
        return await self._coalescers[0].submit(change)

    async def extend(self, extend: m.Extend) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._change(extend))

    async def commit(self, commit: m.Commit) -> m.CommitOutcome:
        return cast(m.CommitOutcome, await self._change(commit))

    async def release(self, release: m.Release) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._change(release))

    async def pick(self, pick: m.Pick) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._change(pick))

    async def ship(self, ship: m.Ship) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._change(ship))

    async def cancel(self, cancel: m.Cancel) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._change(cancel))

    async def return_(self, return_: m.Return) -> m.VerbOutcome:
        return cast(m.VerbOutcome, await self._change(return_))

    async def move(self, move: m.Move) -> m.MoveOutcome:
        return cast(m.MoveOutcome, await self._change(move))

    async def expire(self, expire: m.Expire) -> m.Expired:
        """Also finishes what was left behind of operations over several shards, which first of all need their units."""
        if self._spanning is not None:
            await self._spanning.finish_unfinished()
        outcomes = await self._submit_all([(shard, expire) for shard in range(self.shards)], any_failure=True)
        expired = cast("list[m.Expired]", outcomes)
        return m.Expired(sum(each.reservations for each in expired), any(each.more for each in expired))

    async def find(self, find: m.Find) -> m.Found | m.NotFound:
        if self._spanning is not None:
            return await self._spanning.find(find)
        return cast("m.Found | m.NotFound", await self._coalescers[0].submit(find))

    async def apply(self, apply: m.Apply) -> m.Applied:
        """A failure part-way leaves the earlier events applied; repeating them all is safe."""
        portions = self._portions(apply.events, lambda event: event.sku, PORTION_EVENTS_MAX)
        outcomes = await self._submit_all(
            [(shard, m.Apply(apply.client, [apply.events[i] for i in chosen])) for shard, chosen in portions]
        )
        return m.Applied(_in_order(portions, [applied.results for applied in cast("list[m.Applied]", outcomes)]))

    async def count(self, count: m.Count) -> m.CountOutcome:
        """A failure part-way leaves a part of it counted; repeating it all is safe."""
        portions = self._portions(count.events, lambda event: event.sku, PORTION_EVENTS_MAX)
        # The first portion goes where every count of this name goes first, even if nothing of it is there.
        home = shard_of(f"{count.location} {count.client} {count.count_id}", self.shards)
        portions.sort(key=lambda portion: portion[0] != home)
        if not portions or portions[0][0] != home:
            portions.insert(0, (home, []))
        first, *others = (
            (shard, replace(count, events=[count.events[i] for i in chosen], portion=number))
            for number, (shard, chosen) in enumerate(portions)
        )
        (outcome,) = cast("list[m.CountOutcome]", await self._submit_all([first]))
        if not isinstance(outcome, m.Counted):
            return outcome
        try:
            outcomes = [outcome, *cast("list[m.Counted]", await self._submit_all(others))]
        except (Overloaded, Unavailable) as failure:
            raise Unknown(f"a part of it failed: {failure}") from failure
        results = _in_order(portions, [counted.results for counted in outcomes])
        return m.Counted(all(counted.replayed for counted in outcomes), results)

    async def read(self, read: m.Read) -> m.Positions:
        """Many items are read in several calls, so not all of one instant; ``now_ms`` is of the first."""
        if self.shards == 1 and len(read.items) <= PORTION_ITEMS_MAX:
            return cast(m.Positions, await self._coalescers[0].submit(read))
        portions = self._portions(read.items, lambda item: item.sku, PORTION_ITEMS_MAX) or [(0, [])]
        outcomes = await self._submit_all(
            [(shard, m.Read([read.items[i] for i in chosen])) for shard, chosen in portions], any_failure=True
        )
        positions = cast("list[m.Positions]", outcomes)
        return m.Positions(positions[0].now_ms, _in_order(portions, [each.items for each in positions]))

    async def views(self, views: m.Views) -> m.ViewList:
        shard = shard_of(views.sku, self.shards)
        return cast(m.ViewList, await self._coalescers[shard].submit(views))

    async def admit(self, admit: m.Admit) -> m.Admitted:
        """A client's meter is where its name says, whichever shards its requests go to."""
        return cast(m.Admitted, await self._coalescers[shard_of(admit.client, self.shards)].submit(admit))

    async def put_location(self, put_location: m.PutLocation) -> m.LocationStored:
        """Every shard has the locations. Repeating it is safe."""
        outcomes = await self._submit_all([(shard, put_location) for shard in range(self.shards)])
        return cast(m.LocationStored, outcomes[0])

    async def put_safety_stock(self, put_safety_stock: m.PutSafetyStock) -> m.SafetyStockOutcome:
        """All of it or none: no location is ever taken away, so a shard that is told later knows it too."""
        items = put_safety_stock.items
        portions = self._portions(items, lambda item: item.sku, max(1, len(items)))
        if len(portions) > 1:
            known = {location.id for location in (await self.locations(m.Locations())).locations}
            for number, item in enumerate(items, 1):
                if item.location not in known:
                    return m.UnknownLocation(number, item.location)
        outcomes = await self._submit_all(
            [(shard, replace(put_safety_stock, items=[items[i] for i in chosen])) for shard, chosen in portions]
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, m.UnknownLocation)]
        if refused and len(portions) > 1:
            raise Unknown("a shard has not got a location that another has: put it again")
        return refused[0] if refused else m.SafetyStockStored(items)

    async def locations(self, locations: m.Locations) -> m.LocationList:
        return cast(m.LocationList, await self._coalescers[0].submit(locations))

    async def _submit_all(
        self, operations: Sequence[tuple[int, m.Operation]], *, any_failure: bool = False
    ) -> list[m.Outcome]:
        """The outcomes in order. Where only some operations failed, it is unknown what was done of the whole.

        With ``any_failure`` it is not asked for: the first failure is raised.
        """
        by_shard: dict[int, list[m.Operation]] = {}
        for shard, operation in operations:
            by_shard.setdefault(shard, []).append(operation)
        answers = dict(
            zip(by_shard, await asyncio.gather(*(self._answers(*each) for each in by_shard.items())), strict=True)
        )
        in_order = [answers[shard].pop(0) for shard, _ in operations]
        failures = [answer for answer in in_order if isinstance(answer, BaseException)]
        if failures:
            if any_failure or len(failures) == len(in_order):
                raise failures[0]
            raise Unknown(f"a part of it failed: {failures[0]}")
        return cast("list[m.Outcome]", in_order)

    async def _answers(self, shard: int, operations: list[m.Operation]) -> list[m.Outcome | BaseException]:
        try:
            waiting = self._coalescers[shard].submit_all(operations)
        except Overloaded as failure:
            return [failure] * len(operations)
        return await asyncio.gather(*waiting, return_exceptions=True)

    def _portions(self, things: Sequence[Thing], sku: Callable[[Thing], str], size: int) -> list[tuple[int, list[int]]]:
        """The things by their place in the list, grouped by the shard of their SKU, up to ``size`` in a group."""
        by_shard: dict[int, list[int]] = {}
        for index, thing in enumerate(things):
            by_shard.setdefault(shard_of(sku(thing), self.shards), []).append(index)
        return [
            (shard, indexes[start : start + size])
            for shard, indexes in sorted(by_shard.items())
            for start in range(0, len(indexes), size)
        ]


def _in_order(portions: list[tuple[int, list[int]]], results: list[list[Thing]]) -> list[Thing]:
    """What came of the portions, in the order of the things that went into them."""
    by_index = {
        index: result
        for (_, indexes), some in zip(portions, results, strict=True)
        for index, result in zip(indexes, some, strict=True)
    }
    return [by_index[index] for index in sorted(by_index)]
