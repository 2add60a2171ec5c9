"""A stream of NATS that takes nothing any more is told: its own answers hide it (P8)."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.errors import Error
from nats.js import JetStreamContext
from servers import PASSWORD, RunningServer, failing_writes, running

from availability import doctor, embedded
from availability.embedded import free_port
from availability.feeds.health import refusal_of
from availability.feeds.stream import WANTED
from availability.self_check import SelfCheck
from availability.settings import Settings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def stream_of(url: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(url)
    try:
        yield client.jetstream(timeout=0.5)
    finally:
        await client.close()


async def takes(streams: JetStreamContext) -> bool:
    try:
        await streams.publish("stock.wms.x", b"{}")
    except (Error, TimeoutError):
        return False
    return True


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[tuple[RunningServer, str]]:
    """A NATS, and where it tells its health."""
    port = free_port()
    make = lambda folder: embedded.nats(folder, free_port(), PASSWORD, monitor_port=port)  # noqa: E731
    with running(make, tmp_path) as server:
        yield server, f"http://127.0.0.1:{port}"


async def test_a_stream_whose_disk_failed_once_takes_nothing_and_is_told(monitored: tuple[RunningServer, str]) -> None:
    server, monitor_url = monitored
    settings = Settings(nats_url=server.url, nats_monitor_url=monitor_url)
    checked = SelfCheck(settings)
    async with stream_of(server.url) as streams:
        await streams.add_stream(WANTED)
        assert await takes(streams)
        assert await refusal_of(monitor_url) is None
        with failing_writes(server.process.pid):
            assert not await takes(streams)
        assert not await takes(streams)
        for _ in range(2):  # said once however often it is looked at
            await checked.look()
            assert checked.counted()["unsafe"] == 1
        # As one that is away: the API sells on.
        assert checked.flaws == []
        [told] = [finding for finding in await doctor.examine(settings) if finding.verdict == "unsafe" and finding.away]
        assert "takes nothing" in str(told)
        assert "write error" in str(told)
    server.kill()
    await server.restart()
    async with stream_of(server.url) as streams:
        assert await takes(streams)
    await checked.look()
    assert checked.counted().get("unsafe", 0) == 0
