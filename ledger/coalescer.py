"""Batches: operations that arrive while a call is under way go to the shard together in the next one.

Self-clocking: nothing under way = send at the end of this turn of the event loop; else when the answer lands. So a
batch is as large as the load makes it, and an idle ledger adds no wait.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from ledger.errors import Overloaded
from ledger.messages import Apply, Count, Hold, Operation, Outcome, Read

Answer = Outcome | Exception
Sender = Callable[[Sequence[Operation]], Awaitable[Sequence[Answer]]]
"""Sends operations in one call and answers an outcome or an exception for each, in order; never raises."""


class Waiting(NamedTuple):
    """An operation in the queue, and who waits for its outcome."""

    operation: Operation
    answer: "asyncio.Future[Outcome]"


ITEM_WEIGHT = 64
"""Positions that an item is taken to have when it is read at every location: the ledger cannot know before it looks."""


def weight(operation: Operation) -> int:
    """About how many positions the operation touches: what bounds the time of one call."""
    match operation:
        case Hold(lines=things) | Apply(events=things) | Count(events=things):
            return len(things)
        case Read(items=items):
            return sum(ITEM_WEIGHT if item.locations is None else len(item.locations) for item in items)
        case _:
            return 1


class Coalescer:
    """One shard's queue of operations and the task that empties it, batch by batch."""

    def __init__(self, send: Sender, *, operations_max: int, weight_max: int, queue_operations_max: int) -> None:
        self._send = send
        self._operations_max = operations_max
        self._weight_max = weight_max
        self._queue_operations_max = queue_operations_max
        self._queue: deque[Waiting] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def depth(self) -> int:
        """Operations that wait for the next call."""
        return len(self._queue)

    def submit(self, operation: Operation) -> "asyncio.Future[Outcome]":
        """Queues an operation. Raises Overloaded at once, and does nothing, when the queue is at its bound.

        Cancelling the future does not take the operation back: it may be on its way.
        """
        return self.submit_all([operation])[0]

    def submit_all(self, operations: Sequence[Operation]) -> "list[asyncio.Future[Outcome]]":
        """Queues all of them or, with Overloaded, none."""
        if self._closed:
            raise Overloaded("the ledger is closing")
        if len(self._queue) + len(operations) > self._queue_operations_max:
            raise Overloaded("too many operations wait for the ledger")
        loop = asyncio.get_running_loop()
        waiting = [Waiting(operation, loop.create_future()) for operation in operations]
        self._queue.extend(waiting)
        if self._sending is None:
            self._sending = asyncio.create_task(self._empty_queue())
        return [each.answer for each in waiting]

    async def close(self) -> None:
        """Takes no more operations and waits until those queued are answered."""
        self._closed = True
        if self._sending is not None:
            await self._sending

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        total = 0
        while self._queue and len(batch) < self._operations_max:
            total += weight(self._queue[0].operation)
            if batch and total > self._weight_max:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _empty_queue(self) -> None:
        while self._queue:
            batch = self._next_batch()
            outcomes = await self._send([waiting.operation for waiting in batch])
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if waiting.answer.done():
                    continue  # its caller gave up; what was done stays done
                if isinstance(outcome, Exception):
                    waiting.answer.set_exception(outcome)
                else:
                    waiting.answer.set_result(outcome)
        self._sending = None
