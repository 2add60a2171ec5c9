"""Owns the short form of ``make fuzz``: thousands of broken messages, and the intake loses none of them (P8)."""

import asyncio
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from fuzz.messages import HARD, Judge, corpus, headers_of, mutated

MESSAGES = 3_000
MEMORY_OF_BYTES = 64
"""How many times a message's own size reading it may take, beside what a small one takes."""


@pytest.fixture
def judge() -> Iterator[Judge]:
    with asyncio.Runner() as runner:
        yield Judge(runner)


def test_no_broken_message_is_lost_or_raises(judge: Judge) -> None:
    """P8."""
    chance, seeds = random.Random(20), corpus()  # noqa: S311 - the same messages each time
    numbers = {
        judge.judge(mutated(chance, seeds), headers_of(chance.randrange(8), mutated(chance, seeds).decode("latin-1")))
        for _ in range(MESSAGES)
    }
    assert {0, 1, 2, 4} <= numbers


@pytest.mark.parametrize("choice", range(8))
def test_good_and_foreign_messages_are_not_lost_either(judge: Judge, choice: int) -> None:
    for body in corpus():
        judge.judge(body, headers_of(choice, "\0é%00%ff%ed%a0%80"))
    for text in HARD:
        judge.judge(corpus()[0], headers_of(choice, text.decode("latin-1")))


@pytest.mark.parametrize("part", [*HARD, b"{", b'"', b"9", b" ", b'{"id":"x"},'])
def test_memory_is_bounded_by_the_size_of_the_message(judge: Judge, part: bytes) -> None:
    """However deep, long or broken: 256 KB of it, alone, in a list and as an event's field."""
    filling = part * (262_144 // len(part))
    judge.judge(b"[]", None)
    for body in (filling, b"[" + filling + b"7]", b'[{"id":' + filling + b"}]", b'{"specversion":' + filling):
        tracemalloc.start()
        try:
            judge.judge(body, None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MEMORY_OF_BYTES * len(body), part[:20]
