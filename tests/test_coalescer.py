"""The queue before a shard: what it sends together, what it refuses, and whom a failure concerns."""

import asyncio
from collections.abc import Sequence

import pytest

from ledger import messages as m
from ledger.coalescer import Answer, Coalescer
from ledger.errors import Overloaded, Unknown

pytestmark = pytest.mark.anyio

OUTCOME = m.NotFound()


class Server:
    """Answers when told to, and remembers the size of each batch."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.kinds: list[list[str]] = []
        self.answer: Answer = OUTCOME
        self.busy_times = 0

    async def send(self, operations: Sequence[m.Operation]) -> list[Answer]:
        self.batches.append(len(operations))
        self.kinds.append([type(operation).__name__ for operation in operations])
        await self.gate.wait()
        answers: list[Answer] = [self.answer] * len(operations)
        if self.busy_times:
            self.busy_times -= 1
            answers[0] = m.Busy()
        return answers


def coalescer(server: Server, *, operations_max: int = 4, weight_max: int = 100, queue: int = 10) -> Coalescer:
    return Coalescer(
        server.send,
        operations_max=operations_max,
        weight_max=weight_max,
        queue_operations_max=queue,
        queue_wait_ms_max=100,
        now_s=lambda: server.now_s,
    )


def find() -> m.Find:
    return m.Find("id", "client")


async def test_operations_of_one_turn_go_together() -> None:
    server = Server()
    queue = coalescer(server)
    await asyncio.gather(*(queue.submit(find()) for _ in range(3)))

    assert server.batches == [3]


async def test_a_turn_ends_when_its_operations_leave_not_when_they_are_answered() -> None:
    """While the turn is the same, what was asked has not been sent: others may share its answer."""
    server = Server()
    server.gate.clear()
    queue = coalescer(server)
    turn = queue.turn
    waiting = queue.submit(find())
    assert queue.turn == turn
    await asyncio.sleep(0)
    assert (queue.turn, waiting.done()) == (turn + 1, False)
    server.gate.set()
    await waiting


async def test_operations_that_come_during_a_call_go_in_the_next() -> None:
    server = Server()
    server.gate.clear()
    queue = coalescer(server)
    first = queue.submit(find())
    await asyncio.sleep(0)
    later = [queue.submit(find()) for _ in range(6)]
    server.gate.set()
    await asyncio.gather(first, *later)

    assert server.batches == [1, 4, 2]


async def test_a_heavy_operation_does_not_share_its_call() -> None:
    server = Server()
    queue = coalescer(server, weight_max=100)
    heavy = m.Read([m.ReadItem("A")] * 2)
    await asyncio.gather(queue.submit(find()), queue.submit(heavy), queue.submit(find()))

    assert server.batches == [1, 1, 1]


async def stuck(queue: Coalescer, server: Server, *operations: m.Operation) -> "list[asyncio.Future[m.Outcome]]":
    """The answers to come of operations that wait for a call that does not end."""
    server.gate.clear()
    waiting = [queue.submit(find())]
    await asyncio.sleep(0)
    return waiting + [queue.submit(operation) for operation in operations]


def hold(sku: str) -> m.Hold:
    return m.Hold("id", "call:hold", "client", [m.HoldLine(sku, 1)], 1_000)


async def test_a_slow_queue_refuses_at_once_what_begins_and_takes_what_goes_on() -> None:
    """P4: what is refused was never sent. What other shards have claimed for is finished, feeds go on."""
    server = Server()
    queue = coalescer(server)
    waiting = await stuck(queue, server, hold("A"))
    server.now_s = 0.11
    for operation in (hold("B"), m.Look("id", "client", "id", "token"), m.Commit("id", "f", "client", "r", "order")):
        with pytest.raises(Overloaded) as refused:
            queue.submit(operation)
        assert refused.value.retry_after_ms == 1_000
    waiting.append(queue.submit(m.Finish("id", "id", "token")))
    waiting.append(queue.submit(m.Apply("feed", [])))
    server.gate.set()
    await asyncio.gather(*waiting)

    assert server.kinds == [["Find"], ["Hold", "Finish", "Apply"]]
    assert (queue.refused, queue.wait_s) == ({"queue-slow": 3}, 0.0)
    await queue.submit(hold("B"))  # and it is as before


async def test_who_looks_and_who_holds_do_not_refuse_each_other() -> None:
    server = Server()
    queue = coalescer(server)
    waiting = await stuck(queue, server, *[m.Read([])] * 6)
    server.now_s = 0.11
    waiting.append(queue.submit(hold("A")))
    with pytest.raises(Overloaded):
        queue.submit(m.Read([]))
    server.gate.set()
    await asyncio.gather(*waiting)

    assert server.kinds == [["Find"], ["Hold"] + ["Read"] * 4, ["Read"] * 2]


async def test_a_sku_that_everybody_wants_leaves_the_others_room() -> None:
    """The hot one is refused before the queue is slow, so that it does not become slow for the others."""
    server = Server()
    queue = coalescer(server, operations_max=200, queue=200)
    waiting = await stuck(queue, server, *[hold("hot")] * 30, *[hold("other")] * 15)
    server.now_s = 0.06
    with pytest.raises(Overloaded, match="this SKU"):
        queue.submit(hold("hot"))
    waiting += [queue.submit(hold("other")), queue.submit(hold("third")), queue.submit(m.Release("i", "f", "c", "r"))]
    with pytest.raises(Overloaded, match="this SKU"):  # noqa: PT012 - another one becomes as wanted
        while True:
            waiting.append(queue.submit(hold("rising")))
    server.gate.set()
    await asyncio.gather(*waiting)

    assert sum(server.batches) == 1 + 30 + 15 + 3 + 48
    assert queue.refused == {"hot-sku": 2}
    await stuck(queue, server, *[hold("few")] * 15)
    server.now_s = 0.15
    queue.submit(hold("few"))  # so few are no crowd
    server.gate.set()
    await queue.close()


async def test_feeds_never_keep_checkout_waiting_nor_starve() -> None:
    """A share of every call is theirs, whatever stands in either queue."""
    server = Server()
    queue = coalescer(server, operations_max=4, queue=100)
    event = m.StockEvent("k", "wms", "1", "delta", "A", "S1", 1, 0)
    feeds = [queue.submit(m.Apply("feed", [event] * 256)) for _ in range(4)]
    verbs = [queue.submit(m.Release("id", "f", "client", "r")) for _ in range(6)]
    await asyncio.gather(*feeds, *verbs)

    assert server.kinds == [["Release"] * 4 + ["Apply"] * 2, ["Release"] * 2 + ["Apply"] * 2]


async def test_a_busy_operation_is_asked_again_and_its_neighbours_are_answered() -> None:
    """P5: overdue holds of one SKU are not in the way of another's."""
    server = Server()
    server.busy_times = 2
    queue = coalescer(server)
    busy, neighbour = queue.submit(find()), queue.submit(find())
    order: list[str] = []
    busy.add_done_callback(lambda _: order.append("busy"))
    neighbour.add_done_callback(lambda _: order.append("neighbour"))
    assert list(await asyncio.gather(busy, neighbour)) == [OUTCOME, OUTCOME]

    assert order == ["neighbour", "busy"]
    assert server.batches == [2, 1, 1]


async def test_a_queue_goes_on_after_its_sender_broke() -> None:
    server = Server()
    queue = coalescer(server)
    server.answer = RuntimeError("unforeseen")
    with pytest.raises(RuntimeError):
        await queue.submit(find())
    server.answer = OUTCOME

    assert await queue.submit(find()) == OUTCOME


async def test_a_full_queue_takes_all_portions_or_none() -> None:
    """P4: a refusal means that nothing was done."""
    server = Server()
    queue = coalescer(server, queue=3)
    with pytest.raises(Overloaded):
        queue.submit_all([find()] * 4)

    assert queue.depth == 0
    assert await asyncio.gather(*queue.submit_all([find()] * 3)) == [OUTCOME] * 3


async def test_a_failure_reaches_every_caller_of_the_batch_and_no_other() -> None:
    server = Server()
    server.answer = Unknown("lost")
    queue = coalescer(server)
    outcomes = await asyncio.gather(*(queue.submit(find()) for _ in range(2)), return_exceptions=True)
    server.answer = OUTCOME

    assert [type(outcome) for outcome in outcomes] == [Unknown, Unknown]
    assert await queue.submit(find()) == OUTCOME


async def test_a_caller_that_gave_up_does_not_disturb_the_others() -> None:
    server = Server()
    server.gate.clear()
    queue = coalescer(server)
    gone, stays = queue.submit(find()), queue.submit(find())
    await asyncio.sleep(0)
    gone.cancel()
    server.gate.set()

    assert await stays == OUTCOME


async def test_closing_answers_what_is_queued_and_takes_no_more() -> None:
    server = Server()
    queue = coalescer(server)
    answer = queue.submit(find())
    await queue.close()

    assert answer.result() == OUTCOME
    with pytest.raises(Overloaded):
        queue.submit(find())
