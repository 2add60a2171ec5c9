"""Owns what a failover says to the two servers: whether one answers, whether it is fit, and to be the primary now."""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from ledger.placement import connected
from ledger.valkey_checks import SAYS_CLUSTER, ask_durability, durability_findings

ANSWER_S = 3.0
"""A primary that says nothing for so long is taken for stopped; the operator has to know that it is."""


async def answers(url: str) -> bool:
    """Whether a server is there, in whatever state."""
    async with _client(url) as client:
        try:
            async with asyncio.timeout(ANSWER_S):
                await client.ping()
        except (ResponseError, BusyLoadingError):
            return True
        except (RedisError, OSError, TimeoutError):
            return False
    return True


async def is_same(url: str, other_url: str) -> bool:
    """Whether both name one server. Raises RedisError or OSError."""
    runs = []
    for each in (url, other_url):
        async with _client(each) as client:
            runs.append((await client.info("server"))["run_id"])
    return len(set(runs)) == 1


async def is_primary(url: str) -> bool:
    """Whether it copies nobody, as after ``promote``. Raises RedisError or OSError."""
    async with _client(url) as client:
        return str((await client.info("replication"))["role"]) == "master"


async def unfit(url: str) -> list[str]:
    """Why the server must not be promoted, so that processes would refuse it after. Raises RedisError or OSError."""
    async with connected(url, ANSWER_S) as connection:
        told = await ask_durability(connection)
    flaws = [str(finding) for finding in durability_findings("the replica", told) if finding.stops]
    if told.info.get("cluster_enabled") == SAYS_CLUSTER:
        flaws.append("it is in a cluster: CLUSTER FAILOVER TAKEOVER there, and `availability rebuild` after it")
    return flaws


async def promote(url: str) -> bool:
    """Make it a primary; False when its configuration still says otherwise. Raises RedisError or OSError."""
    async with _client(url) as client:
        await client.replicaof("NO", "ONE")
        try:
            await client.config_rewrite()
        except ResponseError:  # it has no file, or we may not
            return False
    return True


def _client(url: str) -> Redis:
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S)
