"""Owns what a new version needs on the servers before its processes can work there, whose own users may not do it."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from availability import access
from availability.settings import Settings
from ledger import JOURNAL_FAILED, KEYSPACE_FAILED, ROLES, ChangedMigration, deploy_library, make_roles, migrate

FAILED = (*JOURNAL_FAILED, *KEYSPACE_FAILED, ChangedMigration)
RETRY_FIRST_S, RETRY_LAST_S = 0.05, 2.0


async def library_loaded(settings: Settings) -> str:
    """Load the ledger's library where it is missing, and say so. Raises one of ``FAILED``."""
    loaded = await deploy_library(settings.redis_url)
    return f"the ledger's library: loaded into {loaded} servers" if loaded else "the ledger's library: there already"


async def schema_migrated(settings: Settings) -> str:
    """Bring the journal's schema up to date, and say so. Raises one of ``FAILED``."""
    applied = await migrate(settings.postgres_url)
    return f"the journal's schema: new up to {applied[-1]}" if applied else "the journal's schema: up to date"


async def roles_made(settings: Settings) -> str:
    """Make the roles of an embedded Postgres, each with its password, and say so. Raises one of ``FAILED``."""
    url = settings.postgres_url
    users = {role: role.removeprefix(f"{access.OWNER}_") for role in ROLES}
    passwords = {role: urlsplit(access.as_user(url, user)).password or "" for role, user in users.items()}
    await make_roles(url, passwords)
    return f"the roles of Postgres: {len(ROLES)}"


STEPS: tuple[Callable[[Settings], Awaitable[str]], ...] = (library_loaded, schema_migrated)


async def keep_deployed(settings: Settings, due: asyncio.Event, *, own_postgres: bool) -> None:
    """Do every step whenever ``due`` is set, as often as it takes, until cancelled: servers may come back with less."""
    of_postgres = (roles_made, schema_migrated) if own_postgres else (schema_migrated,)
    while True:
        await due.wait()
        due.clear()
        await asyncio.gather(_until_done(settings, library_loaded), _until_done(settings, *of_postgres))


async def _until_done(settings: Settings, *steps: Callable[[Settings], Awaitable[str]]) -> None:
    for step in steps:
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await step(settings)
                break
            except FAILED:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_LAST_S)
