"""Takes the stock events of the stream ``STOCK`` to the ledger, batch by batch, whatever happens to the servers.

A batch is applied, then what could not be applied is put into quarantine, then its messages are acknowledged. Until
then the stream has them: after a crash at any point they come again, and the ledger knows them by their ids.

What a power cut of NATS can lose is chosen by its ``sync_interval``. nats-server 2.15.1, 2 shared cores, one publisher,
events of 140 bytes (a kill -9 loses nothing at any setting, since the system has what was written):

==========  ================  ================  ====================  ==============  ==============
interval    acked but lost    single events/s   events/s in lists of  in lists of     in atomic
            at a power cut    1 / 512 at once   100, 1 / 16 at once   1,000, 4        batches of 100
==========  ================  ================  ====================  ==============  ==============
``always``  nothing           1,590 / 3,930     129,000 / 233,000     1,350,000       20,800
``100ms``   the last 100 ms   4,300 / 33,800    479,000 / 1,170,000   2,530,000       17,900
``2m``      the last 2 min    4,410 / 31,100    266,000 / 1,220,000   2,620,000       19,200
==========  ================  ================  ====================  ==============  ==============

The choice is ``always``: only single events feel what it costs, and whoever sends many has lists and atomic batches.
This consumer itself takes 30,000 single events, or 80,000 in lists, per second of its core.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from datetime import datetime
from typing import Final, Protocol

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from availability.feeds import stream
from availability.feeds.connecting import connection_options
from availability.feeds.decoding import now_ms
from availability.feeds.gaps import GAP, Gap, Gaps
from availability.feeds.intake import Applies, Keeps, RawEvent, Taken, take_all
from availability.feeds.messages import events_of, stored_at_ms, waiting_behind
from availability.feeds.metrics import FeedMetrics
from availability.feeds.pulling import Broken, Pulling, TolerantClient
from ledger import JOURNAL_FAILED, LedgerError, Overloaded, QuarantinedEvent

CLIENT: Final = "ingest"
"""The author of what comes over NATS; the event itself names its source."""
CONNECT_TIMEOUT_S: Final = 10.0
PAUSE_S: Final = 0.05
PAUSE_MAX_S: Final = 2.0
STATUS_INTERVAL_S: Final = 1.0

MISSING: Final = "events {} to {} never came: ask for a snapshot, then discard this"

logger = logging.getLogger(__name__)


class Hears(Protocol):
    """Where it is noted when each source was heard. Raises one of ``JOURNAL_FAILED`` when it cannot be."""

    async def heard(self, sources: list[tuple[str, int, int]], /) -> None: ...


class Feed:
    """The consumer of the stream; one task calls ``run``, any may call ``stop``."""

    def __init__(self, nats_url: str, ledger: Applies, quarantine: Keeps, status: Hears, metrics: FeedMetrics) -> None:
        self._nats_url = nats_url
        self._ledger = ledger
        self._quarantine = quarantine
        self._status = status
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._pulling: Pulling | None = None
        self._waiting: deque[Msg] = deque()
        self._consumer_made_at: datetime | None = None
        self._pause_s = PAUSE_S
        self._heard: dict[str, tuple[int, int]] = {}
        self._gaps = Gaps()
        self._untold: list[Gap] = []

    async def run(self) -> None:
        """Take events until ``stop``: the batch under way is finished and acknowledged first.

        A lost connection, a client that closed itself, a consumer or stream that is gone, and silence all end in the
        same way: everything is made anew. nats-py's own reconnecting stays off: it gives up on most errors.
        """
        reporter = asyncio.create_task(self._report())
        try:
            while not self._stopping.is_set():
                try:
                    await self._consume()
                except (Broken, NatsError, OSError, TimeoutError) as error:
                    logger.warning("the feed is interrupted: %s", str(error) or type(error).__name__)
                    self._metrics.restarts.inc()
                    await self._rest()
        finally:
            self._stopping.set()
            await reporter

    def stop(self) -> None:
        """Let ``run`` return soon."""
        self._stopping.set()
        if self._pulling is not None:
            self._pulling.stop()

    async def _consume(self) -> None:
        """Connect, see to the stream and the consumer, and take batches; returns only when it is to stop."""
        client = TolerantClient()
        try:
            await self._connect(client)
            found = await stream.ensure(client.jetstream())
            for flaw in found.flaws:
                logger.warning("unsafe: %s", flaw)
            self._metrics.flaws.set(len(found.flaws))
            if found.consumer_made_at != self._consumer_made_at:
                # What another consumer gave us would be acknowledged under numbers that now mean other messages.
                self._waiting.clear()
                self._consumer_made_at = found.consumer_made_at
            pulling = self._pulling = Pulling(client, stream.STREAM, stream.DURABLE, self._waiting)
            if self._stopping.is_set():
                return
            await pulling.open()
            logger.info("taking stock events from the stream %s", stream.STREAM)
            self._metrics.connected.set(1)
            while messages := await pulling.batch():
                self._pause_s = PAUSE_S
                await self._settle(messages, client)
            await client.flush()
        finally:
            self._metrics.connected.set(0)
            self._pulling = None
            await client.close()

    async def _connect(self, client: Client) -> None:
        """Connect, or fail after a while; what happens to the connection later is told to the pulling."""

        async def closed() -> None:
            if self._pulling is not None:
                self._pulling.fail("the connection was closed")

        async def failed(error: Exception) -> None:
            logger.info("NATS: %s", str(error) or type(error).__name__)

        connecting = asyncio.create_task(
            client.connect(
                **connection_options(self._nats_url),
                name="availability ingest",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                ping_interval=5,
                closed_cb=closed,
                error_cb=failed,
            )
        )
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({connecting, stopping}, timeout=CONNECT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise Broken("NATS cannot be reached")
            await connecting
        finally:
            for task in (connecting, stopping):
                task.cancel()
            await asyncio.wait({connecting, stopping})

    async def _settle(self, messages: list[Msg], client: Client) -> None:
        """Apply a batch, quarantine what must be, and only then let the stream forget its messages."""
        carried = [events_of(message) for message in messages]
        taken = await self._take([event for events in carried for event in events], messages, client)
        if taken is None:
            return
        results = iter(taken.results)
        applied_at_ms = now_ms()
        for message, events in zip(messages, carried, strict=True):
            waiting = [next(results).waits for _ in events]
            if waiting and all(waiting):
                await client.publish(message.reply, Msg.Ack.Term)
                self._metrics.terminated.inc()
            else:
                await client.publish(message.reply, Msg.Ack.Ack)
                self._metrics.acknowledged.inc()
            self._metrics.lag.observe(max(0, applied_at_ms - stored_at_ms(message)) / 1_000)
        self._metrics.waiting.set(waiting_behind(messages[-1]))
        for outcome, count in Counter(result.outcome for result in taken.results).items():
            self._metrics.events.labels(outcome).inc(count)
        for source, newest_ms in taken.newest_ms.items():
            known_ms, _ = self._heard.get(source, (0, 0))
            self._heard[source] = max(known_ms, newest_ms), applied_at_ms
        self._gaps.take(taken.numbers, time.monotonic())

    async def _take(self, events: list[RawEvent], messages: list[Msg], client: Client) -> Taken | None:
        """Try until the ledger and the quarantine have taken the events; None when told to stop before that.

        Meanwhile the stream hears that the messages are in work, so that it gives none of them out again.
        """
        pause_s = PAUSE_S
        told_at = time.monotonic()
        while True:
            try:
                taken = await take_all(self._ledger, self._quarantine, CLIENT, events, "nats")
            except LedgerError as error:
                self._metrics.retries.inc()
                if pause_s == PAUSE_S:
                    logger.warning("events wait: %s", error)
                hint_s = error.retry_after_ms / 1_000 if isinstance(error, Overloaded) else 0
            else:
                if pause_s != PAUSE_S:
                    logger.info("events are taken again")
                return taken
            if await self._stops_within(max(pause_s, hint_s)):
                return None
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
            if time.monotonic() > told_at + stream.ACK_WAIT_S / 3:
                told_at = time.monotonic()
                for message in (*messages, *self._waiting):
                    await client.publish(message.reply, Msg.Ack.Progress)

    async def _report(self) -> None:
        """Note once a second who was heard, and what is missing; the last time after the feed was stopped."""
        stopped = False
        while not stopped:
            stopped = await self._stops_within(STATUS_INTERVAL_S)
            await self._tell_gaps()
            heard, self._heard = self._heard, {}
            if not heard:
                continue
            try:
                await self._status.heard([(source, newest_ms, at_ms) for source, (newest_ms, at_ms) in heard.items()])
            except JOURNAL_FAILED as error:
                logger.info("cannot note which sources were heard: %s", str(error) or type(error).__name__)
                self._heard = heard | self._heard

    async def _tell_gaps(self) -> None:
        """Put what never came where people look, and in words what to do; again until the quarantine has it."""
        for gap in self._gaps.overdue(time.monotonic()):
            logger.warning("%s of %s", MISSING.format(gap.first, gap.last), gap.source)
            self._metrics.missing.inc(gap.events)
            self._untold.append(gap)
        try:
            if self._untold:
                await self._quarantine.store([_missing(gap) for gap in self._untold])
            self._untold.clear()
        except JOURNAL_FAILED as error:
            logger.info("cannot note what is missing: %s", str(error) or type(error).__name__)

    async def _rest(self) -> None:
        await self._stops_within(self._pause_s)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)

    async def _stops_within(self, duration_s: float) -> bool:
        """Wait that long, or until told to stop; whether it was."""
        try:
            async with asyncio.timeout(duration_s):
                return await self._stopping.wait()
        except TimeoutError:
            return False


def _missing(gap: Gap) -> QuarantinedEvent:
    """What people find in quarantine for events that are missing."""
    return QuarantinedEvent(
        source=gap.source,
        event=None,
        reason=GAP,
        detail=MISSING.format(gap.first, gap.last),
        raw=msgspec.json.encode(gap._asdict()),
        transport="nats",
        subject=None,
        received_at_ms=now_ms(),
    )
