"""Owns the proof that the feed loses nothing and stops at nothing, on a real NATS (P8 and DESIGN 10)."""

import asyncio
import json
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import nats
import pytest
from feeding import MemoryQuarantine, MemoryStatus, OneShop, an_event, encoded
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType
from nats.js.errors import NoStreamResponseError
from prometheus_client import CollectorRegistry
from servers import PASSWORD, RunningServer, as_user, nats_server, running
from waiting import wait_until

from availability import access
from availability.feeds import consumer, stream
from availability.feeds.consumer import Feed
from availability.feeds.metrics import FeedMetrics
from availability.feeds.stream import DURABLE, STREAM
from ledger import Applied, Apply, Location, PutLocation, Unknown

pytestmark = pytest.mark.anyio

LATER = an_event(kind="delta", quantity=10, occurred_at="2025-06-02T00:00:00Z")


@dataclass
class Running:
    """A feed at work and all that is around it."""

    feed: Feed
    work: asyncio.Task[None]
    shop: OneShop
    quarantine: MemoryQuarantine
    status: MemoryStatus
    registry: CollectorRegistry
    publisher: Client

    @property
    def streams(self) -> JetStreamContext:
        streams: JetStreamContext = self.publisher.jetstream()
        return streams

    async def send(
        self, event: object, subject: str = "stock.wms.counts", headers: dict[str, str] | None = None
    ) -> None:
        body = event if isinstance(event, bytes) else encoded(event)
        await self.streams.publish(subject, body, headers=headers)

    async def settled(self) -> None:
        """Wait until the stream has no message left: each was applied or put into quarantine."""

        async def is_empty() -> bool:
            return (await self.streams.stream_info(STREAM)).state.messages == 0

        await wait_until(is_empty)

    async def became(self, condition: Callable[[], bool]) -> None:
        async def answer() -> bool:
            return condition()

        await wait_until(answer)

    def figure(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"availability_feed_{name}", labels) or 0.0


@asynccontextmanager
async def feed_at_work(url: str, shop: OneShop | None = None) -> AsyncIterator[Running]:
    shop = await (shop or OneShop()).open()
    quarantine, status, registry = MemoryQuarantine(), MemoryStatus(), CollectorRegistry()
    feed = Feed(as_user(url, access.INGEST), shop, quarantine, status, FeedMetrics(registry))
    work = asyncio.create_task(feed.run())
    publisher = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    run = Running(feed, work, shop, quarantine, status, registry, publisher)
    try:
        await run.became(lambda: run.figure("connected") == 1)
        yield run
    finally:
        feed.stop()
        await work
        await publisher.close()


async def publish(url: str, *events: object) -> None:
    """Send each over a connection of its own, for when that of ``Running`` was cut."""
    async with await nats.connect(url) as publisher:
        for event in events:
            await publisher.jetstream().publish("stock.wms.x", encoded(event))


async def publish_raw(url: str, command: bytes) -> None:
    """Send what no client library would."""
    parts = urlparse(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    await reader.readline()
    options = {"user": parts.username, "pass": parts.password, "headers": True, "verbose": False}
    writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n" + command + b"PING\r\n")
    while (await reader.readline()) != b"PONG\r\n":
        pass
    writer.close()
    await writer.wait_closed()


async def test_events_come_as_one_as_a_list_and_as_cloudevents(nats_url: str) -> None:
    bare = an_event(id=None, source=None, occurred_at=None, kind="delta", quantity=1)
    attributes = {"specversion": "1.0", "source": "wms", "type": "t", "time": "2025-06-02T00:00:00Z"}
    async with feed_at_work(nats_url) as run:
        await run.send(an_event())
        await run.send([LATER | {"id": f"d-{index}"} for index in range(3)])
        await run.send({**attributes, "id": "s", "data": bare})
        headers = {f"ce-{name}": value for name, value in attributes.items()}
        await run.send([bare, bare], headers=headers | {"ce-id": "b"})
        await run.settled()
        assert run.shop.outcomes == ["applied"] * 7
        assert await run.shop.on_hand() == 5 + 3 * 10 + 3 * 1


async def test_a_message_that_comes_again_is_applied_once(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        for _ in range(3):
            await run.send([an_event(kind="delta", quantity=3), an_event(id="e-2", kind="delta", quantity=4)])
        await run.settled()
        assert await run.shop.on_hand() == 7
        assert sorted(run.shop.outcomes) == ["applied"] * 2 + ["duplicate"] * 4


class Forgetful(OneShop):
    """A ledger whose first answer is lost after the work was done."""

    lost = False

    async def apply(self, operation: Apply, /) -> Applied:
        applied = await super().apply(operation)
        if not self.lost:
            self.lost = True
            raise Unknown("the reply was lost")
        return applied


async def test_a_lost_answer_makes_no_double_effect(nats_url: str) -> None:
    async with feed_at_work(nats_url, Forgetful()) as run:
        await run.send(an_event(kind="delta"))
        await run.settled()
        assert await run.shop.on_hand() == 5
        assert run.shop.outcomes == ["applied", "duplicate"]


async def test_a_message_that_is_kept_as_a_view_is_acknowledged(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        await run.shop.rules.put_location(PutLocation("tests", Location("DC-1", authority="wms")))
        await run.send(an_event(source="erp"), subject="stock.erp.nightly")
        await run.settled()
        assert (run.shop.outcomes, run.quarantine.events) == (["quarantined"], [])
        settled = [run.figure("messages_total", settled=how) for how in ("acknowledged", "terminated")]
        assert settled == [1, 0]


async def test_poison_is_kept_once_and_the_others_flow(nats_url: str) -> None:
    poison = [
        b"",
        b"not json",
        b"\xff\xfe\0",
        b"[" * 100_000,
        encoded(an_event(sku="a\0b")),
        encoded(an_event(quantity=2**90)),
    ]
    async with feed_at_work(nats_url) as run:
        for number, body in enumerate(poison):
            await run.send(body)
            await run.send(an_event(id=f"d-{number}", kind="delta", quantity=1))
        # A header block without an end, and a subject that is no UTF-8: nats-py by itself would read no further.
        await publish_raw(nats_url, b"HPUB stock.wms.x 8 9\r\nNATS/1.0x\r\n")
        await publish_raw(nats_url, b"PUB stock.wms.\xff 1\r\ny\r\n")
        await publish_raw(nats_url, b"PUB stock.wms.\x01 1\r\nz\r\n")
        await run.send(an_event(id="d-last", kind="delta", quantity=1))
        await run.settled()
        assert [event.raw for event in run.quarantine.events] == [*poison, b"x", b"y", b"z"]
        assert {event.reason for event in run.quarantine.events} == {"invalid"}
        assert run.quarantine.events[-2].subject == "stock.wms.\\xff"
        assert await run.shop.on_hand() == len(poison) + 1
        assert run.figure("messages_total", settled="terminated") == len(poison) + 3


async def test_one_bad_event_of_a_list_is_kept_and_the_others_are_applied(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        await run.send([an_event(), an_event(id="e-2", quantity=-1), an_event(id="e-3", sku="SKU-2", quantity=9)])
        await run.settled()
        assert [(event.event, event.subject) for event in run.quarantine.events] == [("e-2", "stock.wms.counts")]
        assert (await run.shop.on_hand(), await run.shop.on_hand("SKU-2")) == (5, 9)
        assert run.figure("messages_total", settled="acknowledged") == 1


async def test_nobody_sends_for_another_source(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        await run.send(an_event(source="erp"), subject="stock.wms.counts")
        await run.send(an_event(id="e-2", source=None), subject="stock.my%20wms.counts")
        await run.send(an_event(id="e-3"), subject="stock.%FF.counts")
        await run.settled()
        assert [(event.source, event.reason) for event in run.quarantine.events] == [
            ("wms", "source-mismatch"),
            ("ingest", "source-mismatch"),
        ]
        assert run.shop.outcomes == ["applied"]
        await run.became(lambda: list(run.status.newest_ms) == ["my wms"])


async def test_nothing_is_lost_while_the_ledger_is_away(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        run.shop.down = True
        for index in range(20):
            await run.send(an_event(id=f"d-{index}", kind="delta", quantity=1))
        await run.became(lambda: run.shop.refusals >= 3)
        assert (await run.streams.stream_info(STREAM)).state.messages == 20, "nothing is acknowledged"
        run.shop.down = False
        await run.settled()
        assert await run.shop.on_hand() == 20


async def test_the_stream_hears_of_all_messages_in_work_however_long_it_takes(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of which the stream hears nothing for ``ACK_WAIT_S`` is given out again."""
    monkeypatch.setattr(consumer, "PAUSE_MAX_S", 0.1)
    async with feed_at_work(nats_url) as run:
        heard = Counter[str]()

        async def hear(message: Msg) -> None:
            if message.data == Msg.Ack.Progress:
                heard[message.subject] += 1

        await run.publisher.subscribe(f"$JS.ACK.{STREAM}.{DURABLE}.>", cb=hear)
        # The server's own patience stays long: this is how often the feed speaks, not how soon the test must be done.
        monkeypatch.setattr(stream, "ACK_WAIT_S", 0.3)
        run.shop.down = True
        await run.send(an_event(kind="delta"))
        await run.became(lambda: run.shop.refusals >= 1)
        await run.send(an_event(id="e-2", kind="delta"))
        await run.became(lambda: len(heard) == 2 and min(heard.values()) >= 3)
        run.shop.down = False
        await run.settled()
        assert run.shop.outcomes == ["applied"] * 2


async def test_messages_of_a_deleted_consumer_come_again_from_the_new_one(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        run.shop.down = True
        await run.send(an_event(kind="delta"))
        await run.became(lambda: run.shop.refusals >= 1)
        for index in range(3):
            await run.send(an_event(id=f"d-{index}", kind="delta"))
        await run.streams.delete_consumer(STREAM, DURABLE)
        run.shop.down = False
        await run.settled()
        assert run.shop.outcomes == ["applied", "duplicate", *["applied"] * 3], "only the one in work comes twice"


async def test_nothing_is_acknowledged_while_the_quarantine_is_away(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        run.quarantine.down = True
        await run.send(b"bad")
        await run.became(lambda: run.figure("retries_total") >= 2)
        assert (await run.streams.stream_info(STREAM)).state.messages == 1
        run.quarantine.down = False
        await run.settled()
        assert run.quarantine.reasons == ["invalid"]


async def test_a_wiped_stream_and_a_deleted_consumer_are_made_anew(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        await run.streams.delete_consumer(STREAM, DURABLE)
        await run.send(an_event())
        await run.settled()
        await run.streams.delete_stream(STREAM)

        async def sent_again() -> bool:
            try:
                await run.send(an_event(id="e-2", sku="SKU-2", quantity=8))
            except NoStreamResponseError:
                return False
            return True

        await wait_until(sent_again)
        await run.settled()
        assert (await run.shop.on_hand(), await run.shop.on_hand("SKU-2")) == (5, 8)


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[RunningServer]:
    """A NATS that the test may kill."""
    with running(nats_server, tmp_path) as server:
        yield server


async def test_a_client_that_was_closed_for_good_is_replaced(own_nats: RunningServer, tmp_path: Path) -> None:
    """A password that was wrong for a moment closes nats-py's client for good, whatever its number of attempts."""
    config = tmp_path / "nats.conf"
    right = config.read_text()
    async with feed_at_work(own_nats.url) as run:
        await run.send(an_event())
        await run.settled()
        config.write_text(right.replace(access.password_of(PASSWORD, access.INGEST), "changed"))
        own_nats.process.send_signal(signal.SIGHUP)
        await run.became(lambda: run.figure("restarts_total") >= 1)
        config.write_text(right)
        own_nats.process.send_signal(signal.SIGHUP)
        await run.became(lambda: run.figure("connected") == 1)
        await publish(own_nats.url, an_event(id="e-2", kind="delta"))
        await run.became(lambda: len(run.shop.outcomes) == 2)


async def test_a_killed_server_loses_nothing_that_it_acknowledged(
    own_nats: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it gave out and the kill swallowed on the way comes again after this long.
    monkeypatch.setattr(stream, "ACK_WAIT_S", 1)
    async with feed_at_work(own_nats.url) as run:
        run.shop.down = True
        for index in range(50):
            await run.send(an_event(id=f"d-{index}", kind="delta", quantity=1))
        await run.became(lambda: run.shop.refusals >= 1)
        own_nats.kill()
        await own_nats.restart()
        run.shop.down = False

        async def is_applied() -> bool:
            return await run.shop.on_hand() == 50

        await wait_until(is_applied)
        await run.became(lambda: run.figure("connected") == 1)
        await publish(own_nats.url, an_event(id="d-0", kind="delta", quantity=1), an_event(id="last", sku="SKU-2"))
        await run.became(lambda: run.shop.outcomes[-1:] == ["applied"] and "duplicate" in run.shop.outcomes)
        assert await run.shop.on_hand() == 50


async def test_a_stream_with_unsafe_settings_is_reported_and_used(
    nats_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = await nats.connect(nats_url)
    await publisher.jetstream().add_stream(
        name=STREAM, subjects=["stock.>"], storage=StorageType.MEMORY, discard=DiscardPolicy.OLD, max_age=60
    )
    await publisher.close()
    with caplog.at_level(logging.WARNING):
        async with feed_at_work(nats_url) as run:
            await run.send(an_event())
            await run.became(lambda: run.shop.outcomes == ["applied"])
            assert run.figure("unsafe_settings") == 4
    unsafe = [record.getMessage() for record in caplog.records if "unsafe" in record.getMessage()]
    for told, word in zip(unsafe, ("files", "full", "repeated", "age"), strict=True):
        assert word in told


async def test_a_stopped_feed_leaves_the_rest_in_the_stream(nats_url: str) -> None:
    async with feed_at_work(nats_url) as run:
        await run.send(an_event(kind="delta"))
        await run.settled()
        run.feed.stop()
        await run.work
        await run.send(an_event(id="e-2", kind="delta"))
        assert (await run.streams.stream_info(STREAM)).state.messages == 1
        assert run.status.newest_ms == {"wms": 1_748_736_000_000}
    async with feed_at_work(nats_url, run.shop) as again:
        await again.settled()
        assert await again.shop.on_hand() == 10
