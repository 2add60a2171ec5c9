"""Where a shard is: its server's URL, which in a Valkey Cluster may be another one after each move of a slot."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from ledger.errors import Unavailable
from ledger.keys import shard_key


def server_urls(redis_url: str) -> list[str]:
    """The servers that ``redis_url`` names: one URL, or several with commas between them."""
    return re.split(r",\s*(?=(?:redis|rediss|unix)://)", redis_url)


def url_of(url: str, host: str, port: int) -> str:
    """The URL of another server that takes the same user, TLS and options as the one of ``url``."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}{f'[{host}]' if ':' in host else host}:{port}").geturl()


def connection_to(url: str, name: str | None = None) -> AbstractConnection:
    """Not connected yet, and without retries and timeouts of its own: each use has a deadline.

    ``name`` is what the server lists it by.
    """
    options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "socket_timeout": None, "protocol": 2}
    pool = Redis.from_url(url, client_name=name, **options).connection_pool
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


@asynccontextmanager
async def connected(url: str, timeout_s: float) -> AsyncIterator[AbstractConnection]:
    """A connection for as long as the block lasts, which must end within ``timeout_s``.

    Raises RedisError, OSError or TimeoutError.
    """
    connection = connection_to(url)
    try:
        async with asyncio.timeout(timeout_s):
            await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
    finally:
        await connection.disconnect(nowait=True)


async def command(connection: AbstractConnection, *words: Any) -> Any:
    """What the server answers. Raises RedisError, among them its refusal, or OSError."""
    await connection.send_command(*words)
    return await connection.read_response()


async def server_ms(connection: AbstractConnection) -> int:
    """The server's clock."""
    seconds, microseconds = await command(connection, "TIME")
    return int(seconds) * 1_000 + int(microseconds) // 1_000


async def primaries(redis_url: str, timeout_s: float) -> list[str]:
    """The server that ``redis_url`` names, or every primary of its cluster, those without slots too.

    Raises RedisError, OSError or TimeoutError.
    """
    failures: list[Exception] = []
    for url in server_urls(redis_url):
        try:
            async with connected(url, timeout_s) as connection:
                if not await in_cluster(connection):
                    return [url]
                nodes = (await command(connection, "CLUSTER", "NODES")).decode().splitlines()
        except (RedisError, OSError, TimeoutError) as failure:
            failures.append(failure)
        else:
            return [node_url(fields[1], url) for fields in map(str.split, nodes) if _is_primary(fields[2])]
    raise failures[-1]


def node_url(told: str, url: str) -> str:
    """The URL of a node from ``host:port@bus``, as CLUSTER NODES tells it; without a host it is the one asked."""
    host, _, port = told.partition("@")[0].rpartition(":")
    return url_of(url, host or urlsplit(url).hostname or "", int(port))


def _is_primary(flags: str) -> bool:
    return "master" in flags and not {"noaddr", "fail", "handshake"} & set(flags.split(","))


async def in_cluster(connection: AbstractConnection) -> bool:
    """Whether its server is in one."""
    return b"cluster_enabled:1" in await command(connection, "INFO", "cluster")


class Placement:
    """Where one shard is, asked anew for each connection; who had it last knows best where it went."""

    def __init__(self, redis_url: str, shard: int, timeout_s: float) -> None:
        """``redis_url``: the one server, or any servers of a cluster; ``timeout_s`` is for all of them together."""
        self._given = server_urls(redis_url)
        self._shard = shard
        self._slot = key_slot(shard_key(shard).encode())
        self._timeout_s = timeout_s
        self._last = self._given[0]

    async def url(self) -> str:
        """The server that has the shard. Raises Unavailable, RedisError, OSError or TimeoutError."""
        asked = list(dict.fromkeys([self._last, *self._given]))
        failures: list[Exception] = []
        for url in asked:
            try:
                self._last = await self._told_by(url, self._timeout_s / len(asked))
            except (RedisError, OSError, TimeoutError) as failure:
                failures.append(failure)
            else:
                return self._last
        raise failures[-1]

    async def _told_by(self, url: str, timeout_s: float) -> str:
        """Who has the shard, as this server tells it."""
        async with connected(url, timeout_s) as connection:
            if not await in_cluster(connection):
                if len(self._given) > 1:
                    raise Unavailable("redis_url names several servers, and one of them is in no cluster")
                return url
            ranges = await command(connection, "CLUSTER", "SLOTS")
        for first, last, (host, port, *_), *_ in ranges:
            if first <= self._slot <= last:
                return url_of(url, host.decode() if host else urlsplit(url).hostname or "", port)
        raise Unavailable(f"no server of the cluster has slot {self._slot}, where shard {self._shard} is")
