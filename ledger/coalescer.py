"""Batches: operations that arrive while a call is under way go to the shard together in the next one.

Self-clocking: nothing under way = send at the end of this turn of the event loop; else when the answer lands. So a
batch is as large as the load makes it, and an idle ledger adds no wait.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.errors import Overloaded
from ledger.messages import (
    Apply,
    Busy,
    Count,
    Hold,
    JournalFull,
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
ITEM_WEIGHT = 64
"""Positions that an item is taken to have when it is read at every location: the ledger cannot know before it looks."""


@dataclass(slots=True)
class Waiting:
    """An operation in the queue, and who waits for its outcome."""

    operation: Operation
    answer: "asyncio.Future[Outcome]"
    tries: int = 0


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

    Checkout goes first, in order of arrival; feeds have a queue of their own and a share of every call, so that
    neither a sale nor a recount of the whole chain can starve the other.
    """

    def __init__(self, send: Sender, *, operations_max: int, weight_max: int, queue_operations_max: int) -> None:
        self._send = send
        self._operations_max = operations_max
        self._weight_max = weight_max
        self._queue_operations_max = queue_operations_max
        self._checkout: deque[Waiting] = deque()
        self._feeds: deque[Waiting] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False
        self.turn = 0
        """Batches that have been taken out of the queues."""

    @property
    def depth(self) -> int:
        """Operations that wait for the next call."""
        return len(self._checkout) + len(self._feeds)

    def submit(self, operation: Operation) -> "asyncio.Future[Outcome]":
        """Queues an operation. Raises Overloaded at once, and does nothing, when the queue is at its bound.

        Cancelling the future does not take the operation back: it may be on its way.
        """
        self._insist_on_room(1)
        waiting = Waiting(operation, asyncio.get_running_loop().create_future())
        self._queue_of(operation).append(waiting)
        if self._sending is None:
            self._sending = asyncio.create_task(self._empty_queues())
        return waiting.answer

    def submit_all(self, operations: Sequence[Operation]) -> "list[asyncio.Future[Outcome]]":
        """Queues all of them or, with Overloaded, none."""
        self._insist_on_room(len(operations))
        loop = asyncio.get_running_loop()
        waiting = [Waiting(operation, loop.create_future()) for operation in operations]
        for each in waiting:
            self._queue_of(each.operation).append(each)
        if self._sending is None:
            self._sending = asyncio.create_task(self._empty_queues())
        return [each.answer for each in waiting]

    async def close(self) -> None:
        """Takes no more operations and waits until those queued are answered."""
        self._closed = True
        if self._sending is not None:
            await self._sending

    def _insist_on_room(self, operations: int) -> None:
        if self._closed:
            raise Overloaded("the ledger is closing")
        if len(self._checkout) + len(self._feeds) + operations > self._queue_operations_max:
            raise Overloaded("too many operations wait for the ledger")

    def _queue_of(self, operation: Operation) -> deque[Waiting]:
        return self._feeds if isinstance(operation, (Apply, Count)) else self._checkout

    def _next_batch(self) -> list[Waiting]:
        self.turn += 1
        batch: list[Waiting] = []
        self._take(self._checkout, batch, self._operations_max, self._weight_max)
        self._take(self._feeds, batch, self._operations_max + len(batch), BULK_WEIGHT_MAX)
        return batch

    def _take(self, queue: deque[Waiting], batch: list[Waiting], operations_max: int, weight_max: int) -> None:
        """Moves operations from the queue to the batch; the first always, whatever its weight."""
        total, first = 0, True
        while queue and len(batch) < operations_max:
            total += weight(queue[0].operation)
            if total > weight_max and not first:
                break
            batch.append(queue.popleft())
            first = False

    async def _empty_queues(self) -> None:
        try:
            while self._checkout or self._feeds:
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
                self._queue_of(waiting.operation).append(waiting)
            else:
                waiting.answer.set_exception(Overloaded("many overdue holds are being ended first"))
        elif isinstance(answer, JournalFull):
            waiting.answer.set_exception(Overloaded("the journal is too far behind", retry_after_ms=5_000))
        elif isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)
