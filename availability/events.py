"""Owns the announcing of what the ledger did: from the journal in Postgres to the stream ``AVAILABILITY`` in NATS."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

import msgspec
import nats
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from availability.concerned import Claimants
from availability.event_shapes import Event, events_of
from ledger import JOURNAL_FAILED, Outbox, Reservations

STREAM = "AVAILABILITY"
BYTES_MAX = 4 << 30
AGE_MAX_S = 3 * 24 * 3_600
"""What the stream keeps, for consumers that were away: three days, and 4 GiB of them (about 3 million events).

Full, it takes nothing new (``discard: new``): no consumer ever misses an event without knowing. The journal keeps what
is not announced, and announcing goes on as soon as age or an operator has made room. A stream that exists already is
used as it was made."""
DUPLICATE_WINDOW_S = 120
"""How long the server knows an id again. An acknowledgement that is lost for longer than this can double an event."""
BATCH_EVENTS_MAX = 1_000
"""The server's own limit of an atomic batch."""
TAKE_EVENTS = 2_000
ENTRIES_MIN, ENTRIES_MAX = 8, 2_000
ACK_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 10.0
TURN_S = 0.05
"""A batch this soon after the one before it is not begun, unless much waits: a batch costs NATS more than its events,
and of a position that changes again and again less is told."""
POLL_S = 0.1
"""How soon entries are seen that another process journaled; those of this process are seen at once."""
BACKOFF_FIRST_S, BACKOFF_LAST_S = 0.1, 5.0

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
FAILED = (*JOURNAL_FAILED, nats.errors.Error, NotAcknowledged)


class Sender(Client):
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
        """Connect, and make the stream if it is missing. Raises one of ``FAILED``."""
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        async def on_error(error: Exception) -> None:
            logger.warning("NATS: %s: %s", type(error).__name__, error)

        client = Sender()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.connect(
                nats_url, name="availability journal", allow_reconnect=False, closed_cb=on_closed, error_cb=on_error
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
        """Return how many, when the server has acknowledged every one of ``events``; one of ``FAILED`` otherwise.

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
            await jetstream.add_stream(
                StreamConfig(
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
            )


def _command(event: Event, batch_id: str, number: int) -> bytes:
    """The bytes that publish the event as one of a batch, to which no answer is asked."""
    header = (
        f"NATS/1.0\r\n{event.header_lines}Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {number}\r\n\r\n"
    ).encode()
    size = len(header) + len(event.body)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (event.subject.encode(), len(header), size, header, event.body)


@dataclass
class Announcer:
    """Announces one shard's journal. ``run`` returns only after ``stop``, with its cursor behind what was acknowledged.

    ``wake`` says that the journal has something new; ``announced`` is told how many events were acknowledged.
    """

    nats_url: str
    postgres_url: str
    shard: int
    stale_after_ms: int
    announced: Callable[[int, int], None]
    _stopping: bool = False
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Look into the journal at once."""
        self._awake.set()

    def stop(self) -> None:
        """End after the events in hand."""
        self._stopping = True
        self._awake.set()

    async def run(self) -> None:
        """Announce; when anything fails, begin again from the cursor in Postgres."""
        pause_s = BACKOFF_FIRST_S
        while not self._stopping:
            began_at = asyncio.get_running_loop().time()
            try:
                await self._announce()
            except* FAILED as failures:
                if asyncio.get_running_loop().time() - began_at > BACKOFF_LAST_S:
                    pause_s = BACKOFF_FIRST_S
                error = _first(failures)
                logger.warning(
                    "shard %d: announcing stopped (%s: %s), again in %.1f s",
                    *(self.shard, type(error).__name__, error, pause_s),
                )
                await self._rest(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_LAST_S)

    async def _announce(self) -> None:
        """Take the shard's outbox and empty it again and again, until something fails or ``stop``."""
        outbox = await self._open_outbox()
        if outbox is None:
            return
        publisher: Publisher | None = None
        search = await Reservations.open(self.postgres_url)
        try:
            publisher = await Publisher.open(self.nats_url)
            await self._drain(outbox, publisher, Claimants(search, self.shard, lambda: self._stopping))
        finally:
            await search.close()
            if publisher is not None:
                await publisher.close()
            await outbox.close()

    async def _drain(self, outbox: Outbox, publisher: Publisher, claimants: Claimants) -> None:
        """One batch is on its way to NATS while the next is read and made; they arrive in the journal's order."""
        entries_max = ENTRIES_MIN
        taken = outbox.cursor
        under_way: asyncio.Task[int] | None = None
        clock = asyncio.get_running_loop().time
        try:
            while not self._stopping or under_way is not None:
                began_at = clock()
                self._awake.clear()
                before = taken
                entries, taken = await outbox.take(entries_max, after=before)
                concerned = await claimants.of(entries)
                events = events_of(self.shard, entries, stale_after_ms=self.stale_after_ms, concerned=concerned)
                if under_way is not None:
                    published = await under_way
                    await outbox.done(before)
                    self.announced(self.shard, published)
                    under_way = None
                if taken == before:
                    await self._rest(POLL_S)
                elif not self._stopping:
                    under_way = asyncio.create_task(publisher.publish(events))
                    if len(entries) < entries_max:
                        await asyncio.sleep(TURN_S - (clock() - began_at))
                    entries_max = TAKE_EVENTS * len(entries) // max(1, len(events))
                    entries_max = min(max(entries_max, ENTRIES_MIN), ENTRIES_MAX)
        finally:
            if under_way is not None:
                under_way.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await under_way

    async def _open_outbox(self) -> Outbox | None:
        """The shard's outbox, as soon as no other announcer has it; None when told to stop before that."""
        opening = asyncio.create_task(Outbox.open(self.postgres_url, self.shard))
        while not opening.done() and not self._stopping:
            await asyncio.wait((opening,), timeout=POLL_S)
        if opening.done():
            return await opening
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError, *JOURNAL_FAILED):
            await (await opening).close()
        return None

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), seconds)


def _first(failures: BaseExceptionGroup[Exception]) -> BaseException:
    """One of the failures that came together; they have the same cause."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
