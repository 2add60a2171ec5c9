"""The embedded servers start, keep what they were given, and never share a folder."""

import asyncio
from pathlib import Path

import asyncpg
import nats
import pytest
from redis.asyncio import Redis
from servers import RunningServer, running, valkey

pytestmark = pytest.mark.anyio


# Written out once more: compared with the table that sets them, they would agree with any mistake in it.
VALKEY = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": "",
}
POSTGRES = {
    "fsync": "on",
    "restart_after_crash": "off",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "data_checksums": "on",
}


async def test_valkey_is_set_to_lose_nothing(valkey_url: str) -> None:
    """P2."""
    async with Redis.from_url(valkey_url, decode_responses=True) as client:
        said = {name: (await client.config_get(name))[name] for name in VALKEY}
    assert said == VALKEY


async def test_nats_has_jetstream(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    await client.jetstream().add_stream(name="PROBE", subjects=["probe"])
    assert (await client.jetstream().publish("probe", b"")).seq == 1
    await client.close()


async def test_postgres_is_set_to_lose_nothing(postgres_url: str) -> None:
    """P7."""
    connection = await asyncpg.connect(postgres_url)
    said = {name: await connection.fetchval(f"SHOW {name}") for name in POSTGRES}
    await connection.close()
    assert said == POSTGRES


async def test_postgres_keeps_strangers_out(postgres_server: RunningServer) -> None:
    """P10."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.url.replace("of-the-tests", "wrong"))


def test_what_valkey_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """P2."""
    with running(valkey, tmp_path) as server:
        asyncio.run(_set(server.url, "told", "yes"))
        server.kill()
        server.start()
        assert asyncio.run(_get(server.url, "told")) == b"yes"


async def _set(url: str, key: str, value: str) -> None:
    async with Redis.from_url(url) as client:
        await client.set(key, value)


async def _get(url: str, key: str) -> object:
    async with Redis.from_url(url) as client:
        return await client.get(key)
