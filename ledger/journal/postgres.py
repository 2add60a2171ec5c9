"""Owns how the journal reaches Postgres: connections with limits on every wait, locks, and what each error means."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg

CONNECT_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 30.0
LOCK_PAUSE_S = 0.25

logger = logging.getLogger(__name__)


class SchemaMissing(Exception):
    """The schema is not there yet, or older than this program, and this role may not change it."""


FAILED = (
    SchemaMissing,
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresError,
)
"""The server is away, full, restarting or not set up yet. Whether the last commit happened is unknown; asking again on
a new connection will tell."""

REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, TypeError, OverflowError)
"""A row cannot be stored, and never will be. Look for these before ``FAILED``, which has some of them too."""


Row = tuple[object, ...]

DERIVED = {"synchronous_commit": "off"}
"""For a session that writes only what can be made from the journal again, and its cursor with it.

It need not wait for the disk: what a power cut takes is the last of both."""


async def connect(postgres_url: str, settings: Mapping[str, str] = MappingProxyType({})) -> asyncpg.Connection:
    """A connection on which no wait is endless, with settings of its own; raises one of ``FAILED``."""
    return await asyncpg.connect(
        postgres_url,
        ssl=_tls_of(postgres_url),
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings={"application_name": "availability journal", **settings},
    )


def _tls_of(postgres_url: str) -> Literal["disable", "verify-full"]:
    """The ``sslmode`` of the URL; asyncpg's own default would try TLS without verifying, and then plain text."""
    [mode] = parse_qs(urlsplit(postgres_url).query).get("sslmode", ["disable"])
    if mode == "verify-full":
        return "verify-full"
    if mode == "disable":
        return "disable"
    raise asyncpg.ClientConfigurationError(f"sslmode={mode} may be plain text, or believe any server")


def arrays(rows: Iterable[Row]) -> list[tuple[object, ...]]:
    """The columns of some rows, of which there is at least one: what ``unnest`` makes the rows of again."""
    return list(zip(*rows, strict=True))


async def open_pool(postgres_url: str, size: int = 2) -> asyncpg.Pool:
    """Connections for short questions; the first is made when it is needed."""
    return await asyncpg.create_pool(
        postgres_url,
        ssl=_tls_of(postgres_url),
        min_size=0,
        max_size=size,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings={"application_name": "availability"},
    )


async def take_lock(connection: asyncpg.Connection, lock_class: int, shard: int) -> None:
    """Wait until no other session has this lock, then have it for as long as the session lives."""
    waited = False
    while True:
        if await connection.fetchval("select pg_try_advisory_lock($1, $2)", lock_class, shard):
            return
        if not waited:
            logger.info("another process has lock %x of shard %d; waiting for it to end", lock_class, shard)
            waited = True
        await asyncio.sleep(LOCK_PAUSE_S)


async def let_go(connection: asyncpg.Connection) -> None:
    """Close it, and with it its locks; safe after any failure."""
    try:
        await connection.close(timeout=2.0)
    except FAILED:
        connection.terminate()


def now_ms() -> int:
    """This machine's clock, for when the journaler met something; what the ledger did carries the ledger's own time."""
    return time.time_ns() // 1_000_000


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


class Closable(Protocol):
    async def close(self) -> None: ...


Opened = TypeVar("Opened", bound=Closable)


async def open_unless_stopped(opening: Coroutine[object, object, Opened], stopping: asyncio.Event) -> Opened | None:
    """What ``opening`` opens, which may wait long for a lock; None when told to stop before that."""
    opened = asyncio.create_task(opening)
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait((opened, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if opened.done():
        return await opened
    opened.cancel()
    with contextlib.suppress(asyncio.CancelledError, *FAILED):
        await (await opened).close()
    return None
