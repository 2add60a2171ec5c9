"""The events of a reservation over several shards: each shard tells of its own lines, and its steps are not told."""

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
from books import assert_books_balance, journal_of, live_positions
from ledgers import Clock, Shop
from redis import Redis
from servers import as_owner

from availability.event_shapes import events_of
from ledger import Ledger
from ledger import messages as m
from ledger.keys import shard_of
from ledger.spanning import Shelf, Spanning

pytestmark = pytest.mark.anyio

SHARDS = 4
SHOE, BOOT, SOCK = 1, 0, 3
"""The shards that the SKUs are on."""
BASKET = ("SHOE", 3, "S1"), ("BOOT", 2, "S1"), ("SHOE", 1, "S2")


@pytest.fixture
async def shop(valkey_url: str) -> AsyncIterator[Shop]:
    assert [shard_of(sku, SHARDS) for sku in ("SHOE", "BOOT", "SOCK")] == [SHOE, BOOT, SOCK]
    clock = Clock()
    ledger = Ledger(valkey_url, shards=SHARDS, now_ms=clock)
    shop = Shop(ledger, clock)
    for location in ("S1", "S2"):
        await shop.open(location)
        for sku in ("SHOE", "BOOT", "SOCK"):
            await shop.stock(sku, 10, location)
    yield shop
    await ledger.close()


@pytest.fixture
def client(valkey_url: str) -> Redis:
    return Redis.from_url(as_owner(valkey_url))


def told(client: Redis) -> dict[int, list[Any]]:
    """The data of each shard's events about reservations, in order, with the event's type."""
    found: dict[int, list[Any]] = defaultdict(list)
    for shard in range(SHARDS):
        for event in events_of(shard, journal_of(client, shard), stale_after_ms=1):
            if event.subject.startswith("availability.reservation."):
                found[shard].append(json.loads(event.body) | {"type": event.subject.rpartition(".")[2]})
    return found


def kinds(client: Redis) -> dict[int, list[str]]:
    return {shard: [event["type"] for event in events] for shard, events in told(client).items()}


async def test_each_shard_announces_what_is_held_of_its_own_lines(shop: Shop, client: Redis) -> None:
    done = await shop.hold(*BASKET)
    assert isinstance(done, m.Done)

    events = told(client)
    assert set(events) == {SHOE, BOOT}
    [shoes], [boots] = events[SHOE], events[BOOT]
    for event in (shoes, boots):
        assert (event["type"], event["operation"]) == ("held", "hold")
        assert (event["reservation"]["id"], event["reservation"]["status"]) == (done.id, "held")
    assert [(line["line"], line["sku"], line["held"]) for line in shoes["reservation"]["lines"]] == [
        (1, "SHOE", 3),
        (3, "SHOE", 1),
    ]
    assert [(line["line"], line["sku"], line["held"]) for line in boots["reservation"]["lines"]] == [(2, "BOOT", 2)]
    taken = {"from": "available", "to": "held"}
    assert shoes["movements"] == [
        {"sku": "SHOE", "location": "S1", "quantity": 3} | taken,
        {"sku": "SHOE", "location": "S2", "quantity": 1} | taken,
    ]
    assert boots["movements"] == [{"sku": "BOOT", "location": "S1", "quantity": 2} | taken]


async def test_an_operation_is_announced_where_it_changed_units(shop: Shop, client: Redis) -> None:
    """An extension is announced by every shard that has a part."""
    done = await shop.hold(*BASKET)
    await shop.release(done.id, (2, 1))
    await shop.extend(done.id, 90_000)
    await shop.move(done.id, 1, "S2")
    await shop.commit(done.id)
    await shop.ship(done.id, (3, 1))
    await shop.give_back(done.id, (3, 1))
    await shop.cancel(done.id)

    assert kinds(client) == {
        SHOE: ["held", "extended", "moved", "committed", "shipped", "returned", "cancelled"],
        BOOT: ["held", "released", "extended", "committed", "cancelled"],
    }


async def test_the_steps_of_what_did_not_come_about_are_not_announced(
    shop: Shop, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims that another shard could not match, and units claimed anew for a commit that was refused elsewhere."""
    done = await shop.hold(*BASKET, ttl_ms=1_000)
    shop.clock.now_ms += 1_000
    await shop.ledger.expire(m.Expire())
    await shop.stock("BOOT", 1, "S1", at_ms=shop.clock.now_ms)
    assert isinstance(await shop.commit(done.id, reacquire=True), m.Insufficient)

    # The shelf is read, and then others are quicker.
    read_shelf = Spanning._shelf  # noqa: SLF001

    async def others_are_quicker(self: Spanning, hold: m.Hold) -> Shelf:
        shelf = await read_shelf(self, hold)
        await shop.stock("BOOT", 0, "S1", at_ms=shop.clock.now_ms + 1)
        return shelf

    monkeypatch.setattr(Spanning, "_shelf", others_are_quicker)
    assert isinstance(await shop.hold(("SHOE", 1, "S1"), ("BOOT", 1, "S1")), m.Insufficient)

    verbs = Counter(operation.verb for entry in journal_of(client, SHOE) for operation in entry.operations)
    assert (verbs["prepare"], verbs["drop"], verbs["reclaim"]) == (2, 1, 1)
    assert kinds(client) == {SHOE: ["held", "expired"], BOOT: ["held", "expired"]}


async def test_the_movements_of_the_events_add_up_to_what_is_claimed(shop: Shop, client: Redis) -> None:
    """P6, for whoever has only the events; the journal's own movements say the same."""
    first, second, third, fourth = [await shop.hold(*BASKET[1:], ("SOCK", 2, "S2")) for _ in range(4)]
    await shop.release(first.id, (1, 1), (3, 2))
    await shop.commit(first.id)
    await shop.pick(first.id, (1, 1))
    await shop.commit(second.id)
    await shop.move(second.id, 3, "S1")
    await shop.ship(second.id, (3, 1), (1, 2))
    shop.clock.now_ms += 60_000
    await shop.ledger.expire(m.Expire())
    assert isinstance(await shop.hold(*BASKET), m.Done)
    assert isinstance(await shop.commit(third.id, reacquire=True), m.Done)
    await shop.stock("BOOT", 0, "S1", at_ms=shop.clock.now_ms)
    assert isinstance(await shop.commit(fourth.id, reacquire=True), m.Insufficient)

    claims: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for movement in (each for events in told(client).values() for event in events for each in event["movements"]):
        place = claims[movement["sku"], movement["location"]]
        place[movement["from"]] -= movement["quantity"]
        place[movement["to"]] += movement["quantity"]
    for shard in range(SHARDS):
        assert_books_balance(client, shard)
        for at, position in live_positions(client, shard).items():
            expected = {"held": position.held, "committed": position.committed, "picked": position.picked}
            assert {name: claims[at][name] for name in expected} == expected, at
