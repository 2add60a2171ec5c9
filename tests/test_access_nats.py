"""NATS' users can do their work and nothing else (P10); the processes of the other tests run as these users."""

import json
from functools import partial
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import NoStreamResponseError
from servers import as_user
from waiting import wait_until

from availability import access
from availability.event_publisher import Publisher
from availability.feeds import stream
from availability.feeds.connecting import connection_options
from availability.feeds.publisher import publish

CONFIG = Path(__file__).parent.parent / "config" / "nats.conf"
pytestmark = pytest.mark.anyio


class Refusals(list[str]):
    """What the server refused on a connection, as it says so."""

    async def hear(self, error: Exception) -> None:
        self.append(str(error).lower())


async def connected(url: str, refusals: Refusals) -> Client:
    return await nats.connect(**connection_options(url), allow_reconnect=False, error_cb=refusals.hear)


async def test_a_source_publishes_its_own_events_alone(nats_url: str) -> None:
    owner = await nats.connect(nats_url)
    await stream.ensure(owner.jetstream())
    demo, refusals = as_user(nats_url, access.DEMO), Refusals()
    await publish(demo, "stock.demo-pos.sales", [{"id": "1"}])
    client = await connected(demo, refusals)
    with pytest.raises((NatsTimeoutError, NoStreamResponseError)):
        await client.jetstream().publish("stock.wms.counts", b"{}", timeout=0.3)
    with pytest.raises(NatsTimeoutError):
        await client.request("$JS.API.STREAM.PURGE.STOCK", b"", timeout=0.3)
    assert all("permissions violation" in refusal for refusal in refusals)
    await wait_until(partial(heard, refusals, 2))
    assert (await owner.jetstream().stream_info("STOCK")).state.messages == 1
    for each in (client, owner):
        await each.close()


async def test_ingest_takes_events_and_makes_none(nats_url: str) -> None:
    refusals = Refusals()
    client = await connected(as_user(nats_url, access.INGEST), refusals)
    assert (await stream.ensure(client.jetstream())).flaws == []
    assert refusals == []
    for subject in ("stock.wms.counts", "availability.stock.changed", "$JS.API.STREAM.DELETE.STOCK"):
        with pytest.raises((NatsTimeoutError, NoStreamResponseError)):
            await client.request(subject, b"{}", timeout=0.3)
    await wait_until(partial(heard, refusals, 3))
    await client.close()


async def test_the_journal_publishes_events_and_takes_none(nats_url: str) -> None:
    refusals = Refusals()
    publisher = await Publisher.open(as_user(nats_url, access.JOURNAL))
    await publisher.close()
    client = await connected(as_user(nats_url, access.JOURNAL), refusals)
    assert (await client.jetstream().publish("availability.stock.changed", b"{}")).stream == "AVAILABILITY"
    for subject in ("stock.wms.counts", "$JS.API.STREAM.PURGE.AVAILABILITY", "$JS.API.STREAM.UPDATE.AVAILABILITY"):
        with pytest.raises((NatsTimeoutError, NoStreamResponseError)):
            await client.request(subject, b"{}", timeout=0.3)
    await wait_until(partial(heard, refusals, 3))
    await client.close()


async def test_nobody_hears_the_answers_to_others(nats_url: str) -> None:
    for user in (access.API, access.DEMO, access.INGEST, access.JOURNAL, access.MONITOR):
        refusals = Refusals()
        client = await connected(as_user(nats_url, user), refusals)
        for subject in ("_INBOX.>", ">", "stock.>", "_INBOX_availability.>"):
            await client.subscribe(subject)
        await wait_until(partial(heard, refusals, 4))
        await client.close()


async def heard(refusals: Refusals, count: int) -> bool:
    return len(refusals) == count


def test_the_file_for_servers_of_your_own_says_the_same() -> None:
    users = {user: access.nats_permissions(user, subjects) for user, subjects in access.NATS.items()}
    for user, permissions in users.items():
        assert json.dumps(permissions) in CONFIG.read_text(), user
