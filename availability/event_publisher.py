"""Owns the publishing of events: one connection to NATS, and the stream ``AVAILABILITY`` that keeps them."""

import asyncio
import contextlib
import logging
from uuid import uuid4

import msgspec
import nats.errors
from msgspec import Struct
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from availability.event_shapes import Event
from availability.feeds.connecting import VerifyingClient, connection_options

STREAM = "AVAILABILITY"
BYTES_MAX = 4 << 30
AGE_MAX_S = 3 * 24 * 3_600
"""What the stream keeps, for consumers that were away: three days, and 4 GiB of them (about 3 million events).

Full, it takes nothing new (``discard: new``): no consumer ever misses an event without knowing. The journal keeps what
is not announced, and announcing goes on as soon as age or an operator has made room. A stream that exists already is
used as it was made."""
DUPLICATE_WINDOW_S = 120
"""How long the server knows an id again. An acknowledgement that is lost for longer than this can double an event."""
WANTED = StreamConfig(
    name=STREAM,
    subjects=["availability.>"],
    storage=StorageType.FILE,
    retention=RetentionPolicy.LIMITS,
    discard=DiscardPolicy.NEW,
    max_age=AGE_MAX_S,
    max_bytes=BYTES_MAX,
    duplicate_window=DUPLICATE_WINDOW_S,
    allow_atomic=True,
)
BATCH_EVENTS_MAX = 1_000
"""The server's own limit of an atomic batch."""
ACK_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class NotAcknowledged(Exception):
    """The server did not take an event, or did not say so: it has to be published again."""


class _Refusal(Struct, frozen=True):
    err_code: int
    description: str = ""


class _Answer(Struct, frozen=True):
    """What JetStream answers to a message or to the last one of a batch."""

    error: _Refusal | None = None


_ANSWERS = msgspec.json.Decoder(_Answer)
PUBLISHING_FAILED = (OSError, TimeoutError, nats.errors.Error, NotAcknowledged)


class Sender(VerifyingClient):
    """A client that also sends messages which are the protocol's bytes already.

    Its own ``publish`` checks and copies every header of every message, which was the dearest part of an event.
    """

    async def send(self, commands: bytes) -> None:
        """Put the bytes of whole commands behind what waits to be sent; what is asked or published next sends them."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        await self._send_command(commands)


class Publisher:
    """One connection to NATS, for publishing only; made by ``open``. After a failure it is closed and another made.

    It never reconnects by itself: what it had sent would be sent again out of our sight, and some errors would close it
    for good anyway.
    """

    def __init__(self, client: Sender, closed: asyncio.Event) -> None:
        self._client = client
        self._closed = closed

    @classmethod
    async def open(cls, nats_url: str) -> "Publisher":
        """Connect, and make the stream if it is missing. Raises one of ``PUBLISHING_FAILED``."""
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        async def on_error(error: Exception) -> None:
            logger.warning("NATS: %s: %s", type(error).__name__, error)

        client = Sender()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.connect(
                **connection_options(nats_url),
                name="availability journal",
                allow_reconnect=False,
                closed_cb=on_closed,
                error_cb=on_error,
            )
        publisher = cls(client, closed)
        try:
            await publisher._ensure_stream()
        except BaseException:
            await publisher.close()
            raise
        return publisher

    async def close(self) -> None:
        """Let go of the connection; safe after any failure."""
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._client.close()

    async def publish(self, events: list[Event]) -> int:
        """Return how many, when the server has acknowledged all of ``events``; one of ``PUBLISHING_FAILED`` otherwise.

        They go in atomic batches, which share one acknowledgement and, where the server syncs before it answers, one
        sync. A batch that the server refuses, as it does when it has one of the events already, is sent singly: each
        event has an id by which the server knows it again.
        """
        for start in range(0, len(events), BATCH_EVENTS_MAX):
            batch = events[start : start + BATCH_EVENTS_MAX]
            if len(batch) > 1 and (refusal := await self._publish_batch(batch)) is None:
                continue
            if len(batch) > 1:
                logger.info("a batch of %d events goes singly: %s", len(batch), refusal)
            async with asyncio.TaskGroup() as group:
                for event in batch:
                    group.create_task(self._publish_one(event))
        return len(events)

    async def _publish_batch(self, batch: list[Event]) -> str | None:
        """Publish all or nothing; why the server refused, or None when it did not."""
        batch_id = uuid4().hex
        *others, last = batch
        await self._client.send(b"".join(_command(event, batch_id, number) for number, event in enumerate(others, 1)))
        its_place = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(len(batch)), "Nats-Batch-Commit": "1"}
        answer = await self._ask(last, last.headers | its_place)
        return None if answer.error is None else f"{answer.error.description} ({answer.error.err_code})"

    async def _publish_one(self, event: Event) -> None:
        answer = await self._ask(event, event.headers)
        if answer.error is not None:
            raise NotAcknowledged(f"the stream {STREAM} refuses an event: {answer.error.description}")

    async def _ask(self, event: Event, headers: dict[str, str]) -> _Answer:
        """Send the message and wait for the answer, but not for one of a connection that has ended."""
        asking = asyncio.create_task(
            self._client.request(event.subject, event.body, timeout=ACK_TIMEOUT_S, headers=headers)
        )
        closing = asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait((asking, closing), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise NotAcknowledged("the connection to NATS ended")
            return _ANSWERS.decode((await asking).data)
        finally:
            asking.cancel()
            closing.cancel()

    async def _ensure_stream(self) -> None:
        jetstream = self._client.jetstream(timeout=ACK_TIMEOUT_S)
        try:
            await jetstream.stream_info(STREAM)
        except NotFoundError:
            await jetstream.add_stream(WANTED)


def _command(event: Event, batch_id: str, number: int) -> bytes:
    """The bytes that publish the event as one of a batch, to which no answer is asked."""
    header = (
        f"NATS/1.0\r\n{event.header_lines}Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {number}\r\n\r\n"
    ).encode()
    size = len(header) + len(event.body)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (event.subject.encode(), len(header), size, header, event.body)
