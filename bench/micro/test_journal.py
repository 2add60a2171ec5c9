"""The journal: an entry of 64 holds read, and a second's worth of them stored in Postgres."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.shop import BATCH, Shop
from ledger import JournalWriter
from ledger.journal.records import GENESIS, RawEntry, prepare
from ledger.journal.stream import JournalStream

ENTRIES = 32
"""In one write, each of 64 holds."""
ROUNDS, WARM = 20, 2


class Journal:
    """The stream of a shop's ledger, and a writer that is where the stream is."""

    def __init__(self, runner: asyncio.Runner, shop: Shop, valkey_url: str, postgres_url: str) -> None:
        self._run, self._shop = runner.run, shop
        self.stream = JournalStream(valkey_url, 0)
        self.writer: JournalWriter = self._run(JournalWriter.open(postgres_url, 0))
        self.new()

    def new(self) -> list[RawEntry]:
        """What was not read yet."""
        found: list[RawEntry] = []
        while more := self._run(self.stream.read(block_ms=1)):
            found += more
        return found

    def entries(self, count: int) -> list[RawEntry]:
        """Entries of a batch of holds each."""
        for _ in range(count):
            self._run(self._shop.held())
        made = self.new()
        assert len(made) == count
        return made

    def close(self) -> None:
        self._run(self.stream.close())
        self._run(self.writer.close())


@pytest.fixture
def journal(runner: asyncio.Runner, shop: Shop, valkey_url: str, postgres_url: str) -> Iterator[Journal]:
    journal = Journal(runner, shop, valkey_url, postgres_url)
    yield journal
    journal.close()


def test_entry_to_rows(benchmark: BenchmarkFixture, journal: Journal) -> None:
    [entry] = journal.entries(1)
    made = benchmark(prepare, 0, GENESIS, entry, 0)
    assert made.reject is None
    assert len(made.movements) == BATCH


def test_entries_into_postgres(benchmark: BenchmarkFixture, runner: asyncio.Runner, journal: Journal) -> None:
    """32 entries of 64 holds each, in one transaction."""

    def setup() -> tuple[tuple[list[RawEntry]], dict[str, object]]:
        return (journal.entries(ENTRIES),), {}

    benchmark.extra_info["operations"] = ENTRIES * BATCH
    written = cast(Any, benchmark).pedantic(
        lambda entries: runner.run(journal.writer.write(entries)), setup=setup, rounds=ROUNDS, warmup_rounds=WARM
    )
    assert written.movements == ENTRIES * BATCH
