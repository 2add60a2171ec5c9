"""Each limit that config/README.md lists, at its edge: what is the last that is taken, and what the first refusal says.

The client's limits run on both ledgers, the plain rules and the Lua on a real server.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from api_world import World
from books import assert_books_balance, client_counts
from ledgers import START_MS, Clock, Shop
from redis import Redis
from servers import as_owner

from availability.processes import ledger_of
from availability.settings import Settings
from ledger import messages as m
from ledger.identity import event_key
from ledger.rules import RulesLedger
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

OpenShop = Callable[..., Awaitable[Shop]]


@pytest.fixture
async def open_shop(server_url: str | None) -> AsyncIterator[OpenShop]:
    """Opens a shop whose clients have at most so much, with 100 of A and of B."""
    ledgers: list[Any] = []

    async def opened(**limits: Any) -> Shop:
        clock = Clock()
        ledger: Any = Ledger(server_url, now_ms=clock, **limits) if server_url else RulesLedger(clock, **limits)
        ledgers.append(ledger)
        shop = Shop(ledger, clock)
        await shop.open()
        for sku in "AB":
            await shop.stock(sku, 100)
        return shop

    yield opened
    for ledger in ledgers:
        await ledger.close()


# --- open reservations of a client ------------------------------------------------------------------------------


async def test_a_client_has_so_many_open_reservations_and_gets_room_when_one_ends(open_shop: OpenShop) -> None:
    """Committed and picked units keep a reservation open, each ending closes it."""
    shop = await open_shop(client_open_reservations_max=3)
    first, second, third = [await shop.hold(("A", 1)) for _ in range(3)]
    await shop.commit(second.id)
    await shop.commit(third.id)
    await shop.pick(third.id)
    refused = m.OpenReservationsLimit(3, 3)

    assert await shop.hold(("A", 1)) == refused
    assert isinstance(await shop.hold(("A", 1), client="app"), m.Done)
    for ending in (shop.release(first.id), shop.cancel(second.id), shop.ship(third.id)):
        assert isinstance(await ending, m.Done)
        assert isinstance(await shop.hold(("A", 1)), m.Done)
        assert await shop.hold(("A", 1)) == refused


async def test_a_part_that_ends_leaves_a_reservation_open(open_shop: OpenShop) -> None:
    shop = await open_shop(client_open_reservations_max=1)
    held = await shop.hold(("A", 2), ("B", 2))
    await shop.commit(held.id, (1, 1))
    await shop.release(held.id)

    assert await shop.hold(("A", 1)) == m.OpenReservationsLimit(1, 1)
    await shop.cancel(held.id)
    assert isinstance(await shop.hold(("A", 1)), m.Done)


async def test_claiming_an_expired_hold_again_opens_it_again(open_shop: OpenShop) -> None:
    shop = await open_shop(client_open_reservations_max=1)
    expired = await shop.hold(("A", 2), ttl_ms=1_000)
    shop.clock.now_ms += 1_000
    open_one = await shop.hold(("B", 1))

    assert await shop.commit(expired.id, reacquire=True) == m.OpenReservationsLimit(1, 1)
    await shop.release(open_one.id)
    assert isinstance(await shop.commit(expired.id, reacquire=True), m.Done)
    assert await shop.hold(("A", 1)) == m.OpenReservationsLimit(1, 1)


# --- units held by a client -------------------------------------------------------------------------------------


async def test_a_client_holds_so_many_units_and_gets_room_when_they_are_bought_or_given_back(
    open_shop: OpenShop,
) -> None:
    """Committed units are an order's, and no hoard."""
    shop = await open_shop(client_held_units_max=10)
    held = await shop.hold(("A", 4), ("B", 5))

    assert await shop.hold(("A", 1), ("B", 1)) == m.HeldUnitsLimit(10, 9, 2)
    assert isinstance(await shop.hold(("A", 1)), m.Done)
    await shop.commit(held.id, (1, 3))
    await shop.release(held.id, (2, 1))
    assert await shop.hold(("A", 5)) == m.HeldUnitsLimit(10, 6, 5)
    assert isinstance(await shop.hold(("A", 4)), m.Done)


async def test_a_hold_of_what_there_is_is_refused_whole_when_that_is_too_much(open_shop: OpenShop) -> None:
    """The limit takes no part of it away: what was granted would not tell why it was so little."""
    shop = await open_shop(client_held_units_max=100)

    assert await shop.hold(("A", 70), ("B", 999), mode="available") == m.HeldUnitsLimit(100, 0, 170)
    held = await shop.hold(("A", 999), mode="available")
    assert held.reservation.lines[0].held == 100


async def test_too_little_stock_is_told_before_a_limit(open_shop: OpenShop) -> None:
    shop = await open_shop(client_held_units_max=10)

    assert isinstance(await shop.hold(("A", 101)), m.Insufficient)


# --- what no limit stops ----------------------------------------------------------------------------------------


async def test_a_client_at_its_limit_hears_its_answers_again_and_can_end_everything(open_shop: OpenShop) -> None:
    """P3."""
    shop = await open_shop(client_open_reservations_max=2, client_held_units_max=6)
    first, second = await shop.hold(("A", 3), key="one"), await shop.hold(("A", 3), ttl_ms=1_000)
    assert isinstance(await shop.hold(("A", 1)), m.OpenReservationsLimit)
    again = await shop.hold(("A", 3), key="one")

    assert (again.replayed, again.id) == (True, first.id)
    for verb in (shop.extend(first.id, 9_000), shop.commit(first.id), shop.pick(first.id), shop.ship(first.id)):
        assert isinstance(await verb, m.Done)
    assert isinstance(await shop.release(second.id), m.Done)


async def test_what_is_overdue_anywhere_stands_in_no_clients_way(open_shop: OpenShop) -> None:
    """P5: nobody asked for B since, nor for the holds; they are ended before their client is refused."""
    shop = await open_shop(client_open_reservations_max=2, client_held_units_max=10)
    for _ in range(2):
        await shop.hold(("B", 5), ttl_ms=1_000)
    shop.clock.now_ms += 999
    assert await shop.hold(("A", 1)) == m.OpenReservationsLimit(2, 2)
    shop.clock.now_ms += 1

    assert isinstance(await shop.hold(("A", 10)), m.Done)


async def test_a_refusal_after_something_overdue_was_ended_counts_without_it(open_shop: OpenShop) -> None:
    shop = await open_shop(client_held_units_max=10)
    await shop.hold(("B", 5), ttl_ms=1_000)
    await shop.hold(("A", 5))
    shop.clock.now_ms += 1_000

    assert await shop.hold(("A", 6)) == m.HeldUnitsLimit(10, 5, 6)
    assert isinstance(await shop.hold(("A", 5)), m.Done)


# --- what only a real server shows ------------------------------------------------------------------------------


@pytest.fixture
async def tight(valkey_url: str) -> AsyncIterator[Shop]:
    """A shop whose clients may have ten open reservations."""
    clock = Clock()
    ledger = Ledger(valkey_url, now_ms=clock, client_open_reservations_max=10)
    shop = Shop(ledger, clock)
    await shop.open()
    yield shop
    await ledger.close()


async def test_a_flood_of_overdue_holds_refuses_no_client_anything(tight: Shop) -> None:
    """P5, P9: the client's own are the last of more than a call may end, and its hold is asked again until then."""
    skus = [f"S{number}" for number in range(250)]
    await asyncio.gather(*(tight.stock(sku, 10) for sku in [*skus, "A", "Z"]))
    await asyncio.gather(*(tight.hold((sku, 1), ttl_ms=1_000, client=sku) for sku in skus for _ in range(10)))
    await asyncio.gather(*(tight.hold(("Z", 1), ttl_ms=1_001) for _ in range(10)))
    assert await tight.hold(("A", 1)) == m.OpenReservationsLimit(10, 10)
    tight.clock.now_ms += 1_001

    assert isinstance(await tight.hold(("A", 1)), m.Done)


async def test_clients_of_one_call_are_counted_together(tight: Shop, valkey_url: str) -> None:
    """A burst goes in one call and is still counted one by one."""
    await tight.stock("A", 100)
    clients = ["web", "app:{}%"]
    outcomes = await asyncio.gather(*(tight.hold(("A", 1), client=name) for name in clients for _ in range(30)))

    assert sum(isinstance(outcome, m.Done) for outcome in outcomes) == 20
    assert outcomes.count(m.OpenReservationsLimit(10, 10)) == 40
    with Redis.from_url(as_owner(valkey_url)) as client:
        assert client_counts(client) == dict.fromkeys(clients, (10, 10))
        assert client.exists("{s0}:client:app%3A%7B%7D%25")
        assert_books_balance(client)


async def test_a_client_without_claims_leaves_no_key(tight: Shop, valkey_url: str) -> None:
    await tight.stock("A", 10)
    held = await tight.hold(("A", 1))
    with Redis.from_url(as_owner(valkey_url)) as client:
        assert client_counts(client) == {"web": (1, 1)}
        await tight.commit(held.id)
        assert client_counts(client) == {"web": (1, 0)}
        await tight.ship(held.id)
        assert client_counts(client) == {}


async def test_the_keeper_finds_a_hold_where_it_was_before(tight: Shop) -> None:
    """P5: it once forgot a position whose holds had all ended by themselves, and never came back to it."""
    await tight.stock("A", 10)
    released = await tight.hold(("A", 1), ttl_ms=1_000)
    await tight.release(released.id)
    tight.clock.now_ms += 1_000
    assert await tight.ledger.expire(m.Expire()) == m.Expired(0, more=False)
    await tight.hold(("A", 1), ttl_ms=5_000)
    tight.clock.now_ms += 5_000

    assert await tight.ledger.expire(m.Expire()) == m.Expired(1, more=False)


async def test_the_keeper_finds_a_hold_whose_life_was_made_shorter(tight: Shop) -> None:
    """P5."""
    await tight.stock("A", 10)
    held = await tight.hold(("A", 1), ttl_ms=1_000)
    await tight.extend(held.id, 50_000)
    tight.clock.now_ms += 1_000
    assert await tight.ledger.expire(m.Expire()) == m.Expired(0, more=False)
    await tight.extend(held.id, 5_000)
    tight.clock.now_ms += 5_000

    assert await tight.ledger.expire(m.Expire()) == m.Expired(1, more=False)


async def test_a_hold_made_shorter_in_the_call_of_another_is_ended_in_time(tight: Shop) -> None:
    """P5: its new deadline is before all that the server knew when the other hold asked."""
    await tight.stock("A", 2)
    held = await tight.hold(("A", 1), ttl_ms=1_000)
    await tight.extend(held.id, 50_000)
    tight.clock.now_ms += 1_000
    await asyncio.gather(tight.extend(held.id, 5_000), tight.hold(("A", 1), ttl_ms=9_000))
    tight.clock.now_ms += 5_000

    assert isinstance(await tight.hold(("A", 1)), m.Done)


async def test_the_4097th_event_of_one_time_is_quarantined_in_so_many_words(tight: Shop) -> None:
    """P8: nothing is folded for it, so duplicates are still known, and the next moment makes room."""

    async def sell(first: int, last: int, at_ms: int) -> list[tuple[str, str | None]]:
        names = [f"sale-{number}" for number in range(first, last)]
        events = [m.StockEvent(event_key("pos", name), "pos", name, "delta", "A", "S1", -1, at_ms) for name in names]
        applied = await tight.ledger.apply(m.Apply("feed", events))
        return [(result.outcome, result.reason) for result in applied.results]

    await tight.stock("A", 5_000, at_ms=START_MS - 1)
    assert await sell(0, 4_096, START_MS) == [("applied", None)] * 4_096
    assert await sell(4_096, 4_098, START_MS) == [("quarantined", "window-full")] * 2
    assert await sell(0, 1, START_MS) == [("duplicate", None)]
    assert (await tight.position("A")).on_hand == 904

    assert await sell(5_000, 5_001, START_MS + 1) == [("applied", None)]
    assert await sell(4_096, 4_097, START_MS) == [("quarantined", "late")]
    assert (await tight.position("A")).on_hand == 903


async def test_the_settings_reach_the_ledger(valkey_url: str) -> None:
    settings = Settings(redis_url=valkey_url, client_open_reservations_max=2, client_held_units_max=5)
    shop = Shop(ledger_of(settings, lambda _operations, _seconds: None, lambda _shard, _run: None), Clock())
    await shop.open()
    await shop.stock("A", 100, at_ms=0)

    assert await shop.hold(("A", 6)) == m.HeldUnitsLimit(5, 0, 6)
    for _ in range(2):
        await shop.hold(("A", 1))
    assert await shop.hold(("A", 1)) == m.OpenReservationsLimit(2, 2)
    await shop.ledger.close()


# --- over HTTP --------------------------------------------------------------------------------------------------

LINE = {"sku": "SHOE", "quantity": 3, "location": "W1"}


@pytest.fixture
async def world() -> World:
    """A client may have two open reservations and hold five units; there are ten SHOE."""
    world = World(client_open_reservations_max=2, client_held_units_max=5)
    await world.stock()
    return world


def told(problem: dict[str, Any]) -> tuple[object, ...]:
    return tuple(problem[member] for member in ("status", "type", "limit", "current", "retry"))


async def test_a_clients_limits_are_problems_of_their_own(world: World) -> None:
    await world.hold("SHOE", 3)
    before = world.everything()
    units = await world.call("POST", "/v1/reservations", {"lines": [LINE]})
    assert told(units.json()) == (409, "/problems/held-units-limit", 5, 3, "later")
    assert before == world.everything()

    await world.hold("SHOE", 1)
    one_more = {"lines": [{**LINE, "quantity": 1}]}
    alone = await world.call("POST", "/v1/reservations", one_more)
    batch = await world.call("POST", "/v1/reservations/batch", {"reservations": [{"key": "K", **one_more}]})

    assert told(alone.json()) == (409, "/problems/open-reservations-limit", 2, 2, "later")
    assert batch.json()["results"][0]["body"] == alone.json()


async def test_claiming_again_is_refused_as_opening_is(world: World) -> None:
    expired = await world.hold("SHOE", 1, ttl_seconds=1)
    world.now_ms += 1_000
    for _ in range(2):
        await world.hold("SHOE", 1)

    path = f"/v1/reservations/{expired['id']}/commit"
    answer = await world.call("POST", path, {"order_id": "O", "reacquire": True})
    assert told(answer.json()) == (409, "/problems/open-reservations-limit", 2, 2, "later")


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "rule"),
    [
        ("POST", "/v1/reservations", {"lines": [LINE] * 101}, "lines", "Expected `array` of length <= 100"),
        (
            "POST",
            "/v1/reservations/batch",
            {"reservations": [{"key": "K", "lines": [LINE]}] * 257},
            "reservations",
            "Expected `array` of length <= 256",
        ),
        ("POST", "/v1/stock-events", {"events": [{}] * 1_001}, "events", "Expected `array` of length <= 1000"),
        (
            "PUT",
            "/v1/locations/W1/counts/C",
            {"as_of": "2026-11-23T10:00:00Z", "lines": [{"sku": "SHOE", "quantity": 1}] * 10_001},
            "lines",
            "Expected `array` of length <= 10000",
        ),
        ("POST", "/v1/atp", {"items": [{"sku": "SHOE"}] * 501}, "items", "Expected `array` of length <= 500"),
    ],
)
async def test_too_many_of_something_names_the_field_and_how_many_there_may_be(
    world: World, method: str, path: str, body: dict[str, Any], field: str, rule: str
) -> None:
    answer = await world.call(method, path, body)

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")
    assert answer.json()["errors"] == [{"field": field, "rule": rule}]


@pytest.mark.parametrize(("path", "bytes_max"), [("/v1/reservations", 65_536), ("/v1/reservations/batch", 2_097_152)])
async def test_too_many_bytes_says_how_many_are_taken(world: World, path: str, bytes_max: int) -> None:
    answer = await world.call("POST", path, raw=b" " * (bytes_max + 1))

    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
    assert answer.json()["maximum_bytes"] == bytes_max
