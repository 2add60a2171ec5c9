"""Owns the proof that a consumer which will send nothing more is told from one that has nothing to send."""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from servers import RunningServer, nats_server, running
from waiting import wait_until

from availability.feeds import pulling, stream
from availability.feeds.pulling import Broken, Pulling, TolerantClient

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[RunningServer]:
    """A NATS that the test may stop for a while."""
    with running(nats_server, tmp_path) as server:
        yield server


@asynccontextmanager
async def pulled(url: str) -> AsyncIterator[tuple[TolerantClient, "asyncio.Task[list[Msg]]"]]:
    """A client, and a task that waits for the first batch of an empty stream."""
    client = TolerantClient()
    await client.connect(url, allow_reconnect=False)
    await stream.ensure(client.jetstream())
    messages = Pulling(client, stream.STREAM, stream.DURABLE, deque())
    await messages.open()
    batch = asyncio.create_task(messages.batch())
    try:
        yield client, batch
    finally:
        batch.cancel()
        await asyncio.wait({batch})
        await client.close()


async def test_a_quiet_consumer_is_waited_for_and_a_deleted_one_is_noticed_at_once(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(pulling, "SILENCE_MAX_S", 0.5)
    async with pulled(nats_url) as (client, batch):
        before = client.stats["in_msgs"]

        async def many_heartbeats() -> bool:
            return client.stats["in_msgs"] > before + 10

        await wait_until(many_heartbeats)
        assert not batch.done()
        await client.jetstream().delete_consumer(stream.STREAM, stream.DURABLE)
        with pytest.raises(Broken, match="Consumer Deleted"):
            await batch


async def test_a_server_that_says_nothing_is_given_up(own_nats: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "SILENCE_MAX_S", 0.3)
    monkeypatch.setattr(pulling, "HEARTBEAT_S", 0.1)
    async with pulled(own_nats.url) as (_, batch):
        own_nats.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(Broken, match="not a word"):
                await batch
        finally:
            own_nats.process.send_signal(signal.SIGCONT)
