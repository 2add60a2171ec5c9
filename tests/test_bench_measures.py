"""The bench's measurements of the feed and of the journal: on real servers they find what was done, and judge it."""

import asyncio
import io
import os
import signal

import asyncpg
import nats
import pytest
from rich.console import Console
from servers import RunningServer, as_owner
from waiting import wait_until

from availability import ingest
from availability.feeds.stream import STREAM
from availability.settings import Settings
from bench import feed_rate, journal_rate, medians
from bench.medians import Goal
from bench.servers import Running
from ledger import Ledger, Read, ReadItem, migrate

pytestmark = pytest.mark.anyio

EVENTS, BATCH = 2_000, 100


async def test_the_feed_is_taken_and_its_lag_told(valkey_url: str, nats_url: str, postgres_url: str) -> None:
    await migrate(postgres_url)
    settings = Settings(redis_url=valkey_url, nats_url=nats_url, postgres_url=postgres_url)
    work = asyncio.create_task(ingest.run(settings))
    client, ledger = await nats.connect(nats_url), Ledger(valkey_url)

    async def is_there() -> bool:
        return STREAM in {stream.config.name for stream in await client.jetstream().streams_info()}

    await wait_until(is_there)
    found = await feed_rate.measure(client, ledger, {"ingest": os.getpid()}, EVENTS, BATCH, rate=1_000_000, sale=2)

    assert found["events/s"] > 0
    assert found["ingest's CPU, µs an event"] > 0
    assert found["holds/s beside"] > 0
    assert 0 < found["apply lag p50, ms"] <= found["apply lag p99, ms"]
    items = [ReadItem(f"SKU-{number:05}", [feed_rate.LOCATION]) for number in range(feed_rate.SKUS)]
    read = await ledger.read(Read(items))
    on_hand = sum(at.position.on_hand for item in read.items for at in item.positions)
    assert on_hand == feed_rate.SKUS * feed_rate.STOCK - 2 * EVENTS  # every sale of both parts counts once
    os.kill(os.getpid(), signal.SIGTERM)
    await work
    await ledger.close()
    await client.close()


@pytest.mark.parametrize("fill", journal_rate.FILLS.values(), ids=["holds", "events"])
async def test_the_journal_is_drained(
    fill: journal_rate.Fill,
    valkey_server: RunningServer,
    valkey_url: str,
    postgres_server: RunningServer,
    postgres_url: str,
) -> None:
    valkey = Running(as_owner(valkey_url), valkey_server.process.pid)
    postgres = Running(postgres_url, postgres_server.process.pid)

    found = await journal_rate.measure(valkey, postgres, fill, EVENTS)

    assert found["movements/s"] > 0
    assert found["journaler's CPU, µs a movement"] > 0
    assert found["Postgres's CPU, µs a movement"] > 0
    database = await asyncpg.connect(postgres_url)
    moved = await database.fetchval("select count(*) from availability.movement")
    assert moved == journal_rate.SKUS + EVENTS
    await database.close()


async def test_a_goal_is_judged_by_the_median() -> None:
    report = io.StringIO()
    console = Console(file=report, width=120)
    runs = [{"rate": 1.0}, {"rate": 300.0}, {"rate": 200.0}]

    assert medians.show(console, "Rates", runs, {"rate": Goal("≥", 200)})
    assert not medians.show(console, "Rates", runs, {"rate": Goal("≤", 199)})
    assert not medians.show(console, "Rates", runs, {"rate": Goal("≥", 201)})
    row = next(line.split() for line in report.getvalue().splitlines() if line.split()[:1] == ["rate"])
    assert row == ["rate", "200", "1.0", "300", "≥", "200", "yes"]
