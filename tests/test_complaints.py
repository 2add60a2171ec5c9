"""What users of other systems complained about in public, shown not to happen here: one test a complaint.

The eight patterns behind the complaints are the sections; each docstring names the issues whose shape it has.
All of it is the real ledger, through its door or over HTTP; at the end of each test the books balance (P6).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from api_world import START_MS, World, text_of
from books import (
    CLAIMS,
    assert_books_balance,
    assert_deadlines_are_those_of_the_holds,
    fold_reservations,
    journal_of,
    live_positions,
)
from ledgers import Clock, Shop, counts
from redis import Redis
from servers import as_owner

from availability.event_shapes import Event, events_of
from ledger import messages as m
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

STOCK_CHANGED = "availability.stock.changed"


class Market:
    """One ledger with S1 open, a client of its door, the API over it, and one clock for all."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        self.clock.now_ms = START_MS
        self.ledger = Ledger(url, now_ms=self.clock)
        self.shop = Shop(self.ledger, self.clock)
        self.world = World(self.ledger)
        self.client = Redis.from_url(as_owner(url))

    def wait(self, milliseconds: int) -> None:
        self.clock.now_ms += milliseconds
        self.world.now_ms += milliseconds

    async def order(self, *lines: tuple[str, int] | tuple[str, int, str | None]) -> str:
        """A committed reservation; a moment later, so that what ships now is not in the counts of before."""
        held = await self.shop.hold(*lines)
        assert isinstance(held, m.Done), held
        await self.shop.commit(held.id)
        self.wait(1)
        return str(held.id)

    async def units(self, reservation: str, line: int = 1) -> dict[str, int]:
        return counts((await self.shop.found(reservation)).lines[line - 1])

    async def asked(self, sku: str, quantity: int, **more: Any) -> int:
        """The status that a hold gets over HTTP."""
        lines = [{"sku": sku, "quantity": quantity, **more}]
        return (await self.world.call("POST", "/v1/reservations", {"lines": lines})).status_code

    async def atp(self, sku: str) -> Any:
        return (await self.world.call("GET", f"/v1/atp?sku={sku}")).json()

    def events(self, after: int = 0) -> list[Event]:
        """What is announced of the ledger's journal after its entry of that number."""
        entries = [entry for entry in journal_of(self.client) if entry.seq > after]
        return events_of(0, entries, stale_after_ms=60_000)

    @property
    def seq(self) -> int:
        return journal_of(self.client)[-1].seq


@pytest.fixture
async def market(valkey_url: str) -> AsyncIterator[Market]:
    market = Market(valkey_url)
    await market.shop.open()
    yield market
    await market.ledger.close()
    assert_books_balance(market.client)
    assert_claims_are_those_of_the_reservations(market.client)
    assert_deadlines_are_those_of_the_holds(market.client)
    market.client.close()


def assert_claims_are_those_of_the_reservations(client: Redis) -> None:
    """A position's claims are the units of its reservations, and none is below 0."""
    units = fold_reservations(journal_of(client)).values()
    for state in CLAIMS:
        claimed = [getattr(position, state) for position in live_positions(client).values()]
        assert sum(claimed) == sum(counted[state] for counted in units)
        assert min(claimed, default=0) >= 0


# --- 1. check and write in different steps ----------------------------------------------------------------------


async def test_buyers_who_all_saw_the_last_unit_do_not_all_get_it(market: Market) -> None:
    """medusajs/medusa#16569, saleor/saleor#543, magento/inventory#2722 and #3072, spree/spree#3792, odoo/odoo#32434."""
    await market.shop.stock("A", 1)
    seen = await asyncio.gather(*(market.atp("A") for _ in range(20)))
    statuses = await asyncio.gather(*(market.asked("A", 1, location="S1") for _ in range(20)))

    assert {item["available"] for item in seen} == {1}
    assert sorted(statuses) == [201] + [409] * 19


async def test_what_was_free_when_the_buyer_went_to_pay_is_judged_again_when_he_comes_back(market: Market) -> None:
    """vendurehq/vendure#1738, #3508 and #1355: checked on adding to the cart, allocated at payment."""
    await market.shop.stock("A", 2)
    slow = await market.shop.hold(("A", 2), ttl_ms=1_000)
    market.wait(1_000)
    quick = await market.shop.hold(("A", 1))

    assert isinstance(await market.shop.commit(slow.id), m.ReservationExpired)
    short = await market.shop.commit(slow.id, reacquire=True)
    assert [(line.requested, line.available) for line in short.lines] == [(2, 1)]
    await market.shop.release(quick.id)
    assert isinstance(await market.shop.commit(slow.id, reacquire=True), m.Done)


async def test_a_line_that_only_the_sum_of_locations_has_is_taken_from_each_what_it_has(market: Market) -> None:
    """medusajs/medusa#14987 (checked over all locations, taken from the first), vendurehq/vendure#3588 and #4030."""
    await market.shop.open("S2", priority=200)
    await market.shop.stock("A", 5)
    await market.shop.stock("A", 4, "S2")
    order = await market.order(("A", 8, None))

    lines = (await market.shop.found(order)).lines
    assert [(line.location, line.quantity) for line in lines] == [("S1", 5), ("S2", 3)]
    shipped = await market.shop.ship(order)
    assert shipped.reservation.status == "shipped"
    assert [(await market.shop.position("A", location)).on_hand for location in ("S1", "S2")] == [0, 1]


async def test_a_line_that_may_not_be_split_is_not_promised_by_a_sum(market: Market) -> None:
    """medusajs/medusa#14987."""
    await market.shop.open("S2")
    for location in ("S1", "S2"):
        await market.shop.stock("A", 5, location)

    refused = await market.shop.hold(("A", 6, None), max_splits=0)
    assert [(line.requested, line.available) for line in refused.lines] == [(6, 5)]
    assert [(await market.shop.position("A", location)).held for location in ("S1", "S2")] == [0, 0]


async def test_a_webhook_and_the_shop_complete_the_same_cart_at_once(market: Market) -> None:
    """medusajs/medusa#2341: one order, and both hear of the same one."""
    await market.shop.stock("A", 3)
    held = await market.shop.hold(("A", 2))
    path, body = f"/v1/reservations/{held.id}/commit", {"order_id": "ORDER-1"}
    answers = await asyncio.gather(*(market.world.call("POST", path, body, key="cart-1") for _ in range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    assert len({answer.text for answer in answers}) == 1
    assert (await market.shop.position("A")).committed == 2


async def test_an_order_that_fails_half_way_leaves_no_part_of_it_behind(market: Market) -> None:
    """medusajs/medusa#16825: an order survived without its hold; saleor/saleor#5334: an order without allocation."""
    for sku, quantity in (("A", 5), ("B", 5), ("C", 0)):
        await market.shop.stock(sku, quantity)
    before = market.seq
    refused = await market.shop.hold(("A", 1), ("B", 1), ("C", 1))

    assert [(line.line, line.sku) for line in refused.lines] == [(3, "C")]
    assert market.seq == before, "a refusal writes nothing, not even a trace"
    # Nor does it take anything from who is decided in the same call.
    asked = [(("A", 1), ("B", 1), ("C", 1)), (("A", 5), ("B", 5))]
    _, granted = await asyncio.gather(*(market.shop.hold(*lines) for lines in asked))
    assert isinstance(granted, m.Done)


async def test_a_buyer_who_is_paying_does_not_keep_another_from_buying(market: Market) -> None:
    """saleor/saleor#11069: rows stayed locked during the payment call; woocommerce/woocommerce#65325."""
    await market.shop.stock("A", 10)
    paying = [await market.shop.hold(("A", 1)) for _ in range(5)]

    assert isinstance(await market.shop.hold(("A", 5)), m.Done)
    assert all([isinstance(await market.shop.commit(held.id), m.Done) for held in paying])


# --- 2. the same key twice in one request -----------------------------------------------------------------------


async def test_a_second_line_of_the_same_sku_is_judged_after_the_first(market: Market) -> None:
    """medusajs/medusa#16502, vendurehq/vendure#1028: each line was checked against the same number."""
    await market.shop.stock("A", 10)
    lines = [{"sku": "A", "quantity": 6, "location": "S1"}] * 2
    answer = await market.world.call("POST", "/v1/reservations", {"lines": lines})

    assert answer.status_code == 409
    assert [(line["line"], line["available"]) for line in answer.json()["lines"]] == [(2, 4)]
    assert isinstance(await market.shop.hold(("A", 6), ("A", 4)), m.Done)
    assert (await market.shop.position("A")).available == 0


async def test_a_second_cart_of_one_batch_is_judged_after_the_first(market: Market) -> None:
    """medusajs/medusa#16502."""
    await market.shop.stock("A", 10)
    cart = {"lines": [{"sku": "A", "quantity": 6, "location": "S1"}]}
    body = {"reservations": [{"key": f"cart-{number}", **cart} for number in range(3)]}
    answer = await market.world.call("POST", "/v1/reservations/batch", body)

    assert [result["status"] for result in answer.json()["results"]] == [201, 409, 409]
    assert (await market.shop.position("A")).held == 6


@pytest.mark.parametrize("verb", ["commit", "release", "pick", "ship", "cancel", "give_back"])
async def test_a_line_that_is_named_twice_is_asked_for_the_sum(market: Market, verb: str) -> None:
    """medusajs/medusa#11403: the same key twice in one request; here 2 + 2 of 3 is more than there is."""
    await market.shop.stock("A", 3)
    before = {"commit": [], "release": [], "give_back": ["commit", "ship"]}.get(verb, ["commit"])
    held = await market.shop.hold(("A", 3))
    market.wait(1)
    for done in before:
        await getattr(market.shop, done)(held.id)
    units = await market.units(held.id)

    assert isinstance(await getattr(market.shop, verb)(held.id, (1, 2), (1, 2)), m.WrongState)
    assert await market.units(held.id) == units
    assert isinstance(await getattr(market.shop, verb)(held.id, (1, 2), (1, 1)), m.Done)


async def test_carts_with_the_same_skus_in_another_order_do_not_block_each_other(market: Market) -> None:
    """vendurehq/vendure#4930, saleor/saleor#17123: locks in the order of the cart, and so deadlocks."""
    for sku in ("A", "B"):
        await market.shop.stock(sku, 50)
    carts = [("A", "B"), ("B", "A")] * 50
    held = await asyncio.gather(*(market.shop.hold((first, 1), (second, 1)) for first, second in carts))

    assert sum(isinstance(outcome, m.Done) for outcome in held) == 50
    assert [(await market.shop.position(sku)).available for sku in ("A", "B")] == [0, 0]


# --- 3. a counter apart from the rows that explain it -----------------------------------------------------------


async def test_giving_back_what_was_already_given_back_lowers_no_counter(market: Market) -> None:
    """medusajs/medusa#12401 and #11131 (reserved below 0), #13625; vendurehq/vendure#2874 and #1571 (stuck units)."""
    await market.shop.stock("A", 5)
    held = await market.shop.hold(("A", 3), ttl_ms=1_000)
    other = await market.shop.hold(("A", 2))
    await market.shop.release(held.id, (1, 1))
    await market.shop.release(held.id, key="again")
    await market.shop.release(held.id, key="again")
    assert isinstance(await market.shop.release(held.id), m.WrongState)
    assert isinstance(await market.shop.cancel(held.id), m.WrongState)
    market.wait(1_000)
    await market.ledger.expire(m.Expire())

    position = await market.shop.position("A")
    assert (position.held, position.available) == (2, 3)
    assert await market.units(other.id) == {"held": 2}


async def test_a_count_in_the_middle_of_picking_changes_no_claim(market: Market) -> None:
    """odoo/odoo#62139: reserved totals drifted under picking and counting; a user repaired them every ten minutes."""
    await market.shop.stock("A", 10)
    orders = [await market.order(("A", 2)) for _ in range(3)]
    await asyncio.gather(
        market.shop.pick(orders[0]),
        market.shop.stock("A", 9),
        market.shop.pick(orders[1], (1, 1)),
        market.shop.stock("A", 8, source="erp"),
    )

    position = await market.shop.position("A")
    assert (position.committed, position.picked) == (3, 3)
    assert position.available == position.on_hand - 6


async def test_a_hold_lives_as_long_as_was_asked_for(market: Market) -> None:
    """woocommerce/woocommerce#44231: the setting was ignored by the new checkout."""
    await market.shop.stock("A", 1)
    lines = [{"sku": "A", "quantity": 1, "location": "S1"}]
    held = await market.world.call("POST", "/v1/reservations", {"lines": lines, "ttl_seconds": 90})

    assert held.json()["expires_at"] == text_of(START_MS + 90_000)
    market.wait(89_999)
    assert await market.asked("A", 1, location="S1") == 409
    market.wait(1)
    assert await market.asked("A", 1, location="S1") == 201


# --- 4. reverse paths are weaker than forward paths -------------------------------------------------------------


async def test_a_partial_invoice_and_then_a_cancellation_gives_back_the_rest_only(market: Market) -> None:
    """magento/inventory#1881 and #1887: the compensation was all or nothing."""
    await market.shop.stock("A", 10)
    order = await market.order(("A", 5))
    await market.shop.ship(order, (1, 2))
    cancelled = await market.shop.cancel(order)

    assert counts(cancelled.reservation.lines[0]) == {"shipped": 2, "cancelled": 3}
    position = await market.shop.position("A")
    assert (position.on_hand, position.available) == (8, 8)


async def test_a_shipment_and_a_cancellation_are_not_both_compensated(market: Market) -> None:
    """magento/inventory#1849 and #1878."""
    await market.shop.stock("A", 10)
    order = await market.order(("A", 4))
    await market.shop.ship(order)

    assert await market.shop.cancel(order) == m.WrongState("shipped", ["return"])
    position = await market.shop.position("A")
    assert (position.on_hand, position.available) == (6, 6)


async def test_a_refund_without_restock_puts_nothing_back(market: Market) -> None:
    """magento/inventory#2859."""
    await market.shop.stock("A", 10)
    order = await market.order(("A", 4))
    await market.shop.ship(order)
    market.wait(1)
    returned = await market.shop.give_back(order, (1, 3), disposition="discard")

    assert counts(returned.reservation.lines[0]) == {"shipped": 1, "returned": 3}
    assert (await market.shop.position("A")).on_hand == 6


async def test_a_shipment_that_comes_back_restores_the_stock_and_leaves_no_claim(market: Market) -> None:
    """vendurehq/vendure#1198 and #1250, medusajs/medusa#11703: on-hand came back, the claim did not go."""
    await market.shop.stock("A", 5)
    order = await market.order(("A", 5))
    await market.shop.ship(order)
    market.wait(1)
    await market.shop.give_back(order)

    position = await market.shop.position("A")
    assert (position.on_hand, position.committed, position.available) == (5, 0, 5)
    assert isinstance(await market.shop.hold(("A", 5)), m.Done)


async def test_a_cancellation_of_part_of_an_order_and_then_the_shipment_of_the_rest(market: Market) -> None:
    """medusajs/medusa#16406, solidusio/solidus#2285: the edit put back or took again units of other steps."""
    await market.shop.stock("A", 9)
    order = await market.order(("A", 6))
    await market.shop.cancel(order, (1, 2))
    shipped = await market.shop.ship(order)

    assert counts(shipped.reservation.lines[0]) == {"shipped": 4, "cancelled": 2}
    position = await market.shop.position("A")
    assert (position.on_hand, position.available) == (5, 5)


async def test_an_edit_that_changes_no_quantity_claims_nothing_anew(market: Market) -> None:
    """medusajs/medusa#16406: an edit of the price held the full line again."""
    await market.shop.stock("A", 4)
    held = await market.shop.hold(("A", 4))
    await market.shop.commit(held.id, (1, 3))
    extended = await market.shop.extend(held.id, 90_000)

    assert counts(extended.reservation.lines[0]) == {"held": 1, "committed": 3}
    position = await market.shop.position("A")
    assert (position.held, position.committed, position.available) == (1, 3, 0)


async def test_an_order_over_what_is_left_can_be_cancelled_and_makes_no_phantom_stock(market: Market) -> None:
    """medusajs/medusa#12796 (failed below 0), spree/spree#7328 and #4574, solidusio/solidus#3719 (phantom stock)."""
    await market.shop.stock("A", 5)
    order = await market.order(("A", 5))
    await market.shop.stock("A", 1)
    before = (await market.shop.position("A")).available
    await market.shop.cancel(order, (1, 2))
    during = await market.shop.position("A")
    await market.shop.cancel(order)

    assert (before, during.available, during.on_hand) == (-4, -2, 1)
    position = await market.shop.position("A")
    assert (position.on_hand, position.available) == (1, 1)


async def test_an_order_keeps_its_units_when_the_stock_is_counted_as_none(market: Market) -> None:
    """spree/spree#10086: dropped from the shipment; vendurehq/vendure#4930: the shortfall was invisible."""
    await market.shop.stock("A", 3)
    order = await market.order(("A", 3))
    await market.shop.stock("A", 0)

    assert await market.units(order) == {"committed": 3}
    assert (await market.shop.position("A")).available == -3
    assert isinstance(await market.shop.ship(order), m.Done)


async def test_a_shipment_leaves_no_claim_of_its_order_behind(market: Market) -> None:
    """medusajs/medusa#11266: the shipment sometimes left its hold."""
    for sku in ("A", "B"):
        await market.shop.stock(sku, 9)
    order = await market.order(("A", 3), ("B", 2), ("A", 1))
    await market.shop.pick(order, (1, 2), (2, 1))
    for lines in ([(1, 1), (3, 1)], [(2, 2)], []):
        await market.shop.ship(order, *lines)

    for sku, on_hand in (("A", 5), ("B", 7)):
        position = await market.shop.position(sku)
        assert (position.on_hand, position.available) == (on_hand, on_hand)


async def test_what_is_given_back_lands_where_it_was_taken(market: Market) -> None:
    """magento/inventory#2773: the hold and its compensation on different keys; odoo/odoo#24555: the wrong quant."""
    await market.shop.open("S2")
    for sku in ("A", "a", "A:S1", "{A}", "%41"):
        for location in ("S1", "S2"):
            await market.shop.stock(sku, 4, location)
            held = await market.shop.hold((sku, 2, location))
            await market.shop.commit(held.id, (1, 1))
            await market.shop.release(held.id)
            await market.shop.cancel(held.id)

    assert {position.available for position in live_positions(market.client).values()} == {4}


# --- 5. a hold that blocks its owner ----------------------------------------------------------------------------


async def test_an_orders_own_claim_does_not_keep_it_from_shipping(market: Market) -> None:
    """medusajs/medusa#6500, spree/spree#14040: all there is, is the buyer's own."""
    await market.shop.stock("A", 3)
    held = await market.shop.hold(("A", 3))

    assert isinstance(await market.shop.extend(held.id, 90_000), m.Done)
    assert isinstance(await market.shop.commit(held.id), m.Done)
    assert isinstance(await market.shop.pick(held.id, (1, 1)), m.Done)
    market.wait(1)
    assert (await market.shop.ship(held.id)).reservation.status == "shipped"
    assert (await market.shop.position("A")).on_hand == 0


async def test_a_closed_or_short_location_still_ships_what_it_promised(market: Market) -> None:
    """medusajs/medusa#6500; magento/inventory#3232: a source that ships and does not sell."""
    await market.shop.stock("A", 3)
    order = await market.order(("A", 3))
    await market.shop.stock("A", 1)
    await market.shop.open("S1", enabled=False)

    assert await market.asked("A", 1, location="S1") == 409
    assert (await market.shop.ship(order)).reservation.status == "shipped"


async def test_a_claim_moves_to_where_it_already_is(market: Market) -> None:
    """spree/spree#14040: it was compared with what it had taken itself."""
    await market.shop.stock("A", 3)
    held = await market.shop.hold(("A", 3))

    assert isinstance(await market.shop.move(held.id, 1, "S1"), m.Done)
    assert await market.units(held.id) == {"held": 3}


# --- 6. a claim on a pool whose nodes are shared ----------------------------------------------------------------


async def test_two_channels_do_not_each_sell_the_units_that_they_share(market: Market) -> None:
    """magento/inventory#2727: each stock had its own holds on one source; medusajs/medusa#3682: totals multiplied."""
    await market.shop.stock("A", 5)
    assert (await market.atp("A"))["available"] == 5

    assert isinstance(await market.shop.hold(("A", 3), channel="web"), m.Done)
    refused = await market.shop.hold(("A", 3), channel="app")
    assert [(line.requested, line.available) for line in refused.lines] == [(3, 2)]


async def test_an_order_to_be_sent_does_not_drain_the_store_that_a_pick_up_relies_on(market: Market) -> None:
    """magento/inventory#2032: the claim was on the pool, the shipment took the store's units."""
    await market.shop.open("STORE", type="store")
    await market.shop.stock("A", 2, "STORE")
    await market.shop.stock("A", 2, "S1")
    pick_up = await market.order(("A", 2, "STORE"))

    sent = await market.order(("A", 2, None))
    await market.shop.ship(sent)
    assert isinstance(await market.shop.hold(("A", 1, None)), m.Insufficient)
    assert (await market.shop.position("A", "STORE")).on_hand == 2
    assert (await market.shop.ship(pick_up)).reservation.status == "shipped"


async def test_a_pick_up_is_not_accepted_at_a_store_without_stock(market: Market) -> None:
    """magento/inventory#2676: checked over the pool, not at the store; medusajs/medusa#10658."""
    await market.shop.open("STORE", type="store")
    await market.shop.stock("A", 100, "S1")
    lines = [{"sku": "A", "quantity": 1, "location": "STORE"}]
    answer = await market.world.call("POST", "/v1/reservations", {"lines": lines})

    assert (answer.status_code, answer.json()["lines"][0]["available"]) == (409, 0)


# --- 7. a change without an event, or an event without its context ----------------------------------------------


def changes(events: list[Event]) -> list[dict[str, Any]]:
    """What is told of positions."""
    return [msgspec.json.decode(event.body) for event in events if event.subject == STOCK_CHANGED]


async def test_a_restock_while_everything_is_claimed_is_told(market: Market) -> None:
    """saleor/saleor#11637: back in stock was not raised, because the comparison looked at claimed units."""
    await market.shop.stock("A", 3)
    await market.order(("A", 3))
    for quantity, on_hand, available in ((-2, 1, 0), (1, 2, 0), (2, 4, 1)):
        before = market.seq
        market.wait(1)
        await market.shop.event("delta", "A", quantity)

        (change,) = changes(market.events(before))
        assert (change["sku"], change["location"]) == ("A", "S1")
        assert (change["on_hand"], change["committed"], change["available"]) == (on_hand, 3, available)


async def test_every_step_of_an_order_tells_what_it_changed(market: Market) -> None:
    """saleor/saleor#11630 and #19449: edits and order flows changed stock without a word."""
    await market.shop.open("S2")
    for location in ("S1", "S2"):
        await market.shop.stock("A", 9, location)
    held = await market.shop.hold(("A", 6), ttl_ms=1_000)
    shop = market.shop
    told: list[str] = []
    steps: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("released", lambda: shop.release(held.id, (1, 1))),
        ("moved", lambda: shop.move(held.id, 1, "S2")),
        ("committed", lambda: shop.commit(held.id, (1, 4))),
        ("picked", lambda: shop.pick(held.id, (1, 3))),
        ("shipped", lambda: shop.ship(held.id, (1, 2))),
        ("returned", lambda: shop.give_back(held.id, (1, 1))),
        ("cancelled", lambda: shop.cancel(held.id)),
        ("expired", lambda: market.ledger.expire(m.Expire())),
    ]
    for word, step in steps:
        before = market.seq
        market.wait(1_000 if word == "expired" else 1)
        await step()
        events = market.events(before)
        told += [event.subject for event in events if event.subject != STOCK_CHANGED]
        now = {location: await shop.position("A", location) for location in ("S1", "S2")}
        where = {"released": {"S1"}, "moved": {"S1", "S2"}}.get(word, {"S2"})
        assert {change["location"] for change in changes(events)} == where
        for change in changes(events):
            position = now[change["location"]]
            assert [change[bucket] for bucket in (*CLAIMS, "on_hand", "available")] == [
                getattr(position, bucket) for bucket in (*CLAIMS, "on_hand", "available")
            ]

    assert told == [f"availability.reservation.{word}" for word, _ in steps]


async def test_an_event_shows_the_number_that_the_checkout_shows(market: Market) -> None:
    """saleor/apps#2427 and #1175: without its context the event's quantity resolved to 0."""
    await market.shop.stock("A", 7)
    await market.shop.hold(("A", 2))

    (item,) = (await market.atp("A"))["locations"]
    change = changes(market.events())[-1]
    assert {name: change[name] for name in item if name != "age_ms"} == {n: item[n] for n in item if n != "age_ms"}
    assert change["available"] == 5


async def test_an_item_that_is_all_held_is_not_listed_as_buyable(market: Market) -> None:
    """saleor/saleor#10877: the filter ignored live holds."""
    await market.shop.stock("A", 2)
    held = await market.shop.hold(("A", 2))
    item = await market.atp("A")

    assert (item["status"], item["available"], item["promisable"]) == ("held_out", 0, False)
    await market.shop.commit(held.id)
    assert (await market.atp("A"))["status"] == "sold_out"


async def test_a_change_is_seen_by_the_next_question(market: Market) -> None:
    """medusajs/medusa#15178: cached look-ups went on serving old stock; magento/magento2#40212."""
    for quantity in (3, 0, 8, 1):
        market.wait(1)
        await market.shop.stock("A", quantity)
        assert (await market.atp("A"))["available"] == quantity
        assert await market.asked("A", quantity + 1, location="S1") == 409


# --- 8. repair tools that cannot run at scale, or come too late -------------------------------------------------


async def test_the_journal_alone_gives_every_number_of_every_kind_of_order(market: Market) -> None:
    """magento/inventory#2522 and #3153 (a drift report missed or doubled some kinds), vendurehq/vendure#661.

    One pass over the journal, in the memory of its positions: the fixture makes it after each test of this page.
    """
    shop = market.shop
    await shop.open("S2")
    for sku in ("A", "B"):
        await shop.stock(sku, 40)
        await shop.stock(sku, 40, "S2")
    for step in ("release", "cancel", "ship", "pick", "move", "expire"):
        held = await shop.hold(("A", 3, None), ("B", 2), ttl_ms=1_000)
        if step == "move":
            await shop.move(held.id, 2, "S2")
        if step != "expire":
            await shop.release(held.id, (1, 1))
            await shop.commit(held.id, (1, 2), (2, 1))
        market.wait(1)
        if step in ("cancel", "ship", "pick"):
            await getattr(shop, step)(held.id, (1, 1))
    market.wait(1_000)
    await market.ledger.expire(m.Expire())

    assert_books_balance(market.client)
    assert_claims_are_those_of_the_reservations(market.client)


async def test_a_count_of_ten_thousand_products_is_taken(market: Market) -> None:
    """odoo/odoo#56769 (could not finish), magento/inventory#2306 (2,000 took a minute), medusajs/medusa#14490."""
    lines = [{"sku": f"SKU-{number}", "quantity": number % 7} for number in range(10_000)]
    body = {"as_of": text_of(START_MS), "lines": lines}
    answer = await market.world.call("PUT", "/v1/locations/S1/counts/YEAR-END", body)

    assert answer.status_code == 200
    assert {result["outcome"] for result in answer.json()["results"]} == {"applied"}
    assert len(live_positions(market.client)) == 10_000
