"""Owns the real servers of the tests: each started once a session, on a free port, in a temporary folder."""

import asyncio
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import nats
from redis.asyncio import Redis
from waiting import wait_until

from availability import embedded
from availability.embedded import Server

PASSWORD = "of-the-tests"
AOF_MAX_BYTES = 4_000_000
"""Beyond it an emptied Valkey writes its file anew: a test adds 130 kB, and who is killed reads all of it again."""


@dataclass
class RunningServer:
    """A server of the tests that can be killed and started again on the same port and folder."""

    server: Server
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        return self.server.url

    def start(self) -> None:
        """Start it and wait until it can be used; what it printed is in the failure when it cannot."""
        asyncio.run(self.restart())

    async def restart(self) -> None:
        """``start`` for a test that runs on an event loop.

        Never start it from another thread: the server is told to end with its parent, which to Linux is the thread.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 a fork is quick, and must be this thread's
                self.server.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.server.env
            )
        try:
            await self.server.wait()
        except embedded.NotReady as error:
            raise AssertionError(f"{error}; its log ends: {self.log.read_text()[-2000:]}") from error

    def stop(self) -> None:
        """Stop it cleanly."""
        self._end(self.server.stop_signal)

    def kill(self) -> None:
        """End it as a power cut of the process would."""
        self._end(signal.SIGKILL)

    def _end(self, by: signal.Signals) -> None:
        self.process.send_signal(by)
        self.process.wait(timeout=20)


@contextmanager
def running(make: Callable[[Path], Server], folder: Path) -> Iterator[RunningServer]:
    """Run the server that ``make`` describes for as long as the block lasts."""
    server = RunningServer(make(folder), folder / "server.log")
    server.start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def valkey(folder: Path) -> Server:
    return embedded.valkey(folder, embedded.free_port(), PASSWORD)


def nats_server(folder: Path) -> Server:
    return embedded.nats(folder, embedded.free_port(), PASSWORD)


def postgres(folder: Path) -> Server:
    return embedded.postgres(folder, embedded.free_port(), PASSWORD, sync=False)


def empty_valkey(url: str) -> None:
    """Remove every key and every function library."""

    async def empty() -> None:
        async with Redis.from_url(url) as client:
            await client.flushall()
            await client.function_flush("SYNC")
            if (await client.info("persistence"))["aof_current_size"] > AOF_MAX_BYTES:
                await client.bgrewriteaof()
                await wait_until(lambda: _is_rewritten(client))

    asyncio.run(empty())


async def _is_rewritten(client: Redis) -> bool:
    told = await client.info("persistence")
    return not told["aof_rewrite_in_progress"] and not told["aof_rewrite_scheduled"]


def empty_nats(url: str) -> None:
    """Remove every stream, and so every consumer."""

    async def empty() -> None:
        client = await nats.connect(url)
        try:
            streams = client.jetstream()
            for stream in await streams.streams_info():
                assert stream.config.name is not None
                await streams.delete_stream(stream.config.name)
        finally:
            await client.close()

    asyncio.run(empty())


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The URL of a new, empty database on the server of ``server_url``; it is dropped at the end."""
    name = f"test_{secrets.token_hex(6)}"
    asyncio.run(_execute(server_url, f"CREATE DATABASE {name}"))
    try:
        yield server_url.rpartition("/")[0] + "/" + name
    finally:
        asyncio.run(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
