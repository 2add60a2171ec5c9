"""Owns the process ``keeper``: ends overdue holds when nobody asks for their units, and what was left half done.

Beside that it audits the ledger all the time (``auditor.py``).

Expiry itself needs no keeper: overdue units are free in the next decision. The keeper makes it visible (reservations,
events, journal) when there is no next decision. What a coordinator of several shards left behind when it died is
finished by the same call (``Ledger.expire``): the ten seconds that it may block units for rest on the keeper.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from availability.auditor import AuditFigures, Auditor
from availability.journal_watch import watched_ledger
from availability.processes import figures_shown, pause, stop_event
from availability.settings import Settings
from ledger import Expire, Expired, LedgerError

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
BACKOFF_MAX_S = 5.0


class Expiring(Protocol):
    """What the keeper needs of a ledger."""

    async def expire(self, expire: Expire, /) -> Expired: ...


async def run(settings: Settings) -> None:
    """Expire about once a second until SIGINT or SIGTERM; a ledger that cannot answer is asked more and more slowly."""
    registry = CollectorRegistry()
    expired = Counter("availability_keeper_expired", "Reservations that lost overdue units", registry=registry)
    auditor = Auditor(settings, AuditFigures(registry))
    with stop_event() as stop, figures_shown(registry, settings):
        auditing = asyncio.create_task(asyncio.to_thread(auditor.run))
        auditing.add_done_callback(lambda _: stop.set())  # it ends before it is told to only by a failure of ours
        try:
            async with watched_ledger(settings) as ledger:
                await expire_until(stop, ledger, count=expired.inc)
        finally:
            auditor.stop()
            await auditing


async def expire_until(
    stop: asyncio.Event,
    ledger: Expiring,
    *,
    interval_s: float = INTERVAL_S,
    count: Callable[[float], None] = lambda _reservations: None,
) -> None:
    """End overdue holds, repeating at once while there are more; ``count`` is told how many each time."""
    pause_s = interval_s
    while not stop.is_set():
        try:
            expired = await ledger.expire(Expire())
        except LedgerError as error:
            pause_s = min(BACKOFF_MAX_S, 2 * pause_s)
            logger.warning("holds cannot be expired, or operations finished, next try in %.0f s: %s", pause_s, error)
        else:
            count(expired.reservations)
            if expired.more:
                continue
            pause_s = interval_s
        await pause(stop, pause_s)
