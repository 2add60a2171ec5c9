"""Reservations over several shards: all or none, also when a coordinator dies half-way (P1, P3, P5, P6)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from books import assert_books_balance
from ledgers import START_MS, Clock, Shop
from redis import Redis
from servers import as_owner

from ledger import messages as m
from ledger import spanning
from ledger.errors import LedgerError, Overloaded, Unavailable, Unknown
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
        self.redis = Redis.from_url(as_owner(url))

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

    async def let_it_settle(self, came: str = "in time") -> None:
        """What the keeper does in ten seconds; it may have been away at first, or the client may ask again first."""
        if came.startswith("late"):
            self.clock.now_ms += 7_000
            for sku in SKUS:
                await self.shop.position(sku)  # a decision there ends what is overdue, before the keeper sees it
        for _ in range(SETTLED_AFTER_MS // 1_000):
            self.clock.now_ms += 1_000
            await self.ledger.expire(m.Expire())

    async def reservation(self, key: str = "hold") -> m.Reservation | None:
        found = await self.ledger.find(m.Find(self.shop.key(key), "web"))
        return found.reservation if isinstance(found, m.Found) else None

    def assert_books_balance(self) -> None:
        for shard in range(SHARDS):
            assert_books_balance(self.redis, shard)

    def deadlines(self) -> set[float]:
        """When the parts of holds end, on all shards."""
        keys: list[Any] = list(self.redis.scan_iter("*:held:*"))
        entries: list[Any] = [entry for key in keys for entry in self.redis.zrange(key, 0, -1, withscores=True)]
        return {score for _, score in entries}

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
                Shop(ledger, world.clock).hold((sku, 1), key=f"k{number}", fingerprint=f"call:{sku}", ttl_ms=1)
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
        outcomes = await asyncio.gather(
            *(shop.commit(done.id) for shop in shops[:2]),
            *(shop.release(done.id) for shop in shops[2:]),
            return_exceptions=True,
        )
        assert all(isinstance(outcome, m.Done | m.WrongState | LedgerError) for outcome in outcomes), outcomes
        assert any(isinstance(outcome, m.Done) for outcome in outcomes)
        found = await world.ledger.find(m.Find(done.id, "web"))
        assert isinstance(found, m.Found)
        assert states(found.reservation) in ({"committed"}, {"released"})
        await world.shop.cancel(done.id)
    for ledger in others:
        await ledger.close()
    assert [(await world.shop.position(sku)).available for sku in SKUS] == [5, 5, 5], "each unit came back once"
    world.assert_books_balance()


async def test_coordinators_that_want_the_same_stock_never_oversell(world: World) -> None:
    others = [Ledger(world.url, shards=SHARDS, now_ms=world.clock) for _ in range(4)]

    async def buy(number: int) -> Any:
        skus = [SKUS[number % 3], SKUS[(number + 1) % 3]]
        return await Shop(others[number % 4], world.clock).hold(*((sku, 1) for sku in skus))

    outcomes = await asyncio.gather(*(buy(number) for number in range(40)), return_exceptions=True)
    assert all(isinstance(outcome, m.Done | m.Insufficient | Overloaded) for outcome in outcomes), outcomes
    held = sum(isinstance(outcome, m.Done) for outcome in outcomes)
    assert sum([(await world.shop.position(sku)).held for sku in SKUS]) == 2 * held
    assert min([(await world.shop.position(sku)).available for sku in SKUS]) >= 0
    while isinstance(await world.shop.hold(("A", 1), ("B", 1)), m.Done):
        held += 1
    left = [(await world.shop.position(sku)).available for sku in SKUS]
    assert 0 in left[:2], "nothing stays blocked that could be sold"
    for ledger in others:
        await ledger.close()
    world.assert_books_balance()


async def test_a_limit_of_the_client_refuses_to_reacquire_on_any_shard(world: World) -> None:
    done = await world.hold(ttl_ms=1_000)
    await world.shop.hold(("B", 1))
    world.clock.now_ms += 1_000
    tight = Ledger(world.url, shards=SHARDS, now_ms=world.clock, client_open_reservations_max=1)
    refused = await Shop(tight, world.clock).commit(done.id, reacquire=True)
    assert refused == m.OpenReservationsLimit(1, 1)
    await tight.close()
    assert [(await world.shop.position(sku)).held for sku in SKUS] == [0, 1, 0]
    assert isinstance(await world.shop.commit(done.id, reacquire=True), m.Done)
    world.assert_books_balance()


@pytest.mark.parametrize("ahead_ms", [-1, 1])
async def test_shards_whose_clocks_differ_end_a_hold_as_one(world: World, ahead_ms: int) -> None:
    """One shard is at the deadline, the others are not there yet, or are past it."""
    done = await world.hold(ttl_ms=1_000)
    world.clock.now_ms += 1_000 - max(0, ahead_ms)
    shard = world.ledger._shards[shard_of("B", SHARDS)]  # noqa: SLF001 its clock is its own
    shard._now_ms = lambda: world.clock.now_ms + ahead_ms  # noqa: SLF001
    expired = await world.shop.commit(done.id)
    assert isinstance(expired, m.ReservationExpired)
    committed = await world.shop.commit(done.id, (1, 1), (2, 2), (3, 3), reacquire=True)
    assert isinstance(committed, m.Done)
    assert quantities(committed.reservation, "committed") == [1, 2, 3]
    world.assert_books_balance()


async def test_what_comes_after_its_lock_may_have_ended_is_not_done(world: World) -> None:
    """P3: another body under the same key may have been done meanwhile."""
    for asked in ([("A", 1)], [("A", 1), ("B", 1)]):
        slow = Ledger(world.url, shards=SHARDS, now_ms=world.clock)
        for coalescer in slow._coalescers:  # noqa: SLF001 it comes late

            def late(operation: m.Operation, submit: Any = coalescer.submit) -> Any:
                if isinstance(operation, m.Part | m.Prepare):
                    world.clock.now_ms += 4_501
                return submit(operation)

            setattr(coalescer, "submit", late)  # noqa: B010
        with pytest.raises(Overloaded):
            await Shop(slow, world.clock).hold(*asked, key="late")
        await slow.close()
        assert await world.reservation("late") is None
        await world.let_it_settle()
        assert [(await world.shop.position(sku)).held for sku in SKUS] == [0, 0, 0]


async def test_a_shard_that_is_away_leaves_no_lock_and_keeps_nothing_else_from_being_finished(world: World) -> None:
    done = await world.hold(key="hold")
    lame = Ledger(world.url, shards=SHARDS, now_ms=world.clock)
    away = shard_of("unconcerned-4", SHARDS)
    assert away not in {shard_of(sku, SHARDS) for sku in SKUS}

    def refused(_operations: m.Operation | list[m.Operation]) -> Any:
        raise Unavailable("its server is down")

    for name in ("submit", "submit_all"):
        setattr(lame._coalescers[away], name, refused)  # noqa: SLF001
    shop = Shop(lame, world.clock)
    with pytest.raises(Unavailable):
        await shop.hold(("A", 1), ("B", 1), key="another")
    assert isinstance(await world.shop.hold(("A", 1), ("B", 1), key="another"), m.Done)

    assert await world.die_in(_commit, done.id, 3 * SHARDS - 2)
    for _ in range(5):
        world.clock.now_ms += 1_000
        with pytest.raises(Unavailable):
            await lame.expire(m.Expire())
    reservation = await world.reservation()
    assert reservation is not None
    assert states(reservation) in ({"held"}, {"committed"})
    assert not [key for key in world.unfinished() if world.redis.zcount(key, "-inf", world.clock.now_ms)]
    await lame.close()


async def test_what_was_taken_over_is_not_sealed_by_the_first_coordinator(world: World) -> None:
    """Else it would be held on one shard after the keeper has dropped it on another."""
    line = m.PartLine(1, "B", "S1", 2, 2)
    shards = sorted({shard_of("A", SHARDS), shard_of("B", SHARDS)})
    coalescer = world.ledger._coalescers[shard_of("B", SHARDS)]  # noqa: SLF001 what coordinators send
    prepare = m.Prepare("slow", "call:hold", "web", "first", [line], shards, None, None, m.TIME_MS_MAX)
    assert isinstance(await coalescer.submit(prepare), m.Done)
    await coalescer.submit(m.Look("slow", "web", "slow", "keeper", takes_over=True))
    assert await coalescer.submit(m.Seal("slow", "first", START_MS + 60_000)) == m.Unpinned()
    assert await coalescer.submit(m.Drop("slow", "first")) == m.Unpinned()
    assert isinstance(await coalescer.submit(m.Seal("slow", "keeper", START_MS + 60_000)), m.Done)


async def test_a_finisher_that_saw_one_shard_too_early_drops_nothing_that_was_held_since(world: World) -> None:
    """P2: its looks are not at one instant, and what they find together may never have been so."""
    slow, seen, held = Ledger(world.url, shards=SHARDS, now_ms=world.clock), asyncio.Event(), asyncio.Event()
    assert slow._spanning is not None  # noqa: SLF001 as below
    late, early = (slow._coalescers[shard_of(sku, SHARDS)] for sku in ("A", "B"))  # noqa: SLF001 to look at them apart

    async def look_late(operation: m.Operation, submit: Any = late.submit) -> Any:
        await held.wait()
        return await submit(operation)

    async def look_early(operation: m.Operation, submit: Any = early.submit) -> Any:
        answer = await submit(operation)
        seen.set()
        return answer

    setattr(late, "submit", look_late)  # noqa: B010
    setattr(early, "submit", look_early)  # noqa: B010
    shards = sorted({shard_of("A", SHARDS), shard_of("B", SHARDS)})
    finishing = asyncio.create_task(slow._spanning._finish(world.shop.key("hold"), "web", shards))  # noqa: SLF001
    await seen.wait()
    assert isinstance(await world.shop.hold(("A", 1), ("B", 2), key="hold"), m.Done)

    held.set()
    await finishing

    reservation = await world.reservation()
    assert reservation is not None
    assert quantities(reservation, "held") == [1, 2]
    await world.let_it_settle()
    world.assert_books_balance()
    await slow.close()


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


COMES = ["in time", "late", "after a retry", "late, after a retry"]


@pytest.mark.parametrize("keeper", COMES)
async def test_a_coordinator_killed_at_any_step_of_a_hold_blocks_nothing(
    world: World, keeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held whole or not at all within ten seconds, and the same request then gets its answer."""
    monkeypatch.setattr(spanning, "ATTEMPT_S", 0.02)
    steps, died = 0, True
    while died:
        died = await world.die_in(_hold, "", steps)
        if keeper.endswith("after a retry"):
            await _retry(_hold(world.shop, ""))
        await world.let_it_settle(keeper)

        held = [(await world.shop.position(sku)).held for sku in SKUS]
        reservation = await world.reservation()
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


async def _retry(doing: Coroutine[Any, Any, Any]) -> None:
    """The client asks again at once: it is done, or it is told that this cannot be known yet."""
    with contextlib.suppress(Unknown):
        assert isinstance(await doing, m.Done)


@pytest.mark.parametrize("keeper", COMES)
@pytest.mark.parametrize(("act", "before", "after"), CHANGES.values(), ids=CHANGES)
async def test_a_coordinator_killed_at_any_step_of_a_change_leaves_all_or_nothing(
    world: World, act: Act, before: str, after: str, keeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spanning, "ATTEMPT_S", 0.02)
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
        if keeper.endswith("after a retry"):
            await _retry(act(world.shop, done.id))
        await world.let_it_settle(keeper)

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
        assert len(world.deadlines()) <= 1, "each part ends when the others do"
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
