"""Owns the proof that the chaos run's faults do what they say: a fault that does nothing would prove anything."""

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from chaos import clock, disk, syscalls
from chaos.proxy import PASS, Proxy, Way, proxy_to
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from servers import PASSWORD, RunningServer, failing_writes, running, valkey
from waiting import wait_until

from availability import embedded
from availability.embedded import free_port
from availability.feeds.stream import WANTED
from ledger import Ledger, Place, Read

pytestmark = pytest.mark.anyio


def needs(reason: str | None) -> None:
    if reason is not None:
        pytest.skip(reason)


class Echo:
    """A server that says what it hears, and knows what it heard."""

    def __init__(self) -> None:
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Echo, Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an echo through a proxy."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server, proxy_to(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}") as (proxy, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        try:
            yield echo, proxy, reader, writer
        finally:
            writer.close()


async def connected_and_told(port: int) -> bytes:
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    return await reader.readexactly(1)


async def held_back(proxy: Proxy, sent: bytes) -> None:
    """Until the proxy has all of it and has passed none of it on."""

    async def is_held_back() -> bool:
        return proxy.held_bytes == len(sent)

    await wait_until(is_held_back)


async def test_a_silent_link_delivers_late_what_was_sent_meanwhile() -> None:
    async with echoing() as (echo, proxy, reader, writer):
        proxy.change(Way("silent"))
        writer.write(b" meanwhile")
        await held_back(proxy, b" meanwhile")
        assert echo.heard == b"before"
        proxy.change(PASS)
        assert await reader.readexactly(10) == b" meanwhile"


async def test_a_deaf_link_does_what_is_asked_and_answers_late() -> None:
    async with echoing() as (echo, proxy, reader, writer):
        proxy.change(Way("deaf"))
        writer.write(b" meanwhile")
        await held_back(proxy, b" meanwhile")
        assert echo.heard == b"before meanwhile"
        proxy.change(PASS)
        assert await reader.readexactly(10) == b" meanwhile"


async def test_a_mute_link_keeps_requests_from_the_server() -> None:
    async with echoing() as (echo, proxy, _, writer):
        proxy.change(Way("mute"))
        writer.write(b" meanwhile")
        await held_back(proxy, b" meanwhile")
        assert echo.heard == b"before"


async def test_a_cut_answer_was_asked_for_and_is_lost() -> None:
    async with echoing() as (echo, proxy, reader, writer):
        proxy.change(Way("cut", after_bytes=3))
        writer.write(b" meanwhile")
        with pytest.raises(ConnectionError):
            await reader.readexactly(10)
        assert echo.heard == b"before meanwhile"
        assert proxy.cuts == 1


async def test_a_refused_link_is_reset_and_takes_nobody() -> None:
    async with echoing() as (_, proxy, reader, _writer):
        proxy.change(Way("refuse"))
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        with pytest.raises(ConnectionError):
            await connected_and_told(proxy.port)


async def test_a_late_link_still_carries_everything() -> None:
    async with echoing() as (_, proxy, reader, writer):
        proxy.change(Way("late", delay_s=0.01))
        writer.write(b" meanwhile")
        assert await reader.readexactly(10) == b" meanwhile"


async def test_a_slow_disk_is_slow_and_nothing_more(valkey_server: RunningServer, tmp_path: Path) -> None:
    needs(syscalls.why_not())
    log = tmp_path / "calls"
    async with Redis.from_url(valkey_server.url) as client:
        async with syscalls.injected([valkey_server.process.pid], syscalls.slow(0.01), log):
            for number in range(5):
                await client.set("slow", number)
        assert syscalls.calls_in(log) >= 5
        assert await client.get("slow") == b"4"


async def test_a_failing_disk_ends_valkey_before_it_can_lie(valkey_server: RunningServer, tmp_path: Path) -> None:
    """P2: what it acknowledged is there after the restart, and what it could not sync was not acknowledged."""
    needs(syscalls.why_not())
    async with Redis.from_url(valkey_server.url, retry=Retry(NoBackoff(), 0)) as client:
        await client.set("acknowledged", "yes")
        async with syscalls.injected([valkey_server.process.pid], syscalls.failing(), tmp_path / "calls"):
            with pytest.raises(RedisError):
                await client.set("refused", "yes")
            assert valkey_server.process.wait(20) != 0
        await valkey_server.restart()
        assert await client.get("acknowledged") == b"yes"


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[tuple[RunningServer, str]]:
    """A NATS, and where it tells its health."""
    port = free_port()
    make = lambda folder: embedded.nats(folder, free_port(), PASSWORD, monitor_port=port)  # noqa: E731
    with running(make, tmp_path) as server:
        yield server, f"http://127.0.0.1:{port}"


async def test_a_nats_that_failed_is_waited_for_until_it_takes_again(monitored: tuple[RunningServer, str]) -> None:
    """Else the next fault comes while it is started again, and loses what it publishes."""
    server, monitor_url = monitored
    client = await nats.connect(server.url)
    streams = client.jetstream(timeout=0.5)
    await streams.add_stream(WANTED)
    with failing_writes(server.process.pid), pytest.raises(TimeoutError):
        await streams.publish("stock.wms.x", b"{}")
    await client.close()
    with pytest.raises(AssertionError, match="not within"):
        await syscalls.until_nats_takes(monitor_url, timeout_s=0.1)
    server.kill()
    await server.restart()
    await syscalls.until_nats_takes(monitor_url)


async def test_a_full_disk_is_full_until_it_is_freed(tmp_path: Path) -> None:
    needs(disk.why_not())
    with disk.small_disk(tmp_path / "data", 2_000_000):
        assert disk.fill(tmp_path / "data", leave_bytes=8_192) > 1_000_000
        with pytest.raises(OSError, match="No space") as failure:
            (tmp_path / "data/more").write_bytes(b"\0" * 65_536)
        assert failure.value.errno == errno.ENOSPC
        disk.empty(tmp_path / "data")
        (tmp_path / "data/more").write_bytes(b"\0" * 65_536)
    assert not list((tmp_path / "data").iterdir())


@pytest.fixture
def clock_file(tmp_path: Path) -> Path:
    needs(clock.why_not())
    return tmp_path / "clock"


@pytest.fixture
def valkey_with_clock(clock_file: Path, tmp_path: Path) -> Iterator[RunningServer]:
    with running(lambda folder: clock.with_clock(valkey(folder), clock_file), tmp_path) as server:
        yield server


async def test_a_jumping_clock_jumps_both_ways(valkey_with_clock: RunningServer, clock_file: Path) -> None:
    async with Redis.from_url(valkey_with_clock.url) as client:

        async def ahead_s() -> float:
            seconds, _ = await client.time()
            return float(seconds) - time.time()

        for jump_s in (3_600, -3_600):
            clock.jump(clock_file, jump_s)

            async def jumped(jump_s: int = jump_s) -> bool:
                return abs(await ahead_s() - jump_s) < 60

            await wait_until(jumped)


async def test_a_jump_before_the_first_call_is_not_believed(valkey_with_clock: RunningServer, clock_file: Path) -> None:
    """P5: the ledger's time would stand an hour ahead for an hour, and every hold would end."""
    ledger = Ledger(valkey_with_clock.url)
    try:
        await ledger.standing(0, Place(0, 0))
        clock.jump(clock_file, 3_600)
        async with Redis.from_url(valkey_with_clock.url) as client:

            async def jumped() -> bool:
                return (await client.time())[0] > time.time() + 3_000

            await wait_until(jumped)
        seen = await ledger.read(Read([]))
        assert seen.now_ms < time.time() * 1_000 + 60_000
        assert "jumped" in str(ledger.state().reasons)
    finally:
        await ledger.close()
