"""Owns what a new version needs on the servers before its processes can work there, whose own users may not do it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from availability.settings import Settings
from ledger import JOURNAL_FAILED, KEYSPACE_FAILED, ChangedMigration, deploy_library, migrate

FAILED = (*JOURNAL_FAILED, *KEYSPACE_FAILED, ChangedMigration)
RETRY_FIRST_S, RETRY_LAST_S = 0.05, 2.0

logger = logging.getLogger(__name__)


async def library_loaded(settings: Settings) -> str:
    """Load the ledger's library where it is missing, and say so. Raises one of ``FAILED``."""
    loaded = await deploy_library(settings.redis_url)
    return f"the ledger's library: loaded into {loaded} servers" if loaded else "the ledger's library: there already"


async def schema_migrated(settings: Settings) -> str:
    """Bring the journal's schema up to date, and say so. Raises one of ``FAILED``."""
    applied = await migrate(settings.postgres_url)
    return f"the journal's schema: new up to {applied[-1]}" if applied else "the journal's schema: up to date"


STEPS: tuple[Callable[[Settings], Awaitable[str]], ...] = (library_loaded, schema_migrated)


async def keep_deployed(settings: Settings, due: asyncio.Event) -> None:
    """Do every step whenever ``due`` is set, as often as it takes, until cancelled: servers may come back with less."""
    while True:
        await due.wait()
        due.clear()
        await asyncio.gather(*(_until_done(step, settings) for step in STEPS))


async def _until_done(step: Callable[[Settings], Awaitable[str]], settings: Settings) -> None:
    pause_s = RETRY_FIRST_S
    while True:
        try:
            await step(settings)
        except FAILED:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)
        else:
            return
