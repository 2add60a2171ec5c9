"""The ways back, verb by verb, on each ledger: release, cancel, return, move back, claim again (P1, P3, P5, P6).

Each in parts, over several lines, after other steps, twice, and when there is nothing to give back.
"""

from typing import Any

import pytest
from ledgers import START_MS, Shop, counts

from ledger import messages as m

pytestmark = pytest.mark.anyio


async def order(shop: Shop, *lines: tuple[str, int], shipped: bool = False) -> str:
    """A committed reservation at S1, where nothing else is; a moment later, and shipped if so asked."""
    for sku, quantity in lines:
        await shop.stock(sku, quantity)
    held = await shop.hold(*lines)
    await shop.commit(held.id)
    shop.clock.now_ms += 1
    if shipped:
        await shop.ship(held.id)
        shop.clock.now_ms += 1
    return str(held.id)


async def units(shop: Shop, reservation: str) -> list[dict[str, int]]:
    return [counts(line) for line in (await shop.found(reservation)).lines]


async def numbers(shop: Shop, sku: str = "A", location: str = "S1") -> tuple[int, int, int, int, int]:
    """On hand, held, committed, picked, available."""
    position = await shop.position(sku, location)
    return position.on_hand, position.held, position.committed, position.picked, position.available


# --- release ----------------------------------------------------------------------------------------------------


async def test_each_line_is_released_by_itself_and_in_parts(shop: Shop) -> None:
    await shop.stock("A", 9)
    await shop.stock("B", 9)
    held = await shop.hold(("A", 5), ("B", 4))
    await shop.release(held.id, (2, 3))
    await shop.release(held.id, (1, 1), (2, 1))

    assert await units(shop, held.id) == [{"held": 4, "released": 1}, {"released": 4}]
    assert await numbers(shop) == (9, 4, 0, 0, 5)
    assert await numbers(shop, "B") == (9, 0, 0, 0, 9)


async def test_released_units_are_anothers_in_the_next_decision(shop: Shop) -> None:
    await shop.stock("A", 3)
    held = await shop.hold(("A", 3))
    await shop.release(held.id, (1, 2))

    assert isinstance(await shop.hold(("A", 3)), m.Insufficient)
    assert isinstance(await shop.hold(("A", 2)), m.Done)


async def test_a_release_takes_nothing_that_is_an_orders(shop: Shop) -> None:
    await shop.stock("A", 5)
    held = await shop.hold(("A", 5))
    await shop.commit(held.id, (1, 3))
    refused = await shop.release(held.id, (1, 3))
    await shop.release(held.id)

    assert refused == m.WrongState("held", ["commit", "extend", "release", "pick", "ship", "cancel", "move"])
    assert await units(shop, held.id) == [{"committed": 3, "released": 2}]
    assert await shop.release(held.id) == m.WrongState("committed", ["pick", "ship", "cancel", "move"])


async def test_what_is_overdue_is_not_released(shop: Shop) -> None:
    await shop.stock("A", 5)
    held = await shop.hold(("A", 5), ttl_ms=1_000)
    await shop.release(held.id, (1, 2))
    shop.clock.now_ms += 1_000

    assert await shop.release(held.id) == m.ReservationExpired(START_MS + 1_000)
    assert await units(shop, held.id) == [{"released": 2, "expired": 3}]


async def test_what_was_released_does_not_expire_later(shop: Shop) -> None:
    await shop.stock("A", 5)
    held = await shop.hold(("A", 3), ttl_ms=1_000)
    await shop.release(held.id)
    await shop.hold(("A", 5))
    shop.clock.now_ms += 1_000
    await shop.ledger.expire(m.Expire())

    assert await units(shop, held.id) == [{"released": 3}]
    assert (await shop.position("A")).held == 5


# --- cancel -----------------------------------------------------------------------------------------------------


async def test_each_line_is_cancelled_by_itself_committed_units_before_picked_ones(shop: Shop) -> None:
    reservation = await order(shop, ("A", 5), ("B", 2))
    await shop.pick(reservation, (1, 3))
    await shop.cancel(reservation, (1, 3))

    assert await units(shop, reservation) == [{"picked": 2, "cancelled": 3}, {"committed": 2}]
    assert await numbers(shop) == (5, 0, 0, 2, 3)
    assert await numbers(shop, "B") == (2, 0, 2, 0, 0)


async def test_an_order_is_cancelled_once(shop: Shop) -> None:
    reservation = await order(shop, ("A", 3))
    first = await shop.cancel(reservation, key="cancel")

    assert await shop.cancel(reservation) == m.WrongState("cancelled", [])
    again = await shop.cancel(reservation, key="cancel")
    assert (again.replayed, again.reservation) == (True, first.reservation)
    assert await numbers(shop) == (3, 0, 0, 0, 3)


async def test_a_part_is_cancelled_and_the_rest_ships(shop: Shop) -> None:
    reservation = await order(shop, ("A", 5))
    await shop.cancel(reservation, (1, 2))
    assert await shop.ship(reservation, (1, 4)) == m.WrongState("committed", ["pick", "ship", "cancel", "move"])
    shipped = await shop.ship(reservation)

    assert shipped.reservation.status == "shipped"
    assert await units(shop, reservation) == [{"shipped": 3, "cancelled": 2}]
    assert await numbers(shop) == (2, 0, 0, 0, 2)


async def test_a_part_ships_and_no_more_than_the_rest_is_cancelled(shop: Shop) -> None:
    reservation = await order(shop, ("A", 5))
    await shop.pick(reservation, (1, 3))
    await shop.ship(reservation, (1, 2))
    refused = await shop.cancel(reservation, (1, 4))

    assert refused == m.WrongState("committed", ["pick", "ship", "cancel", "return"])
    await shop.cancel(reservation, (1, 3))
    assert await units(shop, reservation) == [{"shipped": 2, "cancelled": 3}]


async def test_a_hold_is_not_cancelled_along_with_its_order(shop: Shop) -> None:
    await shop.stock("A", 5)
    held = await shop.hold(("A", 5))
    await shop.commit(held.id, (1, 2))
    cancelled = await shop.cancel(held.id)

    assert cancelled.reservation.status == "held"
    assert await units(shop, held.id) == [{"held": 3, "cancelled": 2}]
    assert await shop.cancel(held.id) == m.WrongState("held", ["commit", "extend", "release", "move"])


async def test_what_was_picked_and_put_back_can_be_sold_and_picked_again(shop: Shop) -> None:
    """Un-pick by cancel."""
    reservation = await order(shop, ("A", 4))
    await shop.pick(reservation)
    await shop.cancel(reservation, (1, 1))
    other = await shop.hold(("A", 1))
    await shop.commit(other.id)
    await shop.pick(other.id)

    assert await numbers(shop) == (4, 0, 0, 4, 0)
    assert await units(shop, reservation) == [{"picked": 3, "cancelled": 1}]


async def test_an_order_from_two_locations_is_given_back_to_both(shop: Shop) -> None:
    await shop.open("S2", priority=200)
    await shop.stock("A", 3)
    await shop.stock("A", 3, "S2")
    held = await shop.hold(("A", 5, None))
    await shop.commit(held.id)
    await shop.cancel(held.id, (1, 1), (2, 2))

    assert await units(shop, held.id) == [{"committed": 2, "cancelled": 1}, {"cancelled": 2}]
    assert (await numbers(shop), await numbers(shop, "A", "S2")) == ((3, 0, 2, 0, 1), (3, 0, 0, 0, 3))


# --- return -----------------------------------------------------------------------------------------------------


async def test_no_more_comes_back_than_went(shop: Shop) -> None:
    reservation = await order(shop, ("A", 5), ("B", 1))
    await shop.ship(reservation, (1, 3), (2, 1))
    shop.clock.now_ms += 1
    before = await units(shop, reservation)

    for lines in ([(1, 4)], [(1, 1), (2, 2)], [(1, 2), (1, 2)], [(3, 1)]):
        refused = await shop.give_back(reservation, *lines)
        assert refused == m.WrongState("committed", ["pick", "ship", "cancel", "return"])
    assert await units(shop, reservation) == before
    assert await numbers(shop) == (2, 0, 2, 0, 0)


async def test_parts_come_back_each_in_its_own_condition(shop: Shop) -> None:
    reservation = await order(shop, ("A", 6), shipped=True)
    dispositions: tuple[m.Disposition, ...] = ("sellable", "damaged", "quality_hold", "discard")
    for quantity, disposition in enumerate(dispositions):
        if quantity:
            await shop.give_back(reservation, (1, quantity), disposition=disposition)

    position = await shop.position("A")
    assert await units(shop, reservation) == [{"returned": 6}]
    assert (position.on_hand, position.damaged, position.quality_hold) == (0, 1, 2)
    assert await shop.give_back(reservation) == m.WrongState("returned", [])


async def test_what_came_back_is_sold_again_and_its_order_has_no_claim_on_it(shop: Shop) -> None:
    reservation = await order(shop, ("A", 3), shipped=True)
    await shop.give_back(reservation, (1, 2))

    assert isinstance(await shop.hold(("A", 2)), m.Done)
    assert await shop.cancel(reservation) == m.WrongState("returned", ["return"])
    assert await shop.ship(reservation) == m.WrongState("returned", ["return"])
    assert await units(shop, reservation) == [{"shipped": 1, "returned": 2}]


async def test_a_return_and_then_a_cancellation_of_what_never_left(shop: Shop) -> None:
    reservation = await order(shop, ("A", 5))
    await shop.ship(reservation, (1, 2))
    shop.clock.now_ms += 1
    await shop.give_back(reservation, (1, 1))
    cancelled = await shop.cancel(reservation)

    assert await units(shop, reservation) == [{"shipped": 1, "returned": 1, "cancelled": 3}]
    assert cancelled.reservation.status == "cancelled"
    assert await numbers(shop) == (4, 0, 0, 0, 4)


async def test_the_rest_ships_after_a_part_came_back(shop: Shop) -> None:
    reservation = await order(shop, ("A", 5))
    await shop.ship(reservation, (1, 2))
    shop.clock.now_ms += 1
    await shop.give_back(reservation)
    await shop.ship(reservation)

    assert await units(shop, reservation) == [{"shipped": 3, "returned": 2}]
    assert await numbers(shop) == (2, 0, 0, 0, 2)


async def test_a_return_that_a_count_already_has_is_not_added_again(shop: Shop) -> None:
    """P8."""
    reservation = await order(shop, ("A", 5), shipped=True)
    came_back_ms = shop.clock.now_ms
    await shop.stock("A", 2, at_ms=came_back_ms + 50)
    returned = await shop.ledger.return_(
        m.Return(shop.key(None), "call:return", "web", reservation, None, "sellable", came_back_ms)
    )

    assert counts(returned.reservation.lines[0]) == {"returned": 5}
    assert (await shop.position("A")).on_hand == 2


# --- move there and back ----------------------------------------------------------------------------------------


async def test_a_claim_that_moved_there_and_back_left_no_trace_in_the_stock(shop: Shop) -> None:
    await shop.open("S2")
    await shop.stock("A", 4)
    await shop.stock("A", 4, "S2")
    held = await shop.hold(("A", 3), ttl_ms=1_000)
    await shop.commit(held.id, (1, 1))
    before = [await numbers(shop), await numbers(shop, "A", "S2")]
    await shop.move(held.id, 1, "S2")
    assert [await numbers(shop), await numbers(shop, "A", "S2")] == [(4, 0, 0, 0, 4), (4, 2, 1, 0, 1)]
    await shop.move(held.id, 1, "S1")

    assert [await numbers(shop), await numbers(shop, "A", "S2")] == before
    shop.clock.now_ms += 1_000
    assert [await numbers(shop), await numbers(shop, "A", "S2")] == [(4, 0, 1, 0, 3), (4, 0, 0, 0, 4)]


async def test_there_is_no_way_back_to_units_that_were_sold_meanwhile(shop: Shop) -> None:
    await shop.open("S2")
    await shop.stock("A", 3)
    await shop.stock("A", 3, "S2")
    held = await shop.hold(("A", 3))
    await shop.move(held.id, 1, "S2")
    await shop.hold(("A", 1))

    refused = await shop.move(held.id, 1, "S1")
    assert refused == m.Insufficient([m.ShortLine(1, "A", "S1", 3, 2, "low")])
    assert await numbers(shop, "A", "S2") == (3, 3, 0, 0, 0)


async def test_one_of_two_lines_of_a_position_moves_and_the_other_keeps_its_deadline(shop: Shop) -> None:
    await shop.open("S2")
    await shop.stock("A", 5)
    await shop.stock("A", 5, "S2")
    held = await shop.hold(("A", 2), ("A", 3), ttl_ms=1_000)
    await shop.move(held.id, 1, "S2")
    shop.clock.now_ms += 1_000

    assert [await numbers(shop), await numbers(shop, "A", "S2")] == [(5, 0, 0, 0, 5), (5, 0, 0, 0, 5)]
    assert await units(shop, held.id) == [{"expired": 2}, {"expired": 3}]


async def test_a_line_that_was_picked_moves_only_after_it_was_put_back(shop: Shop) -> None:
    await shop.open("S2")
    await shop.stock("A", 5, "S2")
    reservation = await order(shop, ("A", 3))
    await shop.pick(reservation, (1, 1))
    assert await shop.move(reservation, 1, "S2") == m.WrongState("committed", ["pick", "ship", "cancel"])
    await shop.cancel(reservation, (1, 3))
    assert await shop.move(reservation, 1, "S2") == m.WrongState("cancelled", [])


async def test_a_refused_move_does_not_say_that_it_is_allowed_but_of_another_line(shop: Shop) -> None:
    await shop.open("S2")
    await shop.stock("B", 5, "S2")
    reservation = await order(shop, ("A", 3), ("B", 3))
    await shop.ship(reservation, (1, 1))

    refused = await shop.move(reservation, 1, "S2")
    assert refused == m.WrongState("committed", ["pick", "ship", "cancel", "return", "move"])
    assert isinstance(await shop.move(reservation, 2, "S2"), m.Done)


async def test_a_moved_claim_is_given_back_where_it_is(shop: Shop) -> None:
    await shop.open("S2")
    await shop.stock("A", 4, "S2")
    reservation = await order(shop, ("A", 4))
    await shop.move(reservation, 1, "S2")
    await shop.cancel(reservation, (1, 1))
    await shop.ship(reservation)
    shop.clock.now_ms += 1
    await shop.give_back(reservation, (1, 2))

    assert [await numbers(shop), await numbers(shop, "A", "S2")] == [(4, 0, 0, 0, 4), (3, 0, 0, 0, 3)]


# --- claim again ------------------------------------------------------------------------------------------------


async def expired(shop: Shop, *lines: tuple[str, int]) -> str:
    """A hold at S1 that has just expired."""
    held = await shop.hold(*lines, ttl_ms=1_000)
    shop.clock.now_ms += 1_000
    return str(held.id)


async def test_all_of_an_expired_hold_is_claimed_again_or_nothing(shop: Shop) -> None:
    await shop.stock("A", 3)
    await shop.stock("B", 3)
    reservation = await expired(shop, ("A", 2), ("B", 3))
    await shop.hold(("B", 1))

    refused = await shop.commit(reservation, reacquire=True)
    assert refused == m.Insufficient([m.ShortLine(2, "B", "S1", 3, 2, "low")])
    assert await numbers(shop) == (3, 0, 0, 0, 3)
    claimed = await shop.commit(reservation, (1, 2), (2, 2), reacquire=True)
    assert [counts(line) for line in claimed.reservation.lines] == [{"committed": 2}, {"committed": 2, "expired": 1}]


async def test_two_lines_of_a_position_are_claimed_again_together(shop: Shop) -> None:
    await shop.stock("A", 5)
    reservation = await expired(shop, ("A", 3), ("A", 2))
    await shop.hold(("A", 1))

    refused = await shop.commit(reservation, reacquire=True)
    assert refused == m.Insufficient([m.ShortLine(2, "A", "S1", 2, 1, "low")])


async def test_only_what_expired_is_claimed_again(shop: Shop) -> None:
    await shop.stock("A", 5)
    held = await shop.hold(("A", 5), ttl_ms=1_000)
    await shop.release(held.id, (1, 2))
    shop.clock.now_ms += 1_000

    refused = await shop.commit(held.id, (1, 4), reacquire=True)
    assert refused == m.WrongState("expired", [])
    await shop.commit(held.id, reacquire=True)
    assert await units(shop, held.id) == [{"committed": 3, "released": 2}]


async def test_a_claim_made_again_is_made_once_and_goes_on_like_any_other(shop: Shop) -> None:
    """P3."""
    await shop.stock("A", 4)
    reservation = await expired(shop, ("A", 4))
    await shop.commit(reservation, (1, 3), reacquire=True, key="again")
    assert (await shop.commit(reservation, (1, 3), reacquire=True, key="again")).replayed
    refused = await shop.commit(reservation)
    assert refused == m.WrongState("committed", ["pick", "ship", "cancel", "move"])

    await shop.cancel(reservation, (1, 1))
    shop.clock.now_ms += 1
    await shop.ship(reservation)
    assert await units(shop, reservation) == [{"shipped": 2, "expired": 1, "cancelled": 1}]
    assert await numbers(shop) == (2, 0, 0, 0, 2)


async def test_nothing_is_claimed_again_at_a_closed_location(shop: Shop) -> None:
    await shop.stock("A", 4)
    reservation = await expired(shop, ("A", 4))
    await shop.open("S1", enabled=False)

    assert isinstance(await shop.commit(reservation, reacquire=True), m.Insufficient)
    assert await units(shop, reservation) == [{"expired": 4}]


# --- replays and refusals ---------------------------------------------------------------------------------------

BACK: list[tuple[str, list[str], list[str]]] = [
    # verb        before it            after it
    ("release", [], ["commit", "ship"]),
    ("cancel", ["commit"], ["ship", "give_back"]),
    ("cancel", ["commit", "pick"], ["ship", "give_back"]),
    ("give_back", ["commit", "ship"], ["give_back"]),
]


@pytest.mark.parametrize(("verb", "before", "after"), BACK)
async def test_a_replay_of_a_way_back_after_later_changes_does_nothing_more(
    shop: Shop, verb: str, before: list[str], after: list[str]
) -> None:
    """P3: it shows the reservation as it is now."""
    await shop.stock("A", 4)
    held = await shop.hold(("A", 4))
    for each in before:
        shop.clock.now_ms += 1
        await getattr(shop, each)(held.id)
    first = await getattr(shop, verb)(held.id, (1, 1), key="back")
    for each in after:
        shop.clock.now_ms += 1
        assert isinstance(await getattr(shop, each)(held.id), m.Done)
    now, stock = await shop.found(held.id), await numbers(shop)
    again = await getattr(shop, verb)(held.id, (1, 1), key="back")

    assert (first.replayed, again.replayed) == (False, True)
    assert again.reservation == now != first.reservation
    assert await numbers(shop) == stock


TOO_MUCH: list[tuple[list[tuple[Any, ...]], str, list[tuple[int, int]], m.WrongState]] = [
    # done before: verb and lines                          tried       units     answer
    ([("release", (1, 4))], "release", [], m.WrongState("released", [])),
    ([("release", (1, 4))], "cancel", [], m.WrongState("released", [])),
    ([("release", (1, 4))], "give_back", [], m.WrongState("released", [])),
    ([("release", (1, 1))], "release", [(1, 4)], m.WrongState("held", ["commit", "extend", "release", "move"])),
    ([("commit",), ("cancel",)], "cancel", [], m.WrongState("cancelled", [])),
    ([("commit",), ("cancel",)], "give_back", [], m.WrongState("cancelled", [])),
    ([("commit",), ("cancel",)], "release", [], m.WrongState("cancelled", [])),
    ([("commit",), ("pick",), ("cancel",)], "ship", [], m.WrongState("cancelled", [])),
    ([("commit",), ("pick",)], "release", [], m.WrongState("committed", ["ship", "cancel"])),
    ([("commit",), ("pick",)], "give_back", [], m.WrongState("committed", ["ship", "cancel"])),
    ([("commit",), ("ship",)], "cancel", [(1, 1)], m.WrongState("shipped", ["return"])),
    ([("commit",), ("ship",), ("give_back",)], "cancel", [], m.WrongState("returned", [])),
    ([("commit",), ("ship",), ("give_back",)], "give_back", [(1, 1)], m.WrongState("returned", [])),
    # The status is the ending of most units, and of as many the first in the order of DESIGN 9.
    ([("commit",), ("ship",), ("give_back", (1, 2))], "give_back", [(1, 3)], m.WrongState("shipped", ["return"])),
    ([("commit",), ("ship",), ("give_back", (1, 3))], "give_back", [(1, 2)], m.WrongState("returned", ["return"])),
]


@pytest.mark.parametrize(("before", "tried", "lines", "answer"), TOO_MUCH)
async def test_what_cannot_be_given_back_says_what_is_and_what_is_allowed(
    shop: Shop, before: list[tuple[Any, ...]], tried: str, lines: list[tuple[int, int]], answer: m.WrongState
) -> None:
    """P5, and nothing is done."""
    await shop.stock("A", 4)
    held = await shop.hold(("A", 4))
    for verb, *parts in before:
        shop.clock.now_ms += 1
        assert isinstance(await getattr(shop, verb)(held.id, *parts), m.Done)
    now, stock = await shop.found(held.id), await numbers(shop)

    told = await getattr(shop, tried)(held.id, *lines)
    assert told == answer
    assert (await shop.found(held.id), await numbers(shop)) == (now, stock)


async def test_expired_units_are_reacquired_beside_units_that_live(shop: Shop) -> None:
    """P5: part was bought in time, part ran out, and what is still there can be claimed anew, part by part."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 6), ttl_ms=1_000)
    await shop.commit(held.id, (1, 2))
    await shop.release(held.id, (1, 1))
    shop.clock.now_ms += 1_000
    first = await shop.commit(held.id, (1, 2), reacquire=True)
    assert counts(first.reservation.lines[0]) == {"committed": 4, "released": 1, "expired": 1}
    second = await shop.commit(held.id, reacquire=True)
    assert counts(second.reservation.lines[0]) == {"committed": 5, "released": 1}
    assert isinstance(await shop.commit(held.id, reacquire=True), m.WrongState)
    assert (await shop.position("A")).committed == 5
