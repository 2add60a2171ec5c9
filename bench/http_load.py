"""Owns sending prepared requests over many kept connections, and telling what became of each.

For generators alone; who awaits an answer uses ``http_client``, whose task and streams a request cost several times as
much. Here is no task, future or stream a request: one protocol object a connection, one request on it at a time. What
has no free connection waits, and its latency goes on counting from when it was due.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, cast
from urllib.parse import urlsplit

TIMEOUT_S: Final = 15.0
CONNECTING_MAX: Final = 16
LOST, TIMEOUT = "lost", "timeout"


class Request:
    """Bytes to send at ``due_s`` of the monotonic clock, and whom to tell the status and the body of the answer."""

    __slots__ = ("answered", "due_s", "kind", "number", "raw")

    def __init__(
        self, kind: str, due_s: float, raw: bytes, answered: Callable[["Request", str, bytes], None], number: int = 0
    ) -> None:
        self.kind = kind
        self.due_s = due_s
        self.raw = raw
        self.answered = answered
        self.number = number


class Load:
    """The connections to one address, ``connections_max`` of them at most."""

    def __init__(self, url: str, connections_max: int, answered: Callable[[Request, str, bytes], None]) -> None:
        address = urlsplit(url)
        assert address.hostname is not None, url
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._host, self._port = address.hostname, address.port or (443 if self._tls else 80)
        self._connections_max = connections_max
        self._answered = answered
        self._connecting: set[asyncio.Task[None]] = set()
        self._open: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._waiting: deque[Request] = deque()
        self.waited = 0
        """Requests so far for which all the connections that there may be were busy."""

    @property
    def connections(self) -> int:
        return len(self._open)

    @property
    def pending(self) -> int:
        """Requests without an answer yet."""
        return len(self._waiting) + sum(connection.request is not None for connection in self._open)

    async def open(self, connections: int) -> None:
        """Connect so many at first, so that the run does not begin with that. Raises ``OSError``."""
        for _ in range(min(connections, self._connections_max)):
            await self._connect_one()

    def close(self) -> None:
        """End every connection, and whatever is on it."""
        for connection in [*self._open]:
            connection.abort(LOST)

    def submit(self, request: Request) -> None:
        """Send it now, or as soon as a connection is free."""
        if self._idle:
            # The one that has been free for longest: so all are used alike, by all processes of the service.
            self._idle.popleft().send(request)
            return
        self._waiting.append(request)
        self.waited += len(self._open) >= self._connections_max
        self._connect()

    def _connect(self) -> None:
        wanted = min(len(self._waiting), CONNECTING_MAX) - len(self._connecting)
        for _ in range(min(wanted, self._connections_max - len(self._open) - len(self._connecting))):
            task = asyncio.get_running_loop().create_task(self._connect_for_waiting())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect_for_waiting(self) -> None:
        try:
            await self._connect_one()
        except OSError:
            # Nobody must wait for a service that is away; where other connections are open, they take those who wait.
            while self._waiting and not self._open:
                self._answered(self._waiting.popleft(), LOST, b"")

    async def _connect_one(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: Connection(self), self._host, self._port, ssl=self._tls)

    def opened(self, connection: "Connection") -> None:
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: "Connection") -> None:
        """It can take the next."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def done(self, connection: "Connection", request: Request, status: str, body: bytes, *, keeps: bool) -> None:
        """A whole answer came; ``keeps`` tells whether the connection can be used again."""
        if keeps:
            self.free(connection)
        self._answered(request, status, body)

    def closed(self, connection: "Connection", request: Request | None, status: str) -> None:
        """The connection has ended; ``request`` was on it."""
        self._open.discard(connection)
        if request is None:
            if connection in self._idle:
                self._idle.remove(connection)
        else:
            self._answered(request, status, b"")
        self._connect()

    def end_late(self, now_s: float) -> None:
        """Give up what has been due for too long."""
        too_long_ago_s = now_s - TIMEOUT_S
        while self._waiting and self._waiting[0].due_s < too_long_ago_s:
            self._answered(self._waiting.popleft(), TIMEOUT, b"")
        for connection in [*self._open]:
            if connection.request is not None and connection.request.due_s < too_long_ago_s:
                connection.abort(TIMEOUT)
        self._connect()


class Connection(asyncio.Protocol):
    """HTTP/1.1 on one connection, without pipelining."""

    __slots__ = ("_end", "_load", "_rest", "_transport", "request")

    def __init__(self, load: Load) -> None:
        self.request: Request | None = None
        self._load = load
        self._rest = b""
        self._end = LOST
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass
        self._load.opened(self)

    def send(self, request: Request) -> None:
        self.request = request
        self._transport.write(request.raw)

    def abort(self, status: str) -> None:
        """End it now; its request ends with this status."""
        self._end = status
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        request = self.request
        if request is None:  # an answer that nobody asked for
            self._transport.abort()
            return
        answer = parse(data)
        if answer is None:
            self._rest = data
            return
        status, body, keeps = answer
        self._rest = b""
        self.request = None
        self._load.done(self, request, status, body, keeps=keeps)
        if not keeps:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        request, self.request = self.request, None
        self._load.closed(self, request, self._end)


def parse(data: bytes) -> tuple[str, bytes, bool] | None:
    """Status, body, and whether the connection can be used again; None while something is missing.

    Raises ``ValueError`` for what is no HTTP/1.1.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not data.startswith(b"HTTP/1."):
        raise ValueError(f"no HTTP/1.1: {data[:80]!r}")
    status = data[9:12].decode()
    at = data.find(b"content-length: ", 0, end)
    if at > 0:  # as this service writes it; other servers and proxies in between may not
        stop = end + 4 + int(data[at + 16 : data.index(b"\r", at)])
        head = data[:end] if data.find(b"onnection:", 0, end) > 0 else b""
    else:
        head = data[:end].lower()
        length = _header(head, b"content-length")
        if _header(head, b"transfer-encoding") == b"chunked":
            body = _unchunked(data, end + 4)
            return None if body is None else (status, body, _keeps(head))
        stop = end + 4 + int(length or b"0")
    if len(data) < stop:
        return None
    return status, data[end + 4 : stop], not head or _keeps(head)


def _header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header, of a head in lower case."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key == name:
            return value.strip()
    return None


def _keeps(head: bytes) -> bool:
    return _header(head.lower(), b"connection") != b"close"


def _unchunked(data: bytes, at: int) -> bytes | None:
    """The body in chunks that begins there; None while it is not whole."""
    chunks: list[bytes] = []
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end].partition(b";")[0], 16)
        begin = line_end + 2
        if len(data) < begin + size + 2:
            return None
        if size == 0:
            return b"".join(chunks)
        chunks.append(data[begin : begin + size])
        at = begin + size + 2
    return None
