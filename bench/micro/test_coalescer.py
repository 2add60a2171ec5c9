"""The door and the queue behind it, with a shard that answers at once: what it costs to wait together."""

import asyncio
from collections.abc import Sequence

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.shop import CLIENT
from ledger import Find, Ledger, NotFound, Operation
from ledger.coalescer import Answer
from ledger.shard import Shard

OPERATIONS = 1_024


@pytest.mark.parametrize("operations_max", [1, 64, 256])
def test_queue(
    benchmark: BenchmarkFixture, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, operations_max: int
) -> None:
    """1,024 operations, each of a task of its own as requests are, in calls of so many."""
    answer, find = NotFound(), Find("id", CLIENT)

    async def send(_shard: Shard, operations: Sequence[Operation]) -> list[Answer]:
        return [answer] * len(operations)

    monkeypatch.setattr(Shard, "send", send)

    async def ask() -> int:
        ledger = Ledger("redis://nowhere", operations_max=operations_max)
        return len(await asyncio.gather(*(ledger.find(find) for _ in range(OPERATIONS))))

    benchmark.extra_info["operations"] = OPERATIONS
    assert benchmark(lambda: runner.run(ask())) == OPERATIONS
