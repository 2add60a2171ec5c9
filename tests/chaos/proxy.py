"""Owns a bad network between a client and a server: a TCP proxy on loopback whose ways can be changed while it runs.

What is held back is not lost but late, as TCP would have it: when the link heals, requests reach the server whose
sender gave up on them long ago. Only a cut loses bytes.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
NO_LINGER: Final = struct.pack("ii", 1, 0)
"""A connection that is closed so is reset, not ended in peace."""

Kind = Literal["pass", "refuse", "silent", "deaf", "mute", "late", "cut"]


@dataclass(frozen=True)
class Way:
    """How a proxy treats what passes.

    ``pass``    everything goes through
    ``refuse``  open connections are reset, and new ones closed at once
    ``silent``  half-open both ways: connections stand, and nothing comes through
    ``deaf``    the server hears and does, its answers do not come back
    ``mute``    the server hears nothing, what it says of its own comes through
    ``late``    everything comes ``delay_s`` late
    ``cut``     the next connection that is answered is reset after ``after_bytes`` of that, then all pass again;
                0 loses the whole answer
    """

    kind: Kind = "pass"
    delay_s: float = 0.0
    after_bytes: int = 0


PASS: Final = Way()


class Proxy:
    """The link to one server. ``change`` takes effect at once, also on connections that are open."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.connections = 0
        """Accepted so far."""
        self.cuts = 0
        """Connections reset by us so far, by ``refuse`` or ``cut``."""
        self.held_bytes = 0
        """What is held back now: read from one end, and not yet passed to the other."""
        self.touched = 0
        """Pieces of data held back or delayed, and connections reset, so far."""
        self.listening = threading.Event()
        self._target = host, port
        self._way = PASS
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[asyncio.WriteTransport] = set()
        self._pairs: set[asyncio.Task[None]] = set()

    def change(self, way: Way) -> None:
        """Treat everything so from now on; from any thread."""
        assert self._loop is not None
        self._way = way
        self._loop.call_soon_threadsafe(self._take_effect, way)

    def stop(self) -> None:
        """Let ``serve`` return soon; from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def serve(self) -> None:
        """Take connections until ``stop``; ``port`` tells where once it is ``listening``."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self.listening.set()
        await self._stopping.wait()
        server.close()
        for task in list(self._pairs):
            task.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)
        await server.wait_closed()

    def _take_effect(self, way: Way) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if way.kind == "refuse":
            self._reset(*self._open)

    def _reset(self, *transports: asyncio.WriteTransport) -> None:
        for transport in transports:
            if transport.is_closing():
                continue
            self.cuts += 1
            self.touched += 1
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        try:
            if self._way.kind == "refuse":
                self._reset(writer.transport)
                return
            # Cancelled only at the end of the block that made us.
            with suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._pairs.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(*self._target)
        ends = {writer.transport, to_server[1].transport}
        self._open |= ends
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, to_server[1], writer, is_answer=False))
                both.create_task(self._pump(to_server[0], writer, writer, is_answer=True))
        except* OSError:
            pass
        finally:
            self._open -= ends
            to_server[1].transport.abort()

    async def _hold_back(self, data: bytes, ways: Sequence[Kind]) -> None:
        if self._way.kind not in ways:
            return
        self.held_bytes += len(data)
        self.touched += 1
        try:
            while self._way.kind in ways:
                await self._changed.wait()
        finally:
            self.held_bytes -= len(data)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        is_answer: bool,
    ) -> None:
        passed, way = 0, self._way
        while data := await reader.read(CHUNK_BYTES):
            await self._hold_back(data, ("silent", "deaf") if is_answer else ("silent", "mute"))
            if self._way is not way:
                passed, way = 0, self._way
            if way.kind == "late":
                self.touched += 1
                await asyncio.sleep(way.delay_s)
            if way.kind == "cut" and is_answer:
                if passed + len(data) > way.after_bytes:
                    writer.write(data[: way.after_bytes - passed])
                    self._way = PASS
                    self._reset(client.transport)
                    raise ConnectionResetError
                passed += len(data)
            writer.write(data)
            await writer.drain()
        # The other way may still have something to say; a reset end says it by an error.
        with suppress(OSError, RuntimeError):
            writer.write_eof()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy to the server of ``url``, and the URL that leads through it, for as long as the block lasts."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Proxy(parts.hostname, parts.port)
    # In a thread of its own: who asks through it may block the loop of the run until there is an answer.
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve()), name="proxy")
    thread.start()
    await asyncio.to_thread(proxy.listening.wait)
    user = parts.netloc.rpartition("@")
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"{user[0]}{user[1]}{HOST}:{proxy.port}"))
    finally:
        proxy.stop()
        await asyncio.to_thread(thread.join)
