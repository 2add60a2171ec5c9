"""A connection to one server as the shard uses it for each call: redis-py opens it, and this speaks on it.

redis-py's own way from a command to its answer is most of what a call costs this process. So once it has connected
(URL, TLS, login, name), its transport gets this protocol: a call is one write, its answer one future.
"""

import asyncio
from typing import Any, Final

import hiredis
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, RedisError

_MORE: Final = object()
"""What the parser says while an answer is not all there."""
_pack: Final[Any] = hiredis.pack_command  # declared to take a single word


class Link(asyncio.Protocol):
    """One call under way at a time. After any failure but a server's refusal it is of no use, and must be closed."""

    def __init__(self, connection: AbstractConnection, timeout_s: float) -> None:
        """Takes over a connection that nothing is under way on. Raises the client's ConnectionError if it is lost."""
        reader, writer = connection._reader, connection._writer  # noqa: SLF001 what a connection has open is not public
        if reader is None or writer is None or reader.at_eof() or writer.transport.is_closing():
            raise ConnectionLost("lost before its first call")
        self._connection = connection
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._replies = hiredis.Reader(InvalidResponse, BaseParser.parse_error, notEnoughData=_MORE)
        self._answer: asyncio.Future[Any] | None = None
        self._deadline_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._lost: Exception | None = None
        self._transport = writer.transport
        self._transport.set_protocol(self)

    async def command(self, *words: str | int | bytes) -> Any:
        """What the server answers. Raises RedisError, among them its refusal, or TimeoutError.

        Cancelling it loses the connection: nobody could tell whose the next answer is.
        """
        assert self._answer is None, "a call is under way"
        if self._lost is not None:
            raise self._lost
        self._answer = answer = self._loop.create_future()
        self._deadline_s = self._loop.time() + self._timeout_s
        if self._watch is None:
            self._watch = self._loop.call_at(self._deadline_s, self._watch_deadline)
        self._transport.write(_pack(words))
        try:
            return await answer
        except asyncio.CancelledError:
            self._lose(ConnectionLost("a call was cancelled"))
            raise

    async def close(self) -> None:
        """Drops the connection without waiting for the server."""
        if self._watch is not None:
            self._watch.cancel()
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """Settles the call under way, once its answer is all there."""
        try:
            self._replies.feed(data)
            reply = self._replies.gets()
        except RedisError as failure:
            self._lose(failure)
            return
        if reply is _MORE:
            return
        answer, self._answer = self._answer, None
        if answer is None or self._replies.has_data():
            self._lose(ConnectionLost("the server said something unasked"), answer)
        elif answer.done():
            pass  # cancelled in this very turn of the event loop: who waited is about to lose the connection
        elif isinstance(reply, RedisError):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the call under way."""
        self._lose(ConnectionLost("the server closed the connection" if exc is None else str(exc)))

    def _watch_deadline(self) -> None:
        """One timer for all calls: most are long answered when it rings, and it is cheaper left than set again."""
        self._watch = None
        if self._answer is None:
            return
        if self._loop.time() < self._deadline_s:
            self._watch = self._loop.call_at(self._deadline_s, self._watch_deadline)
        else:
            self._lose(TimeoutError("no answer in time"))

    def _lose(self, failure: Exception, answer: "asyncio.Future[Any] | None" = None) -> None:
        """Nothing is asked on it any more; the call under way, if there is one, fails."""
        answer, self._answer = answer or self._answer, None
        if self._lost is None:
            self._lost = failure
            self._transport.close()
        if answer is not None and not answer.done():
            answer.set_exception(failure)
