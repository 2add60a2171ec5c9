"""Batches: operations that arrive while a call is under way go to the shard together in the next one.

Self-clocking: nothing under way = send at the end of this turn of the event loop; else when the answer lands. So a
batch is as large as the load makes it, and an idle ledger adds no wait.

A queue is bounded in time: while its oldest operation has waited for too long, what comes is refused at once. A SKU
that makes up most of a queue is refused at half of that, so that the others still find room.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ledger.errors import Overloaded
from ledger.messages import (
    Admit,
    Apply,
    Busy,
    Change,
    Count,
    Find,
    Hold,
    JournalFull,
    Locations,
    Look,
    Operation,
    Outcome,
    Part,
    Prepare,
    PutSafetyStock,
    Read,
    Views,
)

Answer = Outcome | Exception
Sender = Callable[[Sequence[Operation]], Awaitable[Sequence[Answer]]]
"""Sends operations in one call and answers an outcome or an exception for each, in order."""

BULK_WEIGHT_MAX = 512
"""Positions of feeds in one call: some 10 ms, which is what a hold may have to wait for them."""
BUSY_TRIES_MAX = 100
"""Each try ends some 2,000 overdue holds; 200,000 at once at one position is more than any sale has."""
BEGINNING = (Hold, *get_args(Change), Look, Read, Views, Find, Locations, Admit)
"""What is refused while the queue is slow. Not what goes on with an operation that has begun, nor what feeds and the
keeper do: they come again by themselves."""
LOOKING = (Read, Views, Find, Locations)
CROWD_LEAST = 16
"""So many holds of one SKU are no crowd."""
ITEM_WEIGHT = 64
"""Positions that an item is taken to have when it is read at every location: the ledger cannot know before it looks."""


@dataclass(slots=True)
class Waiting:
    """An operation in the queue, and who waits for its outcome."""

    operation: Operation
    answer: "asyncio.Future[Outcome]"
    since_s: float
    tries: int = 0


def crowd_of(operation: Operation) -> str | None:
    """The SKU that a hold comes for: the first of its lines."""
    return operation.lines[0].sku if isinstance(operation, Hold) else None


class Queue:
    """Operations of one kind, first come, first sent."""

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self._crowds: Counter[str | None] | None = None
        """How many wait for each SKU: counted when somebody asks, and then kept until some are sent."""

    def put(self, waiting: Waiting) -> None:
        self.waiting.append(waiting)
        if self._crowds is not None:
            self._crowds[crowd_of(waiting.operation)] += 1

    def take(self) -> Waiting:
        """The first one."""
        self._crowds = None
        return self.waiting.popleft()

    def age_s(self, now_s: float) -> float:
        """How long the oldest has waited."""
        return now_s - self.waiting[0].since_s if self.waiting else 0.0

    def is_crowded_by(self, sku: str | None) -> bool:
        """Whether most of those who wait came for this SKU."""
        if self._crowds is None:
            self._crowds = Counter(crowd_of(waiting.operation) for waiting in self.waiting)
        return sku is not None and self._crowds[sku] >= max(CROWD_LEAST, len(self.waiting) / 2)


def weight(operation: Operation) -> int:
    """About how many positions the operation touches: what bounds the time of one call."""
    weigh = _WEIGHTS.get(type(operation))
    return 1 if weigh is None else weigh(operation)


def _weight_of_hold(hold: Hold) -> int:
    lines = hold.lines
    if len(lines) == 1:
        return 1 if lines[0].location is not None else ITEM_WEIGHT
    return sum(ITEM_WEIGHT if line.location is None else 1 for line in lines)


_WEIGHTS: dict[type, Callable[[Any], int]] = {
    Hold: _weight_of_hold,
    Prepare: lambda prepare: len(prepare.lines),
    Apply: lambda apply: len(apply.events),
    Count: lambda count: len(count.events),
    PutSafetyStock: lambda put: len(put.items),
    Part: lambda part: weight(part.operation),
    Read: lambda read: sum(ITEM_WEIGHT if item.locations is None else len(item.locations) for item in read.items),
    Views: lambda views: ITEM_WEIGHT if views.location is None else 1,
}
"""Of each kind that does not weigh 1."""


class Coalescer:
    """One shard's queues of operations and the task that empties them, batch by batch.

    Checkout goes first, in order of arrival; what only looks and feeds have queues of their own and a share of every
    call, so that neither a sale, nor those who watch it, nor a recount of the whole chain can starve the others.
    ``refused`` counts by their reasons those that were not taken.
    """

    def __init__(
        self,
        send: Sender,
        *,
        operations_max: int,
        weight_max: int,
        queue_operations_max: int,
        queue_wait_ms_max: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._operations_max = operations_max
        self._weight_max = weight_max
        self._queue_operations_max = queue_operations_max
        self._wait_s_max = queue_wait_ms_max / 1_000
        self._now_s = now_s
        self._checkout, self._looks, self._feeds = self._queues = Queue(), Queue(), Queue()
        self._queue_by_kind = dict.fromkeys(LOOKING, self._looks) | dict.fromkeys((Apply, Count), self._feeds)
        self._sending: asyncio.Task[None] | None = None
        self._closed = False
        self.turn = 0
        """Batches that have been taken out of the queues."""
        self.refused: Counter[str] = Counter()

    @property
    def depth(self) -> int:
        """Operations that wait for the next call."""
        return len(self._checkout.waiting) + len(self._looks.waiting) + len(self._feeds.waiting)

    @property
    def wait_s(self) -> float:
        """How long the oldest of them has waited."""
        now_s = self._now_s()
        return max(queue.age_s(now_s) for queue in self._queues)

    def submit(self, operation: Operation) -> "asyncio.Future[Outcome]":
        """Queues an operation. Raises Overloaded at once, and does nothing, when its queue is at a bound.

        Cancelling the future does not take the operation back: it may be on its way.
        """
        self._insist_on_room(1)
        queue, now_s = self._queue_of(operation), self._now_s()
        self._insist_on_pace(operation, queue, now_s)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        queue.put(Waiting(operation, answer, now_s))
        if self._sending is None:
            self._sending = asyncio.create_task(self._empty_queues())
        return answer

    def submit_all(self, operations: Sequence[Operation]) -> "list[asyncio.Future[Outcome]]":
        """Queues all of them or, with Overloaded, none."""
        self._insist_on_room(len(operations))
        now_s = self._now_s()
        for operation in operations:
            self._insist_on_pace(operation, self._queue_of(operation), now_s)
        loop = asyncio.get_running_loop()
        waiting = [Waiting(operation, loop.create_future(), now_s) for operation in operations]
        for each in waiting:
            self._queue_of(each.operation).put(each)
        if self._sending is None:
            self._sending = asyncio.create_task(self._empty_queues())
        return [each.answer for each in waiting]

    async def close(self) -> None:
        """Takes no more operations and waits until those queued are answered."""
        self._closed = True
        if self._sending is not None:
            await self._sending

    def _insist_on_room(self, operations: int) -> None:
        """Raises Overloaded when there is none for so many."""
        if self._closed:
            raise Overloaded("the ledger is closing")
        if self.depth + operations > self._queue_operations_max:
            self.refused["queue-full"] += 1
            raise Overloaded("too many operations wait for the ledger")

    def _insist_on_pace(self, operation: Operation, queue: Queue, now_s: float) -> None:
        """Raises Overloaded when it would wait for too long."""
        oldest = queue.waiting[0] if queue.waiting else None
        if oldest is not None and now_s - oldest.since_s > self._wait_s_max / 2:
            self._refuse_if_slow(operation, queue, now_s)

    def _queue_of(self, operation: Operation) -> Queue:
        return self._queue_by_kind.get(type(operation), self._checkout)

    def _refuse_if_slow(self, operation: Operation, queue: Queue, now_s: float) -> None:
        if not isinstance(operation, BEGINNING):
            return
        if queue.age_s(now_s) > self._wait_s_max:
            self.refused["queue-slow"] += 1
            raise Overloaded("operations wait too long for the ledger")
        if queue.is_crowded_by(crowd_of(operation)):
            self.refused["hot-sku"] += 1
            raise Overloaded("most of those who wait for the ledger want this SKU")

    def _next_batch(self) -> list[Waiting]:
        self.turn += 1
        batch: list[Waiting] = []
        self._take(self._checkout, batch, self._weight_max)
        self._take(self._looks, batch, self._weight_max)
        self._take(self._feeds, batch, BULK_WEIGHT_MAX)
        return batch

    def _take(self, queue: Queue, batch: list[Waiting], weight_max: int) -> None:
        """Moves operations from the queue to the batch; the first always, whatever its weight."""
        total = 0
        for taken in range(min(len(queue.waiting), self._operations_max)):
            total += weight(queue.waiting[0].operation)
            if total > weight_max and taken:
                break
            batch.append(queue.take())

    async def _empty_queues(self) -> None:
        try:
            while self.depth:
                batch = self._next_batch()
                answers = await self._send([waiting.operation for waiting in batch])
                for waiting, answer in zip(batch, answers, strict=True):
                    self._settle(waiting, answer)
        finally:
            self._sending = None

    def _settle(self, waiting: Waiting, answer: Answer) -> None:
        if waiting.answer.done():
            return  # its caller gave up; what was done stays done
        if isinstance(answer, Busy):
            # Not in the way of the others: they were answered, and what comes next goes in the same call.
            waiting.tries += 1
            if waiting.tries < BUSY_TRIES_MAX:
                waiting.since_s = self._now_s()
                self._queue_of(waiting.operation).put(waiting)
            else:
                waiting.answer.set_exception(Overloaded("many overdue holds are being ended first"))
        elif isinstance(answer, JournalFull):
            waiting.answer.set_exception(Overloaded("the journal is too far behind", retry_after_ms=5_000))
        elif isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)
