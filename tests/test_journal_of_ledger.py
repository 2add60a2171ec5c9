"""P6: what the ledger's own script writes down is readable to the last byte, and adds up to what the ledger says."""

from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest
from books import fold, numbers
from journal_entries import following
from servers import as_user
from waiting import wait_until

from availability import access
from availability.event_shapes import events_of
from ledger import (
    Apply,
    Commit,
    Count,
    Done,
    Expire,
    Extend,
    Hold,
    HoldLine,
    Journal,
    Ledger,
    Location,
    Place,
    PutLocation,
    Read,
    ReadItem,
    Release,
    Reservation,
    Ship,
    StockEvent,
    event_key,
    migrate,
    operation_id,
)

pytestmark = pytest.mark.anyio

NOW_MS = 1_795_000_000_000


class Clock:
    """The ledger's clock, which stands still unless moved."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(valkey_url: str, clock: Clock) -> AsyncIterator[Ledger]:
    opened = await Ledger.open(valkey_url, now_ms=clock)
    yield opened
    await opened.close()


def stock_event(number: int, sku: str, quantity: int) -> StockEvent:
    event = f"event-{number}"
    return StockEvent(event_key("wms", event), "wms", event, "snapshot", sku, "W1", quantity, NOW_MS - 1_000)


def hold(key: str, sku: str) -> Hold:
    return Hold(operation_id("web", key), "call:0", "web", [HoldLine(sku, 3, "W1")], 60_000)


async def live(ledger: Ledger) -> None:
    """One of everything that changes something."""
    await ledger.put_location(PutLocation("web", Location("W1")))
    await ledger.apply(Apply("wms", [stock_event(1, 'A "b"', 100), stock_event(2, "B", 50)]))
    await ledger.put_location(PutLocation("web", Location("W2", authority="wms")))
    seen = StockEvent(event_key("erp", "night"), "erp", "night", "snapshot", "B", "W2", 9, NOW_MS - 1_000)
    assert (await ledger.apply(Apply("erp", [seen]))).results[0].reason == "not-authoritative"
    await ledger.count(Count("call:1", "store", "W1", "count-1", [stock_event(3, "C", 7)]))
    for key in ("shipped", "released", "expired"):
        assert isinstance(await ledger.hold(hold(key, 'A "b"')), Done)
    first, second = operation_id("web", "shipped"), operation_id("web", "released")
    await ledger.extend(Extend(operation_id("web", "1"), "call:2", "web", first, 90_000))
    await ledger.commit(Commit(operation_id("web", "2"), "call:3", "web", first, "order-1"))
    await ledger.ship(Ship(operation_id("web", "3"), "call:4", "web", first))
    await ledger.release(Release(operation_id("web", "4"), "call:5", "web", second))


async def test_journal_of_the_script_is_readable_and_adds_up(
    valkey_url: str, postgres_url: str, ledger: Ledger, clock: Clock
) -> None:
    await live(ledger)
    clock.now_ms += 60_001
    await ledger.expire(Expire())
    await migrate(postgres_url)
    journal = await Journal.open(as_user(postgres_url, access.API))
    last = await ledger.hold(hold("last", "B"))
    assert isinstance(last, Done)
    end = Place(last.reservation.epoch, last.reservation.seq)

    async def complete() -> bool:
        return (await journal.cursor(0)).place == end

    async with following(valkey_url, postgres_url) as seen:
        await wait_until(complete)
    entries = [entry async for entry in journal.entries(0)]
    problems = await journal.verify_chain(0)
    await journal.close()

    assert (seen.written.rejects, seen.written.gaps, problems) == (0, 0, [])
    operations = [operation for entry in entries for operation in entry.operations]
    assert Counter(operation.verb for operation in operations) == {
        "put_location": 2,
        "view": 1,
        "apply": 3,
        "count": 1,
        "hold": 4,
        "extend": 1,
        "commit": 1,
        "ship": 1,
        "release": 1,
        "expire": 1,
    }
    [shipped] = [operation for operation in operations if operation.verb == "ship"]
    assert msgspec.msgpack.decode(shipped.body, type=Reservation).status == "shipped"
    events = Counter(event.subject for event in events_of(0, entries, stale_after_ms=1))
    assert events == {
        "availability.reservation.held": 4,
        "availability.reservation.extended": 1,
        "availability.reservation.committed": 1,
        "availability.reservation.shipped": 1,
        "availability.reservation.released": 1,
        "availability.reservation.expired": 1,
        "availability.stock.changed": 3,
    }

    books = fold(entries)
    answer = await ledger.read(Read([ReadItem(sku, ["W1"]) for sku in ('A "b"', "B", "C")]))
    for sku, item in zip(('A "b"', "B", "C"), answer.items, strict=True):
        assert +Counter(numbers(item.positions[0].position)) == +books[sku, "W1"]
