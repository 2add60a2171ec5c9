"""Owns how the journal's work outlives every outage: begun again after each failure, less and less often."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ledger.journal.postgres import wait_at_most

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_LAST_S: Final = 5.0

logger = logging.getLogger(__name__)


async def endure(
    what: str,
    work: Callable[[], Awaitable[None]],
    failures: tuple[type[Exception], ...],
    stopping: asyncio.Event,
) -> None:
    """Do ``work`` again and again until ``stopping``, also when it fails by one of ``failures``, alone or in a group.

    ``what`` it is says the log: "shard 0: journaling". What worked for a while is soon begun again.
    """
    clock = asyncio.get_running_loop().time
    pause_s = BACKOFF_FIRST_S
    while not stopping.is_set():
        began_s = clock()
        try:
            await work()
        except* failures as failed:
            if clock() - began_s > BACKOFF_LAST_S:
                pause_s = BACKOFF_FIRST_S
            error = _first(failed)
            logger.warning("%s stopped (%s: %s), again in %.1f s", what, type(error).__name__, error, pause_s)
            await wait_at_most(stopping, pause_s)
            pause_s = min(2 * pause_s, BACKOFF_LAST_S)


def _first(failures: BaseExceptionGroup[Exception]) -> BaseException:
    """One of the failures that came together; they have the same cause."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
