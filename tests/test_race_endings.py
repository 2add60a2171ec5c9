"""Two verbs meet on the same units, from several connections: one wins, and each unit ends once (P5, P6).

Nothing here depends on who wins: each round looks at the answers, and then holds the ledger and its journal to them.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from books import assert_books_balance, assert_deadlines_are_those_of_the_holds, fold_reservations, journal_of
from ledgers import START_MS, Clock, Shop, counts
from redis import Redis
from servers import as_owner

from ledger import messages as m
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

ROUNDS = 60
TTL_MS = 1_000
SECOND_MS = 1_000


class Street:
    """Four shops, each with its own connection and clock, on one ledger; calls of few operations, so that they mix."""

    def __init__(self, url: str) -> None:
        self.clocks = [Clock() for _ in range(4)]
        self.shops = [Shop(Ledger(url, now_ms=clock, operations_max=3), clock) for clock in self.clocks]
        self.held: list[str] = []
        self._chance = random.Random(11)  # noqa: S311 who asks first, not a secret

    def time(self, *at_ms: int) -> None:
        """Set the clocks: one for all, or one for each of the first shops; the ledger's own never runs back."""
        for clock, now_ms in zip(self.clocks, at_ms if len(at_ms) > 1 else at_ms * 4, strict=False):
            clock.now_ms = now_ms

    async def race(self, *calls: Awaitable[Any]) -> list[Any]:
        """The answers in the order given; who is sent first is drawn."""
        order = list(range(len(calls)))
        self._chance.shuffle(order)
        answers = dict(zip(order, await asyncio.gather(*(calls[index] for index in order)), strict=True))
        return [answers[index] for index in range(len(calls))]

    async def hold(self, *lines: tuple[str, int] | tuple[str, int, str | None]) -> str:
        held = await self.shops[0].hold(*lines, ttl_ms=TTL_MS)
        self.held.append(held.id)
        return str(held.id)

    async def units(self, reservation: str, line: int = 1) -> dict[str, int]:
        return counts((await self.shops[3].found(reservation)).lines[line - 1])


@pytest.fixture
async def street(valkey_url: str) -> AsyncIterator[Street]:
    """At the end every line adds up, and the journal tells of each reservation's units what the ledger does."""
    street = Street(valkey_url)
    await street.shops[0].open()
    yield street
    lines = {reservation: (await street.shops[0].found(reservation)).lines for reservation in street.held}
    for shop in street.shops:
        await shop.ledger.close()
    with Redis.from_url(as_owner(valkey_url)) as client:
        assert_books_balance(client)
        assert_deadlines_are_those_of_the_holds(client)
        told = fold_reservations(journal_of(client))
    for reservation, each in lines.items():
        assert all(sum(counts(line).values()) == line.quantity for line in each)
        assert told[reservation] == sum((Counter(counts(line)) for line in each), Counter())


def won(*answers: object) -> list[bool]:
    return [isinstance(answer, m.Done) for answer in answers]


@pytest.mark.parametrize("late_ms", [-1, 0, 1])
async def test_a_commit_meets_the_deadline_and_a_rival_for_its_units(street: Street, late_ms: int) -> None:
    """P5: the units are the order's or the rival's, never both's or nobody's; at the deadline the rival's."""
    buyer, rival, keeper = street.shops[:3]
    for number in range(ROUNDS):
        start_ms = START_MS + number * 10 * SECOND_MS
        street.time(start_ms)
        sku = f"A{number}"
        await buyer.stock(sku, 3)
        reservation = await street.hold((sku, 3))
        deadline_ms = start_ms + TTL_MS
        street.time(deadline_ms + late_ms, deadline_ms, deadline_ms)
        lines = [(1, 2)] if number % 2 else []
        committed, taken, _ = await street.race(
            buyer.commit(reservation, *lines), rival.hold((sku, 3)), keeper.ledger.expire(m.Expire())
        )

        assert won(committed) != won(taken)
        units = await street.units(reservation)
        if isinstance(committed, m.Done):
            assert late_ms < 0
            assert units == ({"committed": 2, "expired": 1} if lines else {"committed": 3})
        else:
            assert committed == m.ReservationExpired(deadline_ms)
            assert units == {"expired": 3}
        position = await rival.position(sku)
        assert (position.on_hand, position.available) == (3, 1 if won(committed)[0] and lines else 0)


async def test_a_release_meets_an_order_that_ships(street: Street) -> None:
    """P5: what was released is not shipped, and what shipped was not released."""
    buyer, shopper, other = street.shops[:3]

    async def order_and_ship(reservation: str) -> list[Any]:
        return [await shopper.commit(reservation), await shopper.ship(reservation)]

    for number in range(ROUNDS):
        sku = f"A{number}"
        street.time(START_MS + number)
        await buyer.stock(sku, 5, at_ms=START_MS - 1)
        reservation = await street.hold((sku, 4))
        whole = number % 2 == 0
        part = [] if whole else [(1, 3)]
        ordered, released, again = await street.race(
            order_and_ship(reservation), buyer.release(reservation, *part), other.release(reservation, *part)
        )

        freed = sum(won(released, again)) * (4 if whole else 3)
        shipped = (4 - freed) if won(*ordered)[1] else 0
        assert sum(won(released, again)) <= 1
        assert await street.units(reservation) == {
            state: count for state, count in {"shipped": shipped, "released": freed}.items() if count
        }
        assert shipped + freed == 4
        position = await buyer.position(sku)
        assert (position.on_hand, position.available) == (5 - shipped, 5 - shipped)


async def test_a_release_and_a_shipment_of_different_units_of_a_line_both_stand(street: Street) -> None:
    """P6: neither is lost by the other's writing of the same record."""
    buyer, shopper = street.shops[:2]
    for number in range(ROUNDS):
        sku = f"A{number}"
        await buyer.stock(sku, 5, at_ms=START_MS - 1)
        reservation = await street.hold((sku, 5))
        await buyer.commit(reservation, (1, 2))
        assert won(*await street.race(buyer.release(reservation), shopper.ship(reservation))) == [True, True]

        assert await street.units(reservation) == {"shipped": 2, "released": 3}
        assert (await buyer.position(sku)).on_hand == 3


async def test_two_orders_want_the_same_hold(street: Street) -> None:
    """P5: one has it, under its own order's number; the other is told the state."""
    first, second = street.shops[:2]
    for number in range(ROUNDS):
        sku = f"A{number}"
        await first.stock(sku, 4)
        reservation = await street.hold((sku, 4))
        lines = [(1, 3)] if number % 2 else []
        answers = await street.race(
            first.commit(reservation, *lines, order_id="one", key=f"one-{number}"),
            second.commit(reservation, *lines, order_id="two", key=f"two-{number}"),
        )

        assert sorted(won(*answers)) == [False, True]
        (refused,) = [answer for answer in answers if not isinstance(answer, m.Done)]
        assert isinstance(refused, m.WrongState)
        assert refused.status == ("held" if lines else "committed")
        assert (await first.found(reservation)).order_id == ("one" if won(*answers)[0] else "two")
        assert (await street.units(reservation))["committed"] == (3 if lines else 4)


async def test_a_claim_moves_to_units_that_a_buyer_wants_there(street: Street) -> None:
    """P1, P5: what comes free where it leaves is sold once, what it takes where it goes is sold to nobody else."""
    owner, there, here = street.shops[:3]
    await owner.open("S2")
    for number in range(ROUNDS):
        sku = f"A{number}"
        await owner.stock(sku, 3)
        await owner.stock(sku, 3, "S2")
        reservation = await street.hold((sku, 3))
        moved, taken, freed = await street.race(
            owner.move(reservation, 1, "S2"), there.hold((sku, 2, "S2")), here.hold((sku, 3, "S1"))
        )

        assert won(moved) != won(taken)
        assert won(freed) <= won(moved)
        (line,) = (await owner.found(reservation)).lines
        assert (line.location, line.held) == ("S2" if won(moved)[0] else "S1", 3)
        at = [await owner.position(sku, "S1"), await owner.position(sku, "S2")]
        assert [position.held for position in at] == [
            3 * (won(freed)[0] or not won(moved)[0]),
            3 if won(moved)[0] else 2,
        ]


async def test_the_same_units_are_returned_twice(street: Street) -> None:
    """P5: the shelf gets back what was shipped, not more."""
    clerk, machine = street.shops[:2]
    for number in range(ROUNDS):
        sku = f"A{number}"
        await clerk.stock(sku, 3, at_ms=START_MS - 1)
        reservation = await street.hold((sku, 3))
        await clerk.commit(reservation)
        await clerk.ship(reservation)
        each = 2 if number % 2 else 1
        answers = await street.race(
            clerk.give_back(reservation, (1, each)),
            machine.give_back(reservation, (1, each), disposition="damaged"),
        )

        assert sum(won(*answers)) == (1 if each == 2 else 2)
        back = sum(won(*answers)) * each
        assert await street.units(reservation) == {"shipped": 3 - back, "returned": back}
        position = await clerk.position(sku)
        assert (position.on_hand, position.damaged) == tuple(each * done for done in won(*answers))


async def test_a_cancellation_meets_the_shipment(street: Street) -> None:
    """P5: a unit leaves the building or goes back to the shelf."""
    office, dock = street.shops[:2]
    for number in range(ROUNDS):
        sku = f"A{number}"
        await office.stock(sku, 3, at_ms=START_MS - 1)
        reservation = await street.hold((sku, 3))
        await office.commit(reservation)
        if number % 3:
            await dock.pick(reservation, (1, number % 3))
        lines = [(1, 2)] if number % 2 else []
        cancelled, shipped = await street.race(office.cancel(reservation, *lines), dock.ship(reservation, *lines))

        assert won(cancelled) != won(shipped)
        took = 2 if lines else 3
        left = Counter(await street.units(reservation))
        assert left["cancelled" if won(cancelled)[0] else "shipped"] == took
        assert left["committed"] + left["picked"] == 3 - took
        position = await office.position(sku)
        assert position.on_hand == 3 - took * won(shipped)[0]
        assert position.available == took * won(cancelled)[0]


async def test_all_verbs_at_once_leave_each_unit_one_ending(street: Street) -> None:
    """P5, P6: whatever the mixture; the fixture holds the journal to the ledger."""
    await street.shops[0].open("S2")
    for sku in ("A", "B"):
        await street.shops[0].stock(sku, 400, at_ms=START_MS - 1)
        await street.shops[0].stock(sku, 50, "S2", at_ms=START_MS - 1)
    reservations = [await street.hold(("A", 3), ("B", 2)) for _ in range(100)]
    chance = random.Random(5)  # noqa: S311 a mixture, not a secret
    verbs = ["commit", "commit", "release", "pick", "ship", "ship", "cancel", "give_back", "move", "expire"]

    async def live(shop: Shop, reservation: str) -> None:
        for verb in chance.sample(verbs, len(verbs)):
            line, quantity = chance.choice([(1, 1), (1, 2), (2, 1), (2, 2)])
            if verb == "expire":
                shop.clock.now_ms += chance.choice([0, 1, 30])
                await shop.ledger.expire(m.Expire())
            elif verb == "move":
                await shop.move(reservation, line, "S2")
            else:
                lines = chance.choice([[], [(line, quantity)]])
                await getattr(shop, verb)(reservation, *lines)

    await asyncio.gather(*(live(shop, reservation) for reservation in reservations for shop in street.shops))

    endings = Counter[str]()
    for reservation in reservations:
        endings += Counter(await street.units(reservation)) + Counter(await street.units(reservation, 2))
    assert sum(endings.values()) == 500
    at = [await street.shops[0].position(sku, location) for sku in ("A", "B") for location in ("S1", "S2")]
    for state in ("held", "committed", "picked"):
        assert sum(getattr(position, state) for position in at) == endings[state]
    assert sum(position.on_hand for position in at) == 900 - endings["shipped"]
