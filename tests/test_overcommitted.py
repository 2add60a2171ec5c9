"""DESIGN 2 and 10: from a count below the claims to the event and the list, with the real servers, and back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from journal_entries import following
from ledgers import Clock
from searched import Searched
from servers import as_user
from test_events import announcing, messages
from waiting import wait_until

from availability import access
from availability.concerned import Claimants
from availability.event_shapes import OVERCOMMITTED
from availability.shapes import time_text
from ledger import Indexer, Journal, JournalEntry, Ledger, Place, Reservations, event_key, migrate
from ledger import messages as m

pytestmark = pytest.mark.anyio


@pytest.fixture
async def searched(valkey_url: str, postgres_url: str) -> AsyncIterator[Searched]:
    """Stock of two SKUs at one location."""
    clock = Clock()
    await migrate(postgres_url)
    ledger = await Ledger.open(valkey_url, now_ms=clock)
    made = Searched(ledger, clock, valkey_url, postgres_url, await Reservations.open(as_user(postgres_url, access.API)))
    await made.shop.open("S1")
    for sku in ("SHOE", "A@ B"):
        await made.shop.stock(sku, 10)
    yield made
    await made.close()


@asynccontextmanager
async def indexing(postgres_url: str) -> AsyncIterator[None]:
    indexer = Indexer(as_user(postgres_url, access.JOURNAL), 0)
    running = asyncio.create_task(indexer.run())
    try:
        yield
    finally:
        indexer.stop()
        await asyncio.wait_for(running, 20)


def counted(searched: Searched, *numbers: tuple[str, int]) -> m.Apply:
    """Snapshots of now, in one call."""
    at_ms = searched.clock.now_ms
    names = [(f"{sku} at {at_ms}", sku, quantity) for sku, quantity in numbers]
    return m.Apply(
        "wms",
        [
            m.StockEvent(event_key("wms", name), "wms", name, "snapshot", sku, "S1", quantity, at_ms)
            for name, sku, quantity in names
        ],
    )


async def up_to_date(searched: Searched) -> None:
    """Until the journal, the search and the announcer are where the ledger is."""
    end = (await searched.ledger.standing(0, Place(1, 1))).place
    journal = await Journal.open(as_user(searched.postgres_url, access.API))

    async def there() -> bool:
        [shard] = (await journal.status()).shards
        return (shard.seq, shard.outbox_seq, (await searched.search.reached(0)).seq) == (end.seq,) * 3

    await wait_until(there, 20)
    await journal.close()


async def gauge(searched: Searched) -> int:
    """How many positions the API's metrics are told of."""
    journal = await Journal.open(as_user(searched.postgres_url, access.API))
    status = await journal.status()
    await journal.close()
    return status.overcommitted


async def told(nats_url: str) -> list[tuple[str, str, Any]]:
    """Subject, id and data of each event about an overcommitted position, in order."""
    found = [message for message in await messages(nats_url) if message.subject == OVERCOMMITTED]
    return [
        ((message.headers or {})["ce-subject"], (message.headers or {})["ce-id"], json.loads(message.data))
        for message in found
    ]


async def overcommitted(searched: Searched, **filters: Any) -> list[tuple[str, str, int, int, list[str], int]]:
    page = await searched.search.overcommitted(**filters)
    return [
        (
            *(position.sku, position.location, position.quantity, position.since_ms),
            [line.id for line in position.claims.lines],
            position.claims.reservations,
        )
        for position in page.positions
    ]


async def test_two_positions_fall_short_are_told_with_their_reservations_and_recover(
    searched: Searched, nats_url: str
) -> None:
    """P1, where it stops: the feed was wrong. Newest claims first, without what has ended or is elsewhere."""
    shop, url = searched.shop, searched.postgres_url
    old = await searched.held(("SHOE", 3, "S1"), ("SHOE", 1, "S1"))
    await searched.commit(old, "O-1")
    ended = await searched.held(("SHOE", 2, "S1"))
    await shop.release(ended)
    young = await searched.held(("SHOE", 4, "S1"), client="app")
    other = await searched.held(("A@ B", 10, "S1"))
    searched.clock.now_ms += 1
    since_ms = searched.clock.now_ms
    await shop.ledger.apply(counted(searched, ("SHOE", 5), ("A@ B", 9)))
    async with following(searched.valkey_url, url), indexing(url), announcing(nats_url, url):
        await up_to_date(searched)
        assert await overcommitted(searched, sku="SHOE") == [("SHOE", "S1", 3, since_ms, [young, old, old], 2)]
        assert await overcommitted(searched) == [
            ("SHOE", "S1", 3, since_ms, [young, old, old], 2),
            ("A@ B", "S1", 1, since_ms, [other], 1),
        ]
        assert await overcommitted(searched, location="S2") == []
        assert await gauge(searched) == 2
        await shop.cancel(old, (1, 3))
        await shop.event("delta", "A@ B", 1, at_ms=since_ms + 1)
        await up_to_date(searched)

    assert (await overcommitted(searched), await gauge(searched)) == ([], 0)
    events = await told(nats_url)
    assert len({id_ for _, id_, _ in events}) == 4
    assert [data["overcommitted"] for subject, _, data in events if subject == "A@%20B@S1"] == [1, 0]
    short, over = [data for subject, _, data in events if subject == "SHOE@S1"]
    since = time_text(since_ms)
    assert [claim["id"] for claim in short["reservations"]] == [young, old, old]
    assert short.pop("reservations")[:2] == [
        {
            "id": young,
            "client": "app",
            "order_id": None,
            "status": "held",
            "line": 1,
            "held": 4,
            "committed": 0,
            "picked": 0,
            "created_at": time_text(since_ms - 2),
        },
        {
            "id": old,
            "client": "web",
            "order_id": "O-1",
            "status": "committed",
            "line": 1,
            "held": 0,
            "committed": 3,
            "picked": 0,
            "created_at": time_text(since_ms - 4),
        },
    ]
    assert short == {
        "sku": "SHOE",
        "location": "S1",
        "available": 0,
        "on_hand": 5,
        "held": 4,
        "committed": 4,
        "picked": 0,
        "safety_stock": 0,
        "damaged": 0,
        "quality_hold": 0,
        "in_transit": 0,
        "as_of": since,
        "age_ms": 0,
        "stale": False,
        "overcommitted": 3,
        "since": since,
        "reservations_total": 2,
        "complete": True,
    }
    assert [over[name] for name in ("overcommitted", "since", "reservations", "reservations_total", "complete")] == [
        *(0, since, [], 0, True)
    ]


async def test_pages_lead_through_all_the_latest_first(searched: Searched) -> None:
    for sku in ("SHOE", "A@ B"):
        await searched.held((sku, 10, "S1"))
        await searched.shop.ledger.apply(counted(searched, (sku, 9)))
    await searched.journal()

    first = await searched.search.overcommitted(limit=1)
    second = await searched.search.overcommitted(limit=1, after=first.next)

    assert [position.sku for position in first.positions + second.positions] == ["A@ B", "SHOE"]
    assert second.next is None
    assert first.lag_ms is not None


async def test_the_tables_made_again_are_the_same(searched: Searched) -> None:
    held = await searched.held(("SHOE", 9, "S1"), ttl_ms=5)
    await searched.journal()
    assert await claimed(searched) == ([held], 1)
    searched.clock.now_ms += 5
    await searched.shop.ledger.read(m.Read([m.ReadItem("SHOE")]))
    await searched.journal()
    assert await claimed(searched) == ([], 0)
    await searched.shop.commit(held, reacquire=True)
    await searched.held(("SHOE", 1, "S1"), ttl_ms=5)
    await searched.shop.ledger.apply(counted(searched, ("SHOE", 4)))
    searched.clock.now_ms += 5
    await searched.shop.ledger.read(m.Read([m.ReadItem("SHOE")]))
    await searched.journal()
    before = await overcommitted(searched)
    postgres = await asyncpg.connect(searched.postgres_url)
    await postgres.execute("update availability.search_cursor set seq = 0, epoch = 0")
    await searched.index()
    again = await overcommitted(searched)
    await postgres.execute(
        "truncate availability.reservation, availability.reservation_line, availability.claimed_line,"
        " availability.overcommitted, availability.search_cursor"
    )
    await searched.index()
    await postgres.close()

    assert before == again == await overcommitted(searched)
    assert [(sku, ids) for sku, _, _, _, ids, _ in before] == [("SHOE", [held])], "reacquired, so claimed again"


async def test_an_event_does_not_wait_for_ever_for_the_search(searched: Searched) -> None:
    await searched.held(("SHOE", 10, "S1"))
    await searched.shop.ledger.apply(counted(searched, ("SHOE", 4)))
    await searched.write()
    journal = await Journal.open(as_user(searched.postgres_url, access.API))
    entries = [entry async for entry in journal.entries(0)]
    await journal.close()
    claimants = Claimants(searched.search, 0, lambda: False, wait_s=0.1)

    assert await concerned(claimants, entries) == ([], False)
    claimants.wait_s = 3_600
    assert await concerned(claimants, entries) == ([], False), "it has waited for a search that stands still"
    await searched.index()
    assert (await concerned(claimants, entries))[1] is True


async def claimed(searched: Searched) -> tuple[list[str], int]:
    """The ids of the lines that claim shoes, and how many reservations there are."""
    claims = await searched.search.claims_at("SHOE", "S1")
    return [line.id for line in claims.lines], claims.reservations


async def concerned(claimants: Claimants, entries: list[JournalEntry]) -> tuple[list[str], bool]:
    [(sku_at, (claims, complete))] = (await claimants.of(entries)).items()
    assert sku_at == ("SHOE", "S1")
    return [line.id for line in claims.lines], complete
