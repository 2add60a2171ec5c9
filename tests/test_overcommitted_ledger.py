"""Safety stock, and positions whose claims exceed what is there: plain rules and a real server (P1, P5, P6)."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from books import assert_books_balance, fold_shortages, journal_of, live_shortages
from ledgers import START_MS, Clock, Shop
from redis import Redis
from servers import as_owner

from ledger import messages as m
from ledger.identity import event_key
from ledger.rules import RulesLedger
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

AT_S1 = ("A", "S1")


@pytest.fixture
async def shop(server_url: str | None) -> AsyncIterator[Shop]:
    """A shop with two open locations, whose books balance at the end."""
    clock = Clock()
    ledger = Ledger(server_url, now_ms=clock) if server_url else RulesLedger(clock)
    shop = Shop(ledger, clock)
    await shop.open()
    await shop.open("S2")
    yield shop
    await ledger.close()
    if server_url:
        with Redis.from_url(as_owner(server_url)) as client:
            assert_books_balance(client)


@pytest.fixture
def shortages(shop: Shop, server_url: str | None) -> Any:
    """What is overcommitted now, as the ledger itself keeps it."""

    def read() -> dict[tuple[str, str], tuple[int, int]]:
        if server_url is None:
            return {(*place,): (*shortage,) for place, shortage in shop.ledger.rules.overcommitted.items()}
        with Redis.from_url(as_owner(server_url)) as client:
            return live_shortages(client)

    return read


async def left(shop: Shop, sku: str = "A") -> int:
    item = (await shop.ledger.read(m.Read([m.ReadItem(sku)]))).items[0]
    return sum(position.left for position in item.positions)


# --- safety stock -----------------------------------------------------------------------------------------------


async def test_safety_stock_is_never_promised_to_anybody(shop: Shop) -> None:
    """P1: neither by ATP nor a hold, nor a commit that reacquires, nor a move."""
    await shop.stock("A", 10)
    await shop.stock("A", 10, "S2")
    expired = await shop.hold(("A", 4), ttl_ms=1)
    moved = await shop.hold(("A", 4, "S2"))
    shop.clock.now_ms += 1
    await shop.keep("A", 7)

    assert await left(shop) == 3 + 6
    assert await shop.hold(("A", 4)) == m.Insufficient([m.ShortLine(1, "A", "S1", 4, 3, "low")])
    assert isinstance(await shop.commit(expired.id, reacquire=True), m.Insufficient)
    assert isinstance(await shop.move(moved.id, 1, "S1"), m.Insufficient)
    await shop.keep("A", 6)
    assert isinstance(await shop.move(moved.id, 1, "S1"), m.Done)


async def test_safety_stock_above_what_is_there_shows_nothing_below_zero(shop: Shop, shortages: Any) -> None:
    """It is no shortage either: what is claimed is there."""
    await shop.stock("A", 5)
    await shop.hold(("A", 4))
    await shop.keep("A", 1_000_000_000)

    assert await left(shop) == 0
    assert (await shop.position("A")).available == 1 - 1_000_000_000
    assert shortages() == {}


async def test_safety_stock_put_again_changes_nothing(shop: Shop, server_url: str | None) -> None:
    await shop.stock("A", 5)
    first = await shop.keep("A", 2)
    again = await shop.keep("A", 2)

    assert first == again == m.SafetyStockStored([m.SafetyStock("A", "S1", 2)])
    if server_url:
        with Redis.from_url(as_owner(server_url)) as client:
            operations = [operation for entry in journal_of(client) for operation in entry.operations]
        [put] = [operation for operation in operations if operation.verb == "put_safety_stock"]
        assert (put.subject, put.client, put.movements) == ("A@S1", "ops", [])


async def test_one_unknown_location_stops_all_of_it(shop: Shop) -> None:
    await shop.stock("A", 5)
    items = [m.SafetyStock("A", "S1", 2), m.SafetyStock("A", "nowhere", 2)]

    assert await shop.ledger.put_safety_stock(m.PutSafetyStock("ops", items)) == m.UnknownLocation(2, "nowhere")
    assert await left(shop) == 5


async def test_safety_stock_of_what_was_never_counted_waits_for_the_count(shop: Shop, server_url: str | None) -> None:
    """DESIGN 9: a SKU never seen stays unknown."""
    await shop.keep("A", 2)
    await shop.keep("B:%", 9)
    await shop.keep("B:%", 0)
    read = await shop.ledger.read(m.Read([m.ReadItem("A"), m.ReadItem("A", ["S1"])]))

    assert [(item.known, item.positions) for item in read.items] == [(False, [])] * 2
    assert await shop.hold(("A", 1)) == m.UnknownSku(1, "A")
    await shop.stock("A", 5)
    await shop.stock("B:%", 5)
    assert (await left(shop), await left(shop, "B:%")) == (3, 5)
    assert (await shop.position("A")).safety_stock == 2
    if server_url:
        with Redis.from_url(as_owner(server_url)) as client:
            assert not client.exists("{s0}:safety_stock")


# --- a location that closes -------------------------------------------------------------------------------------


async def test_a_closed_location_promises_nothing_from_the_next_decision_on(shop: Shop) -> None:
    await shop.stock("A", 5)
    held = await shop.hold(("A", 1))
    await shop.open(enabled=False)

    assert await left(shop) == 0
    assert await shop.hold(("A", 1)) == m.Insufficient([m.ShortLine(1, "A", "S1", 1, 0, "held_out")])
    assert isinstance(await shop.commit(held.id), m.Done)
    await shop.open(enabled=True)
    assert isinstance(await shop.hold(("A", 4)), m.Done)


# --- overcommitted ----------------------------------------------------------------------------------------------


async def test_a_count_below_the_claims_is_noticed_until_stock_returns(shop: Shop, shortages: Any) -> None:
    """P1."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 6))
    committed = await shop.hold(("A", 3))
    await shop.commit(committed.id)
    shop.clock.now_ms += 10
    await shop.stock("A", 7)
    assert shortages() == {AT_S1: (2, START_MS + 10)}

    shop.clock.now_ms += 10
    await shop.event("delta", "A", -1)
    assert shortages() == {AT_S1: (3, START_MS + 10)}, "it began then, and is more now"
    await shop.release(held.id, (1, 2))
    assert shortages() == {AT_S1: (1, START_MS + 10)}
    await shop.event("delta", "A", 1)
    assert shortages() == {}


@pytest.mark.parametrize("ending", ["release", "cancel", "receipt", "move", "expiry"])
async def test_it_clears_by_itself(shop: Shop, shortages: Any, ending: str) -> None:
    await shop.stock("A", 5)
    await shop.stock("A", 5, "S2")
    first = await shop.hold(("A", 2))
    await shop.commit(first.id)
    second = await shop.hold(("A", 3), ttl_ms=100)
    await shop.stock("A", 3, at_ms=START_MS + 1)
    assert shortages() == {AT_S1: (2, START_MS)}

    if ending == "release":
        await shop.release(second.id)
    elif ending == "cancel":
        await shop.cancel(first.id)
    elif ending == "receipt":
        await shop.event("delta", "A", 2, at_ms=START_MS + 2)
    elif ending == "move":
        await shop.move(second.id, 1, "S2")
    else:
        shop.clock.now_ms += 100
        await shop.ledger.expire(m.Expire())
    assert shortages() == {}


async def test_overdue_holds_are_no_claims(shop: Shop, shortages: Any, server_url: str | None) -> None:
    """P5: they are ended before anybody is alarmed, at every position of theirs."""
    await shop.stock("A", 5)
    await shop.stock("B", 5)
    await shop.hold(("A", 4), ("B", 4), ttl_ms=1)
    await shop.stock("B", 3)
    assert shortages() == {("B", "S1"): (1, START_MS)}
    shop.clock.now_ms += 1
    await shop.stock("A", 1)

    assert shortages() == {}
    assert await left(shop) == 1
    if server_url:
        with Redis.from_url(as_owner(server_url)) as client:
            entries = journal_of(client)
        assert fold_shortages(entries) == {}
        last = [operation.verb for operation in entries[-1].operations]
        assert sorted(last) == ["apply", "expire", "overcommitted"], "of B, which is no longer"


async def test_it_does_not_matter_that_the_location_is_closed_nor_what_is_kept_safe(shop: Shop, shortages: Any) -> None:
    await shop.stock("A", 5)
    await shop.hold(("A", 3))
    await shop.keep("A", 4)
    await shop.open(enabled=False)
    assert shortages() == {}
    await shop.stock("A", 2, at_ms=START_MS + 1)
    assert shortages() == {AT_S1: (1, START_MS)}


async def test_where_nothing_is_claimed_nothing_is_short(shop: Shop, shortages: Any) -> None:
    await shop.event("delta", "A", -3)
    assert (await shop.position("A")).on_hand == -3
    assert shortages() == {}


async def test_a_retraction_and_two_positions_in_one_call(shop: Shop, shortages: Any) -> None:
    for sku in ("A", "B"):
        await shop.event("delta", sku, 5, id=f"receipt-{sku}")
        await shop.hold((sku, 5))
    events = [
        m.StockEvent(
            *(event_key("wms", f"mistake-{sku}"), "wms", f"mistake-{sku}", "delta", sku, "S1", 5, START_MS),
            reverses=event_key("wms", f"receipt-{sku}"),
        )
        for sku in ("A", "B")
    ]
    await shop.ledger.apply(m.Apply("feed", events))

    assert shortages() == {AT_S1: (5, START_MS), ("B", "S1"): (5, START_MS)}


async def test_an_overdue_flood_raises_nothing_before_the_last_of_it_is_ended(valkey_url: str) -> None:
    """P5: more of them than one call may end."""
    clock = Clock()
    ledger = Ledger(valkey_url, now_ms=clock)
    shop = Shop(ledger, clock)
    await shop.open()
    await shop.stock("A", 2_500)
    for _ in range(2_400):
        await shop.hold(("A", 1), ttl_ms=1)
    live = await shop.hold(("A", 5))
    clock.now_ms += 1
    with Redis.from_url(as_owner(valkey_url)) as client:
        await shop.stock("A", 3)
        assert live_shortages(client) == {}
        assert (await ledger.expire(m.Expire())).reservations == 400
        assert live_shortages(client) == {AT_S1: (2, clock.now_ms)}
        await shop.release(live.id, (1, 2))
        assert_books_balance(client)
    await ledger.close()


async def test_several_shards_keep_safety_stock_and_shortages_of_their_own(valkey_url: str) -> None:
    clock = Clock()
    ledger = Ledger(valkey_url, shards=4, now_ms=clock)
    shop = Shop(ledger, clock)
    await shop.open()
    skus = ("A", "B:{}%1", "C", "D")
    items = [m.SafetyStock(sku, "S1", number) for number, sku in enumerate(skus, 1)]
    for sku in skus:
        await shop.stock(sku, 5)
    unknown = [*items, m.SafetyStock("A", "nowhere", 1)]

    assert await ledger.put_safety_stock(m.PutSafetyStock("ops", unknown)) == m.UnknownLocation(5, "nowhere")
    assert [await left(shop, sku) for sku in skus] == [5, 5, 5, 5]
    assert await ledger.put_safety_stock(m.PutSafetyStock("ops", items)) == m.SafetyStockStored(items)
    assert [await left(shop, sku) for sku in skus] == [4, 3, 2, 1]
    held = await shop.hold(("A", 4), ("B:{}%1", 3))
    for sku in skus[:2]:
        await shop.stock(sku, 2, at_ms=START_MS + 1)
    with Redis.from_url(as_owner(valkey_url)) as client:
        told = {place: short for shard in range(4) for place, short in live_shortages(client, shard).items()}
        assert told == {AT_S1: (2, START_MS), ("B:{}%1", "S1"): (1, START_MS)}
        await shop.release(held.id)
        for shard in range(4):
            assert live_shortages(client, shard) == {}
            assert_books_balance(client, shard)
    await ledger.close()
