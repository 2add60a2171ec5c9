"""Owns the real servers of the tests: each started once a session, on a free port, in a temporary folder."""

import asyncio
import resource
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import nats
from redis.asyncio import Redis
from waiting import wait_until

from availability import access, embedded
from availability.deploying import roles_made
from availability.embedded import Server
from availability.settings import Settings
from ledger.library import library

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


@contextmanager
def failing_writes(pid: int) -> Iterator[None]:
    """No file of the process may grow while the block lasts: for it that is a disk whose writes fail."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def valkey(folder: Path) -> Server:
    return embedded.valkey(folder, embedded.free_port(), PASSWORD)


def nats_server(folder: Path) -> Server:
    return embedded.nats(folder, embedded.free_port(), PASSWORD)


def postgres(folder: Path) -> Server:
    return embedded.postgres(folder, embedded.free_port(), PASSWORD, sync=False)


def make_postgres_users(url: str) -> None:
    """The role of each process, as ``up`` makes them; what it may do is granted when a database's schema is made."""
    asyncio.run(roles_made(Settings(postgres_url=url)))


def as_owner(url: str) -> str:
    """The URL of the same server for who may do everything there: who prepares, empties, breaks or looks behind."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{access.OWNER}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()


def as_user(url: str, user: str) -> str:
    """The URL of the same server for one of the users of ``availability.access``, as each process has its own."""
    return ",".join(access.as_user(as_owner(each), user) for each in url.split(","))


def settings_as(user: str, redis_url: str, postgres_url: str, nats_url: str = "", **more: Any) -> Settings:
    """The settings of a process, which comes to each server as a user of its own."""
    return Settings(
        redis_url=as_user(redis_url, user),
        postgres_url=as_user(postgres_url, user),
        nats_url=as_user(nats_url, user) if nats_url else "",
        **more,
    )


def empty_valkey(url: str) -> None:
    """Remove every key and every function library, and load ours, as is done before the processes start."""

    async def empty() -> None:
        async with Redis.from_url(as_owner(url)) as client:
            await client.flushall()
            await client.function_flush("SYNC")
            await client.function_load(library().text)
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
