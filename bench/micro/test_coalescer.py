"""The queue before a shard, with a sender that answers at once: what it costs to wait together."""

import asyncio
from collections.abc import Sequence

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.shop import CLIENT
from ledger import Find, NotFound
from ledger.coalescer import Answer, Coalescer
from ledger.messages import Operation

OPERATIONS = 1_024


@pytest.mark.parametrize("operations_max", [1, 64, 256])
def test_submit(benchmark: BenchmarkFixture, runner: asyncio.Runner, operations_max: int) -> None:
    """1,024 operations in calls of so many."""
    answer, find = NotFound(), Find("id", CLIENT)

    async def send(operations: Sequence[Operation]) -> list[Answer]:
        return [answer] * len(operations)

    async def submit() -> int:
        coalescer = Coalescer(send, operations_max=operations_max, weight_max=4_096, queue_operations_max=OPERATIONS)
        waiting = [coalescer.submit(find) for _ in range(OPERATIONS)]
        return len([await each for each in waiting])

    benchmark.extra_info["operations"] = OPERATIONS
    assert benchmark(lambda: runner.run(submit())) == OPERATIONS
