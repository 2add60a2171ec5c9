"""Reservations over several shards: all or none, also when a coordinator dies half-way (P1, P3, P5, P6)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from books import assert_books_balance
from ledgers import START_MS, Clock, Shop
from redis import Redis

from ledger import messages as m
from ledger.errors import Overloaded
from ledger.keys import shard_of
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

SHARDS = 4
SKUS = ["A", "B", "D"]
SETTLED_AFTER_MS = 10_000
"""No unit is blocked for longer by a coordinator that died."""
Act = Callable[[Shop, str], Coroutine[Any, Any, Any]]


class Killed(BaseException):
    """The process is gone: no `except Exception` of its own sees it."""


class World:
    """A shop on several shards, with a coordinator that can be killed and a second process that goes on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = Clock()
        self.ledger = Ledger(url, shards=SHARDS, now_ms=self.clock)
        self.shop = Shop(self.ledger, self.clock)
        self.redis = Redis.from_url(url)

    async def open(self) -> None:
        await self.shop.open("S1")
        await self.shop.open("S2")
        for sku in SKUS:
            await self.shop.stock(sku, 5, at_ms=self.clock.now_ms - 1_000)
            await self.shop.stock(sku, 5, "S2", at_ms=self.clock.now_ms - 1_000)

    async def start_again(self) -> None:
        self.redis.flushall()
        self.clock.now_ms = START_MS
        await self.open()

    async def hold(self, **fields: Any) -> Any:
        return await self.shop.hold(("A", 1), ("B", 2), ("D", 3), **fields)

    async def close(self) -> None:
        await self.ledger.close()
        self.redis.close()

    async def die_in(self, act: Act, target: str, submissions: int) -> bool:
        """Runs the act in a process that dies when it would send one operation more; whether it did die."""
        ledger = Ledger(self.url, shards=SHARDS, now_ms=self.clock)
        left = submissions

        def mortal(submit: Callable[[m.Operation], Any]) -> Callable[[m.Operation], Any]:
            def submitted(operation: m.Operation) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return submit(operation)

            return submitted

        for coalescer in ledger._coalescers:  # noqa: SLF001 the process dies at a place of its own
            setattr(coalescer, "submit", mortal(coalescer.submit))  # noqa: B010 as a method it may not be set
        try:
            await act(Shop(ledger, self.clock), target)
        except Killed:
            return True
        finally:
            await ledger.close()
        return False

    async def let_it_settle(self) -> None:
        """What the keeper does in ten seconds."""
        for _ in range(SETTLED_AFTER_MS // 1_000):
            self.clock.now_ms += 1_000
            await self.ledger.expire(m.Expire())

    async def reservation(self, key: str = "hold") -> m.Reservation | None:
        found = await self.ledger.find(m.Find(self.shop.key(key), "web"))
        return found.reservation if isinstance(found, m.Found) else None

    def assert_books_balance(self) -> None:
        for shard in range(SHARDS):
            assert_books_balance(self.redis, shard)

    def unfinished(self) -> list[str]:
        """What the keeper has still to look at."""
        return [key.decode() for key in self.redis.scan_iter("*:spanning")]


@pytest.fixture
async def world(valkey_url: str) -> AsyncIterator[World]:
    assert len({shard_of(sku, SHARDS) for sku in SKUS}) == len(SKUS)
    world = World(valkey_url)
    world.redis.flushall()
    await world.open()
    yield world
    await world.close()


def states(reservation: m.Reservation) -> set[str]:
    """The states in which the reservation's lines have units."""
    names = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")
    return {name for line in reservation.lines for name in names if getattr(line, name)}


def quantities(reservation: m.Reservation, state: str) -> list[int]:
    return [getattr(line, state) for line in reservation.lines]


async def test_a_hold_over_three_shards_is_one_reservation(world: World) -> None:
    done = await world.hold()

    assert isinstance(done, m.Done)
    assert [(line.sku, line.held) for line in done.reservation.lines] == [("A", 1), ("B", 2), ("D", 3)]
    assert await world.reservation(done.id) is None, "a reservation's id is no key"
    replay = await world.ledger.find(m.Find(done.id, "web"))
    assert isinstance(replay, m.Found)
    assert replay.reservation.lines == done.reservation.lines
    world.assert_books_balance()


async def test_what_is_short_on_one_shard_is_held_on_none(world: World) -> None:
    refused = await world.shop.hold(("A", 1), ("B", 9), ("D", 7))

    assert isinstance(refused, m.Insufficient)
    assert [(line.line, line.sku, line.available) for line in refused.lines] == [(2, "B", 5), (3, "D", 5)]
    assert [(await world.shop.position(sku)).held for sku in SKUS] == [0, 0, 0]


async def test_an_expired_hold_is_reacquired_on_every_shard_or_on_none(world: World) -> None:
    done = await world.hold(ttl_ms=1_000)
    world.clock.now_ms += 1_000
    rival = await world.shop.hold(("D", 4))
    refused = await world.shop.commit(done.id, reacquire=True)

    assert isinstance(refused, m.Insufficient)
    assert [(line.line, line.sku, line.requested, line.available) for line in refused.lines] == [(3, "D", 3, 1)]
    assert [(await world.shop.position(sku)).held for sku in SKUS] == [0, 0, 4]

    await world.shop.release(rival.id)
    committed = await world.shop.commit(done.id, reacquire=True)
    assert isinstance(committed, m.Done)
    assert quantities(committed.reservation, "committed") == [1, 2, 3]
    world.assert_books_balance()


async def test_a_key_is_one_operation_on_all_shards(world: World) -> None:
    """P3: also where the second body concerns other shards than the first."""
    first = await world.shop.hold(("A", 1), key="k", fingerprint="call:a")
    assert await world.shop.hold(("B", 1), key="k", fingerprint="call:b") == m.KeyReused("call:a")
    assert (await world.shop.hold(("A", 1), key="k", fingerprint="call:a")).replayed
    assert await world.shop.commit(first.id, key="k") == m.KeyReused("call:a")
    assert (await world.shop.position("B")).held == 0


async def test_two_bodies_under_one_key_at_once_hold_only_one(world: World) -> None:
    others = [Ledger(world.url, shards=SHARDS, now_ms=world.clock) for _ in range(4)]
    for number in range(10):
        outcomes = await asyncio.gather(
            *(
                Shop(ledger, world.clock).hold(
                    (sku, 1), ("A", 1), key=f"k{number}", fingerprint=f"call:{sku}", ttl_ms=1
                )
                for ledger, sku in zip(others, ["B", "D", "B", "D"], strict=True)
            ),
            return_exceptions=True,
        )
        assert all(isinstance(outcome, m.Done | m.KeyReused | Overloaded) for outcome in outcomes), outcomes
        held = {outcome.reservation.fingerprint for outcome in outcomes if isinstance(outcome, m.Done)}
        assert len(held) == 1
        world.clock.now_ms += 1
    for ledger in others:
        await ledger.close()
    world.assert_books_balance()


async def test_several_coordinators_at_one_reservation_end_each_unit_once(world: World) -> None:
    others = [Ledger(world.url, shards=SHARDS, now_ms=world.clock) for _ in range(4)]
    shops = [Shop(ledger, world.clock) for ledger in others]
    for _ in range(10):
        done = await world.hold()
        await asyncio.gather(
            *(shop.commit(done.id) for shop in shops[:2]),
            *(shop.release(done.id) for shop in shops[2:]),
            return_exceptions=True,
        )
        found = await world.ledger.find(m.Find(done.id, "web"))
        assert isinstance(found, m.Found)
        assert states(found.reservation) in ({"committed"}, {"released"})
        await world.shop.cancel(done.id)
    for ledger in others:
        await ledger.close()
    assert [(await world.shop.position(sku)).available for sku in SKUS] == [5, 5, 5]
    world.assert_books_balance()


async def test_coordinators_that_want_the_same_stock_never_oversell(world: World) -> None:
    others = [Ledger(world.url, shards=SHARDS, now_ms=world.clock) for _ in range(4)]

    async def buy(number: int) -> Any:
        skus = [SKUS[number % 3], SKUS[(number + 1) % 3]]
        return await Shop(others[number % 4], world.clock).hold(*((sku, 1) for sku in skus))

    outcomes = await asyncio.gather(*(buy(number) for number in range(40)), return_exceptions=True)
    held = sum(isinstance(outcome, m.Done) for outcome in outcomes)
    assert sum([(await world.shop.position(sku)).held for sku in SKUS]) == 2 * held
    assert min([(await world.shop.position(sku)).available for sku in SKUS]) >= 0
    assert held >= 5, "somebody gets something"
    for ledger in others:
        await ledger.close()
    world.assert_books_balance()


# --- a coordinator that dies -------------------------------------------------------------------------------------


async def _hold(shop: Shop, _target: str) -> Any:
    return await shop.hold(("A", 1), ("B", 2), ("D", 3), key="hold")


async def _commit(shop: Shop, target: str) -> Any:
    return await shop.commit(target, key="act")


async def _reacquire(shop: Shop, target: str) -> Any:
    return await shop.commit(target, reacquire=True, key="act")


async def _release(shop: Shop, target: str) -> Any:
    return await shop.release(target, key="act")


async def _extend(shop: Shop, target: str) -> Any:
    return await shop.extend(target, 90_000, key="act")


async def _ship(shop: Shop, target: str) -> Any:
    return await shop.ship(target, (1, 1), (2, 1), key="act")


async def _cancel(shop: Shop, target: str) -> Any:
    return await shop.cancel(target, key="act")


async def _give_back(shop: Shop, target: str) -> Any:
    return await shop.give_back(target, key="act")


async def _move(shop: Shop, target: str) -> Any:
    return await shop.move(target, 2, "S2", key="act")


async def test_a_coordinator_killed_at_any_step_of_a_hold_blocks_nothing(world: World) -> None:
    """Held whole or not at all within ten seconds, and the same request then gets its answer."""
    steps, died = 0, True
    while died:
        died = await world.die_in(_hold, "", steps)
        await world.let_it_settle()

        reservation = await world.reservation()
        held = [(await world.shop.position(sku)).held for sku in SKUS]
        assert held == ([0, 0, 0] if reservation is None else [1, 2, 3]), f"killed before step {steps}"
        assert reservation is None or quantities(reservation, "held") == [1, 2, 3]
        assert died or reservation is not None
        assert not world.unfinished()
        done = await _hold(world.shop, "")
        assert done.replayed == (reservation is not None)
        world.assert_books_balance()
        await world.start_again()
        steps += 1
    assert steps > 3 * SHARDS, "it was killed at each of its steps"


CHANGES: dict[str, tuple[Act, str, str]] = {
    "commit": (_commit, "held", "committed"),
    "reacquire": (_reacquire, "expired", "committed"),
    "release": (_release, "held", "released"),
    "cancel": (_cancel, "committed", "cancelled"),
    "return": (_give_back, "shipped", "returned"),
}


@pytest.mark.parametrize(("act", "before", "after"), CHANGES.values(), ids=CHANGES)
async def test_a_coordinator_killed_at_any_step_of_a_change_leaves_all_or_nothing(
    world: World, act: Act, before: str, after: str
) -> None:
    steps, died = 0, True
    while died:
        done = await world.hold(key="hold")
        if before == "expired":
            world.clock.now_ms += 60_000
        elif before != "held":
            await world.shop.commit(done.id)
        if before == "shipped":
            await world.shop.ship(done.id)
        died = await world.die_in(act, done.id, steps)
        await world.let_it_settle()

        reservation = await world.reservation()
        assert reservation is not None
        assert states(reservation) in ({before}, {after}), f"killed before step {steps}"
        assert died or states(reservation) == {after}
        again = await act(world.shop, done.id)
        assert quantities(again.reservation, after) == [1, 2, 3]
        world.assert_books_balance()
        await world.start_again()
        steps += 1
    assert steps > 2 * SHARDS


PARTIAL: dict[str, tuple[Act, Callable[[m.Reservation], Any]]] = {
    "extend": (_extend, lambda reservation: reservation.expires_at_ms > START_MS + 50_000),
    "ship": (_ship, lambda reservation: quantities(reservation, "shipped")),
    "move": (_move, lambda reservation: [line.location for line in reservation.lines]),
}


@pytest.mark.parametrize(("act", "seen"), PARTIAL.values(), ids=PARTIAL)
async def test_a_coordinator_killed_at_any_step_of_a_partial_change_leaves_all_or_nothing(
    world: World, act: Act, seen: Callable[[m.Reservation], Any]
) -> None:
    steps, died = 0, True
    while died:
        done = await world.hold(key="hold", ttl_ms=50_000)
        before = (await world.shop.commit(done.id)).reservation if act is _ship else done.reservation
        died = await world.die_in(act, done.id, steps)
        await world.let_it_settle()

        left = await world.reservation()
        assert left is not None
        whole = (await act(world.shop, done.id)).reservation
        assert seen(left) in (seen(before), seen(whole)), f"killed before step {steps}"
        assert seen(whole) != seen(before)
        assert states(left) <= {"held", "committed", "shipped"}
        world.assert_books_balance()
        await world.start_again()
        steps += 1
    assert steps > SHARDS


async def test_what_has_ended_on_one_shard_is_kept_as_long_as_the_others_live(world: World) -> None:
    """The whole stays readable until 24 hours after its last unit ended, and then it goes."""
    day_ms = 24 * 3_600_000
    done = await world.hold(key="hold")
    await world.shop.commit(done.id)
    await world.shop.cancel(done.id, (1, 1))
    for _ in range(3):
        world.clock.now_ms += day_ms
        await world.ledger.expire(m.Expire())
    assert all(ttl == -1 for ttl in _lives(world.redis)), "one part is live"
    reservation = await world.reservation()
    assert reservation is not None
    assert quantities(reservation, "cancelled") == [1, 0, 0]

    await world.shop.ship(done.id)
    await world.ledger.check()  # goes behind what nobody waits for
    world.clock.now_ms += day_ms
    await world.ledger.expire(m.Expire())
    assert all(0 < ttl <= day_ms for ttl in _lives(world.redis)), "all have ended"
    assert await world.reservation() is not None


def _lives(redis: Redis) -> list[int]:
    """The time to live of every record of an operation."""
    return [int(redis.pttl(key)) for key in redis.scan_iter("*:op:*")]
