"""Owns the proof that the process ``ingest`` works with the real ledger and Postgres, and starts and stops cleanly."""

import asyncio
import os
import signal
from urllib.request import urlopen

import nats
import pytest
from feeding import an_event, encoded
from nats.errors import NoRespondersError
from nats.js.errors import NoStreamResponseError
from servers import as_user, settings_as
from waiting import wait_until

from availability import access, ingest
from availability.embedded import free_port
from ledger import FeedStatus, Ledger, Location, PutLocation, Quarantine, Read, ReadItem, migrate

pytestmark = pytest.mark.anyio


async def test_events_reach_the_real_ledger_and_the_bad_ones_postgres(
    valkey_url: str, nats_url: str, postgres_url: str
) -> None:
    settings = settings_as(access.INGEST, valkey_url, postgres_url, nats_url, metrics_port=free_port())
    work = asyncio.create_task(ingest.run(settings))
    ledger, quarantine = Ledger(valkey_url), await Quarantine.open(as_user(postgres_url, access.API))
    status = await FeedStatus.open(as_user(postgres_url, access.API))
    publisher = await nats.connect(nats_url)

    async def published(event: object) -> bool:
        try:
            await publisher.jetstream().publish("stock.wms.counts", encoded(event))
        except (NoRespondersError, NoStreamResponseError):
            return False
        return True

    async def on_hand() -> int:
        positions = await ledger.read(Read([ReadItem("SKU-1", ["DC-1"])]))
        return sum(at.position.on_hand for at in positions.items[0].positions)

    await ledger.put_location(PutLocation("tests", Location("DC-1")))
    await wait_until(lambda: published([an_event(), an_event(id="bad", quantity=-1)]))
    # Postgres was not set up yet: nothing is acknowledged until it is.
    await migrate(postgres_url)
    (row,) = await wait_until(quarantine.list)
    assert (row.source, row.event, row.reason, row.transport) == ("wms", "bad", "invalid", "nats")
    assert row.raw == encoded(an_event(id="bad", quantity=-1))
    assert await on_hand() == 5
    (known,) = await wait_until(status.all)
    assert known.source == "wms"
    shown = await asyncio.to_thread(
        lambda: urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics").read().decode()
    )
    assert 'availability_feed_events_total{outcome="quarantined"} 1.0' in shown

    os.kill(os.getpid(), signal.SIGTERM)
    await work
    for opened in (ledger, quarantine, status, publisher):
        await opened.close()
