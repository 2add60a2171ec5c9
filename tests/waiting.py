"""Owns waiting in tests: for a condition, never for a time.

An error of the condition counts as "not yet", because what fails now may work in a moment; it is chained to the
failure when time is up.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

PAUSE_S = 0.01

Value = TypeVar("Value")


class _Attempt(Generic[Value]):
    """The last thing that a condition said, and until when it is asked."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.answer: Value | None = None
        self.error: Exception | None = None

    def give_up_when_late(self) -> None:
        if time.monotonic() > self.deadline:
            said = self.answer if self.error is None else self.error
            raise AssertionError(f"not within {self.timeout_s} s; it last said {said!r}") from self.error


async def wait_until(condition: Callable[[], Awaitable[Value]], timeout_s: float = 10.0) -> Value:
    """The first truthy answer of ``condition``; fails with its last answer, or error, after ``timeout_s``."""
    attempt = _Attempt[Value](timeout_s)
    while True:
        try:
            attempt.answer, attempt.error = await condition(), None
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            attempt.error = error
        else:
            if attempt.answer:
                return attempt.answer
        attempt.give_up_when_late()
        await asyncio.sleep(PAUSE_S)


def wait_until_plain(condition: Callable[[], Value], timeout_s: float = 10.0) -> Value:
    """``wait_until`` for a condition that is not async."""
    attempt = _Attempt[Value](timeout_s)
    while True:
        try:
            attempt.answer, attempt.error = condition(), None
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            attempt.error = error
        else:
            if attempt.answer:
                return attempt.answer
        attempt.give_up_when_late()
        time.sleep(PAUSE_S)
