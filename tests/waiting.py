"""Owns waiting in tests: for a condition, never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

PAUSE_S = 0.01

Value = TypeVar("Value")


async def wait_until(condition: Callable[[], Awaitable[Value]], timeout_s: float = 10.0) -> Value:
    """The first truthy answer of ``condition``; fails with its last answer, or error, after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        error: Exception | None = None
        try:
            if answer := await condition():
                return answer
            said = repr(answer)
        except Exception as failure:  # noqa: BLE001 - whatever fails now may work in a moment
            error, said = failure, repr(failure)
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; it last said {said}") from error
        await asyncio.sleep(PAUSE_S)


def wait_until_plain(condition: Callable[[], Value], timeout_s: float = 10.0) -> Value:
    """``wait_until`` for tests and conditions that are not async."""

    async def answer() -> Value:
        return condition()

    return asyncio.run(wait_until(answer, timeout_s))
