"""Owns the proof of the way into the ledger: each event by itself, refused ones kept before the answer (P4, P8)."""

import asyncio
import os
import signal

import pytest
from feeding import NOW_MS, MemoryQuarantine, OneShop, an_event, encoded
from servers import RunningServer

from availability.feeds.intake import EVENTS_PER_APPLY, STORE_TIMEOUT_S, RawEvent, Result, locations_of, take_all
from bench.processes import family
from ledger import Location, PutLocation, Quarantine, Unavailable, Unknown, migrate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop() -> OneShop:
    return await OneShop().open()


@pytest.fixture
def quarantine() -> MemoryQuarantine:
    return MemoryQuarantine()


def raw(**fields: object) -> RawEvent:
    return RawEvent(encoded(an_event(**fields)))


async def test_a_bad_event_stops_no_other_and_is_kept_as_it_came(shop: OneShop, quarantine: MemoryQuarantine) -> None:
    events = [
        raw(),
        RawEvent(b'{"id": "e-2", "quantity": "\xff\x00'),
        raw(id="e-3", location="NOWHERE"),
        raw(id="e-4", quantity=2.5),
        raw(),
    ]
    taken = await take_all(shop, quarantine, "shop-7", events, "http", now_ms=NOW_MS)
    assert taken.results == [
        Result("e-1", "applied"),
        Result(None, "quarantined", "invalid"),
        Result("e-3", "quarantined", "unknown-location"),
        Result("e-4", "quarantined", "invalid"),
        Result("e-1", "duplicate"),
    ]
    assert [event.raw for event in quarantine.events] == [events[index].raw for index in (1, 2, 3)]
    assert [event.source for event in quarantine.events] == ["shop-7", "wms", "wms"], "who sent what names nobody"
    assert quarantine.events[2].detail == "Expected `int`, got `float` - at `$.quantity`"
    assert {(event.transport, event.received_at_ms) for event in quarantine.events} == {("http", NOW_MS)}
    assert await shop.on_hand() == 5


async def test_many_events_go_in_calls_of_bounded_size_and_keep_their_order(
    shop: OneShop, quarantine: MemoryQuarantine
) -> None:
    count = 3 * EVENTS_PER_APPLY + 1
    events = [raw(id=f"e-{index}", kind="delta", quantity=1) for index in range(count)]
    taken = await take_all(shop, quarantine, "shop-7", events, "http", now_ms=NOW_MS)
    assert [result.id for result in taken.results] == [f"e-{index}" for index in range(count)]
    assert sum(shop.sizes) == count
    assert max(shop.sizes) == EVENTS_PER_APPLY
    assert await shop.on_hand() == count


async def test_what_the_ledger_keeps_as_a_view_waits_for_nobody(shop: OneShop, quarantine: MemoryQuarantine) -> None:
    """A nightly snapshot of another system would bury what somebody has to look at."""
    await shop.rules.put_location(PutLocation("tests", Location("DC-1", authority="wms")))
    night = [raw(id="n-1", source="erp"), raw(id="n-2", source="erp", location="NOWHERE")]
    taken = await take_all(shop, quarantine, "shop-7", night, "http", now_ms=NOW_MS)
    assert taken.results == [
        Result("n-1", "quarantined", "not-authoritative"),
        Result("n-2", "quarantined", "unknown-location"),
    ]
    assert quarantine.reasons == ["unknown-location"]


async def test_what_the_ledger_did_not_take_is_said_to_be_not_done(shop: OneShop, quarantine: MemoryQuarantine) -> None:
    shop.down = True
    with pytest.raises(Unavailable):
        await take_all(shop, quarantine, "shop-7", [raw(), RawEvent(b"bad")], "http")
    assert quarantine.events == []


async def test_without_quarantine_nothing_bad_is_answered(shop: OneShop, quarantine: MemoryQuarantine) -> None:
    quarantine.down = True
    with pytest.raises(Unavailable):
        await take_all(shop, quarantine, "shop-7", [RawEvent(b"bad")], "http")
    with pytest.raises(Unknown):
        await take_all(shop, quarantine, "shop-7", [raw(), RawEvent(b"bad")], "http")
    quarantine.down = False
    taken = await take_all(shop, quarantine, "shop-7", [raw(), RawEvent(b"bad")], "http")
    assert [result.outcome for result in taken.results] == ["duplicate", "quarantined"]
    assert quarantine.reasons == ["invalid"]


async def test_a_database_that_hangs_is_not_waited_for(
    shop: OneShop, postgres_server: RunningServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: the answer comes in time, and says that nothing was done."""
    await migrate(postgres_url)
    real = await Quarantine.open(postgres_url)
    await take_all(shop, real, "shop-7", [RawEvent(b"bad")], "http")
    monkeypatch.setitem(STORE_TIMEOUT_S, "http", 0.3)
    everyone = family(postgres_server.process.pid)
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(3):
            with pytest.raises(Unavailable):
                await take_all(shop, real, "shop-7", [RawEvent(b"worse")], "http")
    finally:
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)
    await take_all(shop, real, "shop-7", [RawEvent(b"worse")], "http")
    assert len(await real.newest()) == 2
    await real.close()


def test_every_location_that_events_name_is_found() -> None:
    raws = [encoded(an_event()), encoded(an_event(location="S-2", quantity="x")), b"bad"]
    assert locations_of(raws) == {"DC-1", "S-2"}
