"""Owns the process ``keeper``: ends overdue holds when nobody asks for their units.

Expiry itself needs no keeper: overdue units are free in the next decision. The keeper makes it visible (reservations,
events, journal) when there is no next decision.
"""

import asyncio
import logging
import signal
from typing import Protocol

from availability.settings import Settings
from ledger import Expire, Expired, Ledger, LedgerError

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
BACKOFF_MAX_S = 10.0


class Expiring(Protocol):
    """What the keeper needs of a ledger."""

    async def expire(self, expire: Expire, /) -> Expired: ...


async def run(settings: Settings) -> None:
    """Expire about once a second until SIGINT or SIGTERM; a ledger that cannot answer is asked more and more slowly."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    ledger = await Ledger.open(settings.redis_url, timeout_ms=settings.ledger_timeout_ms)
    try:
        await expire_until(stop, ledger)
    finally:
        await ledger.close()


async def expire_until(stop: asyncio.Event, ledger: Expiring, interval_s: float = INTERVAL_S) -> None:
    """End overdue holds, repeating at once while there are more."""
    pause_s = interval_s
    while not stop.is_set():
        try:
            expired = await ledger.expire(Expire())
        except LedgerError as error:
            pause_s = min(BACKOFF_MAX_S, 2 * pause_s)
            logger.warning("holds cannot be expired, next try in %.0f s: %s", pause_s, error)
        else:
            if expired.more:
                continue
            pause_s = interval_s
        await _pause(stop, pause_s)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
