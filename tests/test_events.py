"""DESIGN 10, out: each operation is announced once, from the journal, whatever restarts meanwhile."""

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import nats
import pytest
from journal_entries import AT_MS, encoded, entry, hold, operation, put, reservation, start_again, writing
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from redis.asyncio import Redis
from servers import RunningServer, as_owner, as_user, settings_as
from waiting import wait_until

from availability import access, journaler
from availability.embedded import free_port
from availability.event_shapes import events_of, header_text
from availability.events import Announcer
from ledger import (
    Again,
    Journal,
    JournalWriter,
    Location,
    Movement,
    Place,
    PositionAfter,
    announce_again,
    announced_since,
    migrate,
)
from ledger.journal.records import RawEntry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def writer(postgres_url: str) -> AsyncIterator[JournalWriter]:
    """Writes into the journal without a stream; the shard is 0."""
    await migrate(postgres_url)
    async with writing(postgres_url) as opened:
        yield opened


async def journaled(writer: JournalWriter, *seqs: int) -> None:
    await writer.write([RawEntry(Place(1, seq), encoded(entry(seq))) for seq in seqs])


@asynccontextmanager
async def announcing(nats_url: str, postgres_url: str) -> AsyncIterator[Announcer]:
    """An announcer for as long as the block lasts; it ends cleanly."""
    announcer = Announcer(
        as_user(nats_url, access.JOURNAL),
        as_user(postgres_url, access.JOURNAL),
        0,
        60_000,
        announced=lambda _shard, _events: None,
    )
    running = asyncio.create_task(announcer.run())
    try:
        yield announcer
    finally:
        announcer.stop()
        await asyncio.wait_for(running, 20)


async def messages(nats_url: str) -> list[Msg]:
    """Everything that the stream has, in order."""
    client = await nats.connect(nats_url)
    try:
        streams = client.jetstream()
        count = (await streams.stream_info("AVAILABILITY")).state.messages
        everything = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE)
        subscription = await streams.pull_subscribe("availability.>", config=everything)
        found: list[Msg] = []
        while len(found) < count:
            found += await subscription.fetch(min(500, count - len(found)), timeout=5)
        return found
    finally:
        await client.close()


async def announced_up_to(postgres_url: str, seq: int) -> None:
    connection = await asyncpg.connect(postgres_url)

    async def reached() -> bool:
        reached_seq: int = await connection.fetchval("select seq from availability.outbox_cursor where shard = 0")
        return reached_seq == seq

    try:
        await wait_until(reached, 30)
    finally:
        await connection.close()


def ids(found: list[Msg], subject: str) -> list[str]:
    return [(message.headers or {})["ce-id"] for message in found if message.subject == subject]


async def test_event_is_a_cloud_event_in_binary_mode(writer: JournalWriter, nats_url: str, postgres_url: str) -> None:
    sku = 'A "b" 100%'
    await writer.write([RawEntry(Place(1, 1), encoded(entry(1, sku=sku)))])

    async with announcing(nats_url, postgres_url):
        await announced_up_to(postgres_url, 1)

    held, changed = await messages(nats_url)
    assert held.subject == "availability.reservation.held"
    expected = {
        "ce-specversion": "1.0",
        "ce-type": "availability.reservation.held",
        "ce-source": "/availability",
        "ce-id": "1-0-1-0",
        "ce-subject": "reservation-1-0",
        "ce-time": "2026-11-18T11:06:40.001Z",
        "ce-datacontenttype": "application/json",
        "Nats-Msg-Id": "1-0-1-0",
    }
    assert held.headers is not None
    assert {name: value for name, value in held.headers.items() if not name.startswith("Nats-Batch")} == expected
    assert held.headers["Nats-Batch-Sequence"] == "1"  # the server took the batch, and none of it came singly
    assert json.loads(held.data) == {
        "operation": "hold",
        "occurred_at": "2026-11-18T11:06:40.001Z",
        "client": "web",
        "seq": 1,
        "reservation": {
            "id": "reservation-1-0",
            "status": "held",
            "expires_at": "2026-11-18T11:16:40.000Z",
            "order_id": None,
            "channel": "shop",
            "customer": None,
            "lines": [
                {
                    "line": 1,
                    "sku": sku,
                    "quantity": 2,
                    "location": "W1",
                    "promise_date": "2026-11-18",
                    "requested": 2,
                    "held": 2,
                    "committed": 0,
                    "picked": 0,
                    "shipped": 0,
                    "released": 0,
                    "expired": 0,
                    "cancelled": 0,
                    "returned": 0,
                }
            ],
            "receipt": {"shard": 0, "epoch": 1, "seq": 1, "durability": "fsync"},
        },
        "movements": [{"sku": sku, "location": "W1", "from": "available", "to": "held", "quantity": 2}],
    }
    assert changed.subject == "availability.stock.changed"
    assert changed.headers is not None
    assert changed.headers["ce-id"] == "1-0-1-1"
    assert changed.headers["Nats-Msg-Id"].startswith("1-0-1-1-")
    assert changed.headers["ce-subject"] == "A%20%22b%22%20100%25@W1"
    assert json.loads(changed.data) == {
        "sku": sku,
        "location": "W1",
        "available": 98,
        "on_hand": 100,
        "held": 2,
        "committed": 0,
        "picked": 0,
        "safety_stock": 0,
        "damaged": 0,
        "quality_hold": 0,
        "in_transit": 0,
        "as_of": "2026-11-18T11:05:40.000Z",
        "age_ms": 60_001,
        "stale": True,
    }


def test_vector_of_the_cloud_events_binding() -> None:
    assert header_text("Euro € 😀") == "Euro%20%E2%82%AC%20%F0%9F%98%80"


def test_each_verb_has_its_event_and_positions_are_told_once() -> None:
    verbs = ("hold", "extend", "commit", "release", "expire", "ship")
    operations = [operation(verb, f"r-{verb}", reservation(1)) for verb in verbs]
    location = operation("put_location", "W1", Location("W1"))
    first = entry(1, operations=[*operations, location])
    second = entry(2, operations=[operation("apply", "SKU-1@W1", reservation(2))])
    other = PositionAfter("SKU-2", "W1", first.positions[0].position)
    second = msgspec.structs.replace(second, positions=[*second.positions, other])

    events = events_of(3, [first, second], stale_after_ms=60_000)

    assert [(event.subject.removeprefix("availability."), event.headers["ce-id"]) for event in events] == [
        ("reservation.held", "1-3-1-0"),
        ("reservation.extended", "1-3-1-1"),
        ("reservation.committed", "1-3-1-2"),
        ("reservation.released", "1-3-1-3"),
        ("reservation.expired", "1-3-1-4"),
        ("reservation.shipped", "1-3-1-5"),
        ("stock.changed", "1-3-2-1"),
        ("stock.changed", "1-3-2-2"),
    ]
    assert events == events_of(3, [first, second], stale_after_ms=60_000)


async def test_each_operation_is_announced_once_though_nats_is_killed(
    writer: JournalWriter, nats_url: str, postgres_url: str, nats_server_of_session: RunningServer
) -> None:
    async with announcing(nats_url, postgres_url) as announcer:
        await journaled(writer, *range(1, 1_001))
        announcer.wake()
        await announced_up_to(postgres_url, 1_000)
        await journaled(writer, *range(1_001, 2_001))
        announcer.wake()
        nats_server_of_session.kill()
        await journaled(writer, *range(2_001, 3_001))
        await start_again(nats_server_of_session)
        await announced_up_to(postgres_url, 3_000)

    found = ids(await messages(nats_url), "availability.reservation.held")
    assert found == [f"1-0-{seq}-0" for seq in range(1, 3_001)]


async def test_announcing_again_doubles_nothing(writer: JournalWriter, nats_url: str, postgres_url: str) -> None:
    """A crash between the acknowledgement and the cursor: the events are known by their ids, those between are new."""
    await journaled(writer, *range(1, 11))
    async with announcing(nats_url, postgres_url):
        await announced_up_to(postgres_url, 10)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("update availability.outbox_cursor set seq = 4")
    await connection.close()
    await journaled(writer, 11, 12)

    async with announcing(nats_url, postgres_url):
        await announced_up_to(postgres_url, 12)

    found = ids(await messages(nats_url), "availability.reservation.held")
    assert found == [f"1-0-{seq}-0" for seq in range(1, 13)]


async def test_what_was_announced_is_announced_again_when_an_operator_wants_it(
    writer: JournalWriter, nats_url: str, postgres_url: str
) -> None:
    """DESIGN 10: our events can be published again, from any time on; beside an announcer that runs."""
    await journaled(writer, 1, 2, 3)
    urls = as_user(nats_url, access.JOURNAL), as_user(postgres_url, access.JOURNAL)
    published: list[int] = []
    announcer = Announcer(*urls, 0, 60_000, announced=lambda _shard, events: published.append(events))
    running = asyncio.create_task(announcer.run())
    journal = await Journal.open(postgres_url)

    async def all_announced() -> bool:
        [shard] = await journal.shards()
        return shard.outbox_seq == 3

    try:
        await wait_until(all_announced)
        whole = sum(published)
        published.clear()
        operator = as_user(postgres_url, access.OPERATOR)
        assert await announced_since(operator, AT_MS + 4) == [Again(0, Place(1, 3), 0)]
        again = await announced_since(operator, AT_MS + 2)
        assert again == [Again(0, Place(1, 1), 2)]
        await announce_again(operator, again)

        async def published_again() -> bool:
            return sum(published) > 0 and await all_announced()

        await wait_until(published_again)
        assert 0 < sum(published) < whole
    finally:
        announcer.stop()
        await asyncio.wait_for(running, 20)
        await journal.close()


async def test_announcing_again_in_other_parts_ends_with_how_a_position_is(
    writer: JournalWriter, nats_url: str, postgres_url: str
) -> None:
    """A position is told once a part: the same entries in other parts tell it as it was, and then as it is."""
    await journaled(writer, *range(1, 11))
    async with announcing(nats_url, postgres_url):
        await announced_up_to(postgres_url, 10)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("update availability.outbox_cursor set seq = 1")
    await connection.close()
    async with announcing(nats_url, postgres_url):
        await announced_up_to(postgres_url, 10)

    told = ids(await messages(nats_url), "availability.stock.changed")
    assert told == ["1-0-8-1", "1-0-10-1", "1-0-9-1", "1-0-10-1"]


async def test_stream_without_batches_or_room_holds_nothing_up_for_good(
    writer: JournalWriter, nats_url: str, postgres_url: str
) -> None:
    client = await nats.connect(nats_url)
    streams = client.jetstream()
    config = StreamConfig(name="AVAILABILITY", subjects=["availability.>"], duplicate_window=120, max_msgs=3)
    config.discard = nats.js.api.DiscardPolicy.NEW
    await streams.add_stream(config)
    await journaled(writer, 1, 2, 3)

    async with announcing(nats_url, postgres_url):

        async def full() -> bool:
            return (await streams.stream_info("AVAILABILITY")).state.messages == 3

        await wait_until(full)
        config.max_msgs = -1
        await streams.update_stream(config)
        await announced_up_to(postgres_url, 3)
    await client.close()

    found = ids(await messages(nats_url), "availability.reservation.held")
    assert sorted(found) == [f"1-0-{seq}-0" for seq in (1, 2, 3)]


async def test_unreadable_entries_are_passed_over(writer: JournalWriter, nats_url: str, postgres_url: str) -> None:
    strange = operation("hold", "r-3", Location("W1"), [Movement("A", "W1", "available", "held", 1, "hold")])
    await writer.write(
        [
            RawEntry(Place(1, 1), b"\x00"),
            RawEntry(Place(1, 2), encoded(entry(2))),
            RawEntry(Place(1, 3), encoded(entry(3, operations=[strange, hold(3, 1)]))),
        ]
    )

    async with announcing(nats_url, postgres_url):
        await announced_up_to(postgres_url, 3)

    assert ids(await messages(nats_url), "availability.reservation.held") == ["1-0-2-0", "1-0-3-1"]


async def test_process_starts_before_its_servers_and_stops_clean(
    valkey_url: str, nats_url: str, postgres_url: str, nats_server_of_session: RunningServer, tmp_path: Path
) -> None:
    """From the stream to NATS, through the process itself; the schema and NATS come last."""
    nats_server_of_session.kill()
    port = free_port()
    settings = settings_as(access.JOURNAL, valkey_url, postgres_url, nats_url, metrics_port=port)
    running = asyncio.create_task(journaler.run(settings))
    async with Redis.from_url(as_owner(valkey_url)) as redis:
        await put(redis, *(entry(seq) for seq in range(1, 101)))
    await migrate(postgres_url)
    await start_again(nats_server_of_session)
    journal = await Journal.open(as_user(postgres_url, access.API))

    async def announced() -> bool:
        status = await journal.status()
        return [(shard.seq, shard.outbox_seq) for shard in status.shards] == [(100, 100)]

    await wait_until(announced, 20)
    metrics = await asyncio.to_thread(scrape, port)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(running, 10)
    await journal.close()

    assert 'availability_journal_entries_total{shard="0"} 100.0' in metrics
    assert 'availability_journal_ledger_behind{shard="0"} 0.0' in metrics
    assert len(ids(await messages(nats_url), "availability.reservation.held")) == 100


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def test_times_are_those_of_the_ledger() -> None:
    [held, _] = events_of(0, [entry(1)], stale_after_ms=1)
    assert held.headers["ce-time"] == "2026-11-18T11:06:40.001Z"
    assert AT_MS == 1_795_000_000_000
