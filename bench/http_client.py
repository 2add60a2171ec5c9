"""Owns the bench's own HTTP/1.1 client: kept connections and JSON, at a fraction of a general client's cost per call.

For what is asked one at a time and awaited: the replay, opening stock, checks. Load goes by ``http_load``, which awaits
nothing, and takes no request that it did not prepare. It speaks to this service only: answers have a Content-Length,
redirects and compression do not happen.
"""

import asyncio
import ssl
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

TIMEOUT_S = 15.0
HEAD_BYTES_MAX = 65_536


class Lost(Exception):
    """No whole answer came: the request was done or was not."""


class NotSent(Exception):
    """Nobody listens: the request was surely not done."""


class HttpAnswer(NamedTuple):
    """``headers`` by their names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class HttpClient:
    """One bearer's requests to one address, at most ``connections_max`` at a time; others wait for their turn."""

    def __init__(self, url: str, token: str, connections_max: int) -> None:
        address = urlsplit(url)
        assert address.hostname is not None, url
        self.url = url
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._host, self._port = address.hostname, address.port or (443 if self._tls else 80)
        self._common = f"Host: {address.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._turns = asyncio.Semaphore(connections_max)
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._idle:
            connection.writer.close()

    async def request(self, method: str, path: str, body: bytes = b"", key: str | None = None) -> HttpAnswer:
        """The answer, whatever its status; ``Lost`` or ``NotSent`` when none came. ``key`` is the Idempotency-Key."""
        head = f"{method} {path} HTTP/1.1\r\n{self._common}Content-Length: {len(body)}\r\n"
        if body:
            head += "Content-Type: application/json\r\n"
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        async with self._turns:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await self._exchange(f"{head}\r\n".encode() + body)
            except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
                raise Lost(f"{method} {path}: {type(error).__name__} {error}") from error

    async def _exchange(self, request: bytes) -> HttpAnswer:
        connection = self._take_idle() or await self._connect()
        keep = False
        try:
            connection.writer.write(request)
            answer = await _read(connection.reader)
            keep = answer.headers.get("connection", "").lower() != "close"
        finally:
            # A connection whose answer did not come whole is of no more use.
            if keep:
                self._idle.append(connection)
            else:
                connection.writer.close()
        return answer

    def _take_idle(self) -> _Connection | None:
        """The one used last, unless the server has closed it meanwhile, as it does after a while."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.writer.close()
        return None

    async def _connect(self) -> _Connection:
        try:
            connected = await asyncio.open_connection(self._host, self._port, limit=HEAD_BYTES_MAX, ssl=self._tls)
            return _Connection(*connected)
        except ConnectionRefusedError as error:
            raise NotSent(str(error)) from error


async def _read(reader: asyncio.StreamReader) -> HttpAnswer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if not head.startswith("HTTP/1.") or "transfer-encoding" in headers:
        raise Lost(f"what answers is not this service: {head[:80]!r}")
    status = int(status_line.split(" ", 2)[1])
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return HttpAnswer(status, headers, body)
