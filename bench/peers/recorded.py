"""Owns the ledger's calls as bytes: taken down while a ``Ledger`` makes them, then played again without its Python.

A relay stands between the ledger and its server and keeps what goes to the server. So the bytes are what the product
sends, whatever its wire format is; the driver that plays them only writes them and counts answers, several connections
at once, as several API processes would.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

from ledger import Done, Hold, Insufficient, Ledger

AT_ONCE = 16_384
"""Holds that wait in the ledger's queue while it is recorded."""
LONG_MS = 60_000


class Refused(Exception):
    """The server answered a played call with an error."""


async def record(url: str, holds: Sequence[Hold], operations_max: int, now_ms: int) -> list[bytes]:
    """The calls that a ledger makes of these holds, ``operations_max`` in each. The server has done them afterwards.

    The ledger's clock is set to ``now_ms`` in each, so that they can be played at any time.
    """
    async with _relay(url) as (relayed, taken):
        ledger = Ledger(relayed, operations_max=operations_max, now_ms=lambda: now_ms, timeout_ms=LONG_MS)
        try:
            for start in range(0, len(holds), AT_ONCE):
                outcomes = await asyncio.gather(*(ledger.hold(hold) for hold in holds[start : start + AT_ONCE]))
                assert all(isinstance(outcome, Done | Insufficient) for outcome in outcomes), outcomes[0]
        finally:
            await ledger.close()
    return [call for connection in taken for call in _commands(bytes(connection)) if b"FCALL" in call[:32]]


@asynccontextmanager
async def _relay(url: str) -> AsyncIterator[tuple[str, list[bytearray]]]:
    """The URL of a relay to the server, and what was sent to it, by connection."""
    address = urlsplit(url)
    taken: list[bytearray] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bytearray | None) -> None:
        while chunk := await reader.read(1 << 20):
            if keep is not None:
                keep += chunk
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(address.hostname, address.port)
        taken.append(bytearray())
        for coroutine in (pass_on(reader, to_server, taken[-1]), pass_on(from_server, writer, None)):
            task = asyncio.create_task(coroutine)
            tasks.add(task)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield address._replace(netloc=f"{address.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl(), taken
        if tasks:
            await asyncio.wait(tasks)
    finally:
        listening.close()


def _commands(sent: bytes) -> Iterator[bytes]:
    """Each command as it was sent."""
    start = 0
    while start < len(sent):
        at = sent.index(b"\r\n", start)
        words = int(sent[start + 1 : at])
        at += 2
        for _ in range(words):
            end = sent.index(b"\r\n", at)
            at = end + 2 + int(sent[at + 1 : end]) + 2
        yield sent[start:at]
        start = at


async def play(url: str, calls: Sequence[bytes], connections: int, in_flight: int) -> None:
    """Sends every call once, ``in_flight`` of them unanswered on each connection. Raises ``Refused``."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    loop = asyncio.get_running_loop()
    queue = iter(calls)
    players = [_Player(queue, in_flight, loop.create_future()) for _ in range(connections)]
    login = f"AUTH {address.username or 'default'} {address.password}\r\n".encode()
    for player in players:
        await loop.create_connection(lambda player=player: player, address.hostname, address.port)  # type: ignore[misc]
        player.begin(login)
    try:
        await asyncio.gather(*(player.done for player in players))
    finally:
        for player in players:
            player.close()


class _Player(asyncio.Protocol):
    """A connection that sends the next call for each answer."""

    def __init__(self, queue: Iterator[bytes], in_flight: int, done: "asyncio.Future[None]") -> None:
        self.done = done
        self._queue = queue
        self._in_flight = in_flight
        self._unanswered = 0
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def begin(self, login: bytes) -> None:
        """Send the first calls, behind the password."""
        assert self._transport is not None
        self._unanswered = 1
        self._transport.write(login)
        self._send(self._in_flight)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send(self, room: int) -> None:
        assert self._transport is not None
        calls = [call for _, call in zip(range(room), self._queue, strict=False)]
        self._unanswered += len(calls)
        if calls:
            self._transport.write(b"".join(calls))
        elif self._unanswered == 0 and not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        start = answers = 0
        while (end := data.find(b"\r\n", start)) >= 0:
            kind = data[start]
            if kind == 45:  # "-"
                if not self.done.done():
                    self.done.set_exception(Refused(data[start:end].decode()))
                return
            after = end + 2
            if kind == 36:  # "$"
                after += int(data[start + 1 : end]) + 2
                if after > len(data):
                    break
            start = after
            answers += 1
        self._rest = data[start:]
        if answers:
            self._unanswered -= answers
            self._send(min(answers, self._in_flight - self._unanswered))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or Refused("the server closed the connection"))
