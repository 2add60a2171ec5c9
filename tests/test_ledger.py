"""What the ledger promises, verb by verb: by the plain rules, and by the Lua on a server and on a cluster of three."""

import asyncio
from typing import Any

import pytest
from ledgers import START_MS, Shop, counts

from ledger import messages as m
from ledger.identity import event_key

pytestmark = pytest.mark.anyio

HELD_ALLOWS = ["commit", "extend", "release", "move"]


# --- the keeper -------------------------------------------------------------------------------------------------


async def test_the_keeper_ends_what_is_held_after_a_hold_that_was_committed(shop: Shop) -> None:
    """P5: the position had nothing to end when the keeper came by, and has again."""
    await shop.stock("A", 10)
    await shop.hold(("A", 1), ttl_ms=1)
    shop.clock.now_ms += 1
    second = await shop.hold(("A", 1), ttl_ms=1)
    await shop.commit(second.id)
    assert await shop.ledger.expire(m.Expire()) == m.Expired(0, more=False)
    third = await shop.hold(("A", 1), ttl_ms=1)
    shop.clock.now_ms += 1

    assert third.reservation.status == "held"
    assert await shop.ledger.expire(m.Expire()) == m.Expired(1, more=False)


async def test_the_keeper_ends_a_hold_that_was_made_shorter(shop: Shop) -> None:
    """P5: it had seen that the hold would live long."""
    await shop.stock("A", 10)
    short = await shop.hold(("A", 1), ttl_ms=1)
    long = await shop.hold(("A", 1), ttl_ms=60_000)
    await shop.release(short.id)
    shop.clock.now_ms += 1
    assert await shop.ledger.expire(m.Expire()) == m.Expired(0, more=False)
    await shop.extend(long.id, 50)
    shop.clock.now_ms += 50

    assert await shop.ledger.expire(m.Expire()) == m.Expired(1, more=False)


# --- hold -------------------------------------------------------------------------------------------------------


async def test_a_hold_takes_units_and_says_until_when(shop: Shop) -> None:
    """P1."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 3), ttl_ms=5_000)

    assert held.reservation.expires_at_ms == START_MS + 5_000
    assert [counts(line) for line in held.reservation.lines] == [{"held": 3}]
    assert (await shop.position("A")).available == 7


async def test_two_lines_of_one_position_are_judged_together(shop: Shop) -> None:
    """P1. The second is short by what the first takes, and nothing is held."""
    await shop.stock("A", 10)
    refused = await shop.hold(("A", 6), ("A", 6))

    assert refused == m.Insufficient([m.ShortLine(2, "A", "S1", 6, 4, "low")])
    assert (await shop.position("A")).held == 0


async def test_every_short_line_is_named(shop: Shop) -> None:
    await shop.stock("A", 1)
    await shop.stock("B", 9)
    await shop.stock("C", 0)
    refused = await shop.hold(("A", 2), ("B", 9), ("C", 1))

    assert [(line.line, line.available, line.status) for line in refused.lines] == [(1, 1, "low"), (3, 0, "sold_out")]


async def test_what_is_all_held_is_told_apart_from_what_is_gone(shop: Shop) -> None:
    await shop.stock("A", 2)
    await shop.hold(("A", 2))
    refused = await shop.hold(("A", 1))

    assert refused.lines[0].status == "held_out"


async def test_mode_available_grants_what_there_is(shop: Shop) -> None:
    await shop.stock("A", 2)
    await shop.stock("B", 0)
    held = await shop.hold(("A", 5), ("B", 1), mode="available")

    assert [(line.quantity, line.requested) for line in held.reservation.lines] == [(2, 5), (0, 1)]


async def test_mode_available_with_nothing_at_all_is_a_refusal(shop: Shop) -> None:
    await shop.stock("A", 0)

    assert isinstance(await shop.hold(("A", 5), mode="available"), m.Insufficient)


async def test_unknown_skus_and_locations_are_named_by_line(shop: Shop) -> None:
    await shop.stock("A", 1)

    assert await shop.hold(("A", 1), ("Z", 1)) == m.UnknownSku(2, "Z")
    assert await shop.hold(("A", 1, "nowhere")) == m.UnknownLocation(1, "nowhere")


async def test_a_sku_known_elsewhere_is_short_where_it_was_never_counted(shop: Shop) -> None:
    await shop.open("S2")
    await shop.stock("A", 5)

    assert await shop.hold(("A", 1, "S2")) == m.Insufficient([m.ShortLine(1, "A", "S2", 1, 0, "sold_out")])


async def test_braces_colons_and_percent_signs_in_names_meet_nothing(shop: Shop) -> None:
    """User text never enters a key unencoded (DESIGN 5)."""
    for sku in ("A", "A:S1", "{s1}A", "%3A", ":"):
        await shop.stock(sku, 7)
        await shop.hold((sku, 2))

    for sku in ("A", "A:S1", "{s1}A", "%3A", ":"):
        assert (await shop.position(sku)).available == 5


async def test_a_closed_location_promises_nothing_from_the_next_decision_on(shop: Shop) -> None:
    await shop.stock("A", 5)
    await shop.open("S1", enabled=False)

    assert isinstance(await shop.hold(("A", 1)), m.Insufficient)
    read = await shop.ledger.read(m.Read([m.ReadItem("A", ["S1"]), m.ReadItem("A")]))
    assert [(entry.position.on_hand, entry.left) for entry in read.items[0].positions] == [(5, 0)]
    assert read.items[1].positions == []


# --- sourcing ---------------------------------------------------------------------------------------------------


async def shops(shop: Shop, **stock: int) -> None:
    """Locations of rising priority number, each with this many of SKU A."""
    for priority, (location, quantity) in enumerate(stock.items()):
        await shop.open(location, priority=priority, lat=float(priority), lon=0.0)
        await shop.stock("A", quantity, location)


async def sources(shop: Shop, quantity: int, **fields: Any) -> list[tuple[str, int]]:
    held = await shop.hold(("A", quantity, None), **fields)
    assert isinstance(held, m.Done), held
    return [(line.location, line.quantity) for line in held.reservation.lines]


async def test_the_lowest_priority_number_that_has_it_whole_gives(shop: Shop) -> None:
    await shops(shop, W1=3, W2=5, W3=9)

    assert await sources(shop, 4) == [("W2", 4)]


async def test_a_line_is_split_in_order_when_no_location_has_it_whole(shop: Shop) -> None:
    await shops(shop, W1=3, W2=5, W3=2)

    assert await sources(shop, 9) == [("W1", 3), ("W2", 5), ("W3", 1)]


async def test_a_limit_on_splits_takes_the_largest_rather_than_refuse(shop: Shop) -> None:
    """P5: never undersell."""
    await shops(shop, W1=3, W2=5, W3=4)

    assert await sources(shop, 9, max_splits=1) == [("W2", 5), ("W3", 4)]


async def test_no_split_means_one_location(shop: Shop) -> None:
    await shops(shop, W1=3, W2=5)
    refused = await shop.hold(("A", 6, None), max_splits=0)

    assert refused.lines[0].available == 5


async def test_the_nearest_gives_first(shop: Shop) -> None:
    await shops(shop, W1=9, W2=9, W3=9)

    assert await sources(shop, 1, strategy="nearest", near=(2.1, 0.0)) == [("W3", 1)]


async def test_a_basket_comes_from_one_location_when_one_can_give_it_all(shop: Shop) -> None:
    await shops(shop, W1=9, W2=9)
    await shop.stock("B", 1, "W2")
    held = await shop.hold(("A", 1, None), ("B", 1, None))

    assert [line.location for line in held.reservation.lines] == ["W2", "W2"]


# --- idempotency ------------------------------------------------------------------------------------------------


async def test_the_same_key_and_body_is_one_hold(shop: Shop) -> None:
    """P3."""
    await shop.stock("A", 10)
    first = await shop.hold(("A", 3), key="k")
    again = await shop.hold(("A", 3), key="k")

    assert (first.replayed, again.replayed) == (False, True)
    assert again.reservation == first.reservation
    assert (await shop.position("A")).held == 3


async def test_the_same_key_with_another_body_is_refused(shop: Shop) -> None:
    """P3."""
    await shop.stock("A", 10)
    await shop.hold(("A", 3), key="k", fingerprint="call:a")

    assert await shop.hold(("A", 4), key="k", fingerprint="call:b") == m.KeyReused("call:a")


async def test_a_key_used_for_a_hold_cannot_commit(shop: Shop) -> None:
    """P3: a key is one operation over all calls."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 3), key="k")

    assert isinstance(await shop.commit(held.id, key="k"), m.KeyReused)


async def test_two_clients_may_use_the_same_key(shop: Shop) -> None:
    """P10."""
    await shop.stock("A", 10)
    ours, theirs = await shop.hold(("A", 3), key="k"), await shop.hold(("A", 3), key="k", client="app")

    assert ours.id != theirs.id
    assert await shop.commit(ours.id, client="app") == m.NotFound()


async def test_a_refusal_is_judged_afresh(shop: Shop) -> None:
    """P3: it changed nothing, not even the key."""
    await shop.stock("A", 1)
    assert isinstance(await shop.hold(("A", 2), key="k"), m.Insufficient)
    await shop.stock("A", 2, at_ms=START_MS + 1)

    assert isinstance(await shop.hold(("A", 2), key="k"), m.Done)


async def test_a_replay_shows_the_reservation_as_it_is_now(shop: Shop) -> None:
    """P3."""
    await shop.stock("A", 5)
    held = await shop.hold(("A", 1), key="k")
    await shop.commit(held.id)

    assert (await shop.hold(("A", 1), key="k")).reservation.status == "committed"


# --- expiry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_ms", "available"), [(-1, 0), (0, 4), (1, 4)])
async def test_units_of_an_expired_hold_are_free_in_the_next_decision(shop: Shop, late_ms: int, available: int) -> None:
    """P5, at the edge."""
    await shop.stock("A", 4)
    await shop.hold(("A", 4), ttl_ms=1_000)
    shop.clock.now_ms += 1_000 + late_ms

    assert (await shop.position("A")).available == available
    assert isinstance(await shop.hold(("A", 4)), m.Done if available else m.Insufficient)


async def test_an_expired_hold_cannot_be_committed(shop: Shop) -> None:
    """P5: one ending per unit."""
    await shop.stock("A", 4)
    held = await shop.hold(("A", 4), ttl_ms=1_000)
    shop.clock.now_ms += 1_000

    assert await shop.commit(held.id) == m.ReservationExpired(START_MS + 1_000)


async def test_reacquire_claims_expired_units_anew_if_they_are_there(shop: Shop) -> None:
    """P5: asked for by name; its units move expired -> committed."""
    await shop.stock("A", 4)
    held = await shop.hold(("A", 3), ttl_ms=1_000)
    shop.clock.now_ms += 1_000
    await shop.hold(("A", 2), key="rival")
    assert isinstance(await shop.commit(held.id, reacquire=True), m.Insufficient)
    shop.clock.now_ms += 60_000

    committed = await shop.commit(held.id, reacquire=True)
    assert [counts(line) for line in committed.reservation.lines] == [{"committed": 3}]


async def test_extend_counts_from_now(shop: Shop) -> None:
    await shop.stock("A", 4)
    held = await shop.hold(("A", 4), ttl_ms=1_000)
    shop.clock.now_ms += 900

    assert (await shop.extend(held.id, 5_000)).reservation.expires_at_ms == START_MS + 5_900
    shop.clock.now_ms += 4_999
    assert (await shop.position("A")).available == 0


async def test_extended_twice_at_once_a_hold_still_ends_at_its_last_deadline(shop: Shop) -> None:
    """P5: two deadlines that come in one call do not take each other's place."""
    await shop.stock("A", 40)
    held = [(await shop.hold(("A", 1))).id for _ in range(40)]
    short = [(id_, 50_000 + 13 * number) for number, id_ in enumerate(held)]
    long = [(id_, 90_000 + 7 * number) for number, id_ in enumerate(held)]

    await asyncio.gather(*(shop.extend(*each) for pair in zip(short[:20], long[:20], strict=True) for each in pair))
    await asyncio.gather(*(shop.extend(*each) for pair in zip(long[20:], short[20:], strict=True) for each in pair))

    shop.clock.now_ms = START_MS + 60_000
    assert (await shop.position("A")).held == 20
    shop.clock.now_ms = START_MS + 100_000
    assert (await shop.position("A")).held == 0


async def test_the_keeper_ends_what_nobody_asks_for(shop: Shop) -> None:
    """P5."""
    for sku in ("A", "B:x"):
        await shop.stock(sku, 4)
        await shop.hold((sku, 4), ttl_ms=1_000)
    shop.clock.now_ms += 1_000

    assert await shop.ledger.expire(m.Expire()) == m.Expired(2, more=False)
    assert await shop.ledger.expire(m.Expire()) == m.Expired(0, more=False)


async def test_the_next_expiry_of_what_is_held_out_is_told(shop: Shop) -> None:
    await shop.stock("A", 2)
    first = await shop.hold(("A", 1), ttl_ms=1_000)
    await shop.hold(("A", 1), ttl_ms=9_000)
    read = await shop.ledger.read(m.Read([m.ReadItem("A")]))
    assert read.items[0].next_expiry_ms == START_MS + 1_000
    await shop.commit(first.id)

    read = await shop.ledger.read(m.Read([m.ReadItem("A")]))
    assert read.items[0].next_expiry_ms == START_MS + 9_000


# --- commit, release, ship --------------------------------------------------------------------------------------


async def test_units_go_from_held_to_committed_to_shipped(shop: Shop) -> None:
    """P6: on hand falls only when they leave the building."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 3))
    await shop.commit(held.id)
    assert (await shop.position("A")).on_hand == 10
    shop.clock.now_ms += 1
    shipped = await shop.ship(held.id)

    position = await shop.position("A")
    assert shipped.reservation.status == "shipped"
    assert (position.on_hand, position.committed, position.available) == (7, 0, 7)


async def test_a_part_can_be_released_and_shipped(shop: Shop) -> None:
    await shop.stock("A", 10)
    held = await shop.hold(("A", 5))
    await shop.release(held.id, (1, 2))
    await shop.commit(held.id)
    shop.clock.now_ms += 1
    part = await shop.ship(held.id, (1, 1))

    assert counts(part.reservation.lines[0]) == {"released": 2, "committed": 2, "shipped": 1}
    assert part.reservation.status == "committed"


async def test_more_than_a_line_has_is_refused_and_nothing_is_done(shop: Shop) -> None:
    await shop.stock("A", 10)
    held = await shop.hold(("A", 2), ("A", 1))

    assert await shop.release(held.id, (1, 2), (2, 2)) == m.WrongState("held", HELD_ALLOWS)
    assert await shop.release(held.id, (3, 1)) == m.WrongState("held", HELD_ALLOWS)
    assert (await shop.position("A")).held == 3


REFUSALS = [
    # done before              tried      answer
    (["commit"], "commit", m.WrongState("committed", ["pick", "ship", "cancel", "move"])),
    (["commit"], "release", m.WrongState("committed", ["pick", "ship", "cancel", "move"])),
    (["release"], "commit", m.WrongState("released", [])),
    (["release"], "ship", m.WrongState("released", [])),
    ([], "ship", m.WrongState("held", HELD_ALLOWS)),
    (["commit", "ship"], "ship", m.WrongState("shipped", ["return"])),
    (["commit", "ship"], "release", m.WrongState("shipped", ["return"])),
]


@pytest.mark.parametrize(("before", "tried", "answer"), REFUSALS)
async def test_wrong_states_say_what_is_and_what_is_allowed(
    shop: Shop, before: list[str], tried: str, answer: m.Outcome
) -> None:
    """P5."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 2))
    for verb in before:
        await getattr(shop, verb)(held.id)

    assert await getattr(shop, tried)(held.id) == answer


async def test_an_operation_is_found_by_its_key(shop: Shop) -> None:
    """P4."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 2))
    await shop.commit(held.id, key="the-commit")

    found = await shop.ledger.find(m.Find(shop.key("the-commit"), "web"))
    assert (found.verb, found.id, found.reservation.status) == ("commit", held.id, "committed")
    assert await shop.ledger.find(m.Find(shop.key("never"), "web")) == m.NotFound()
    assert await shop.ledger.find(m.Find(held.id, "app")) == m.NotFound()


# --- pick, cancel, return, move ---------------------------------------------------------------------------------


async def test_picked_units_ship_first_and_the_rest_can_be_cancelled(shop: Shop) -> None:
    """P5, P6."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 5))
    await shop.commit(held.id)
    await shop.pick(held.id, (1, 2))
    shop.clock.now_ms += 1
    shipped = await shop.ship(held.id, (1, 3))
    assert counts(shipped.reservation.lines[0]) == {"committed": 2, "shipped": 3}

    cancelled = await shop.cancel(held.id)
    assert cancelled.reservation.status == "shipped"
    position = await shop.position("A")
    assert (position.on_hand, position.committed, position.picked, position.available) == (7, 0, 0, 7)


async def test_a_cancel_takes_back_what_was_picked(shop: Shop) -> None:
    """P5: un-pick by cancel."""
    await shop.stock("A", 3)
    held = await shop.hold(("A", 3))
    await shop.commit(held.id)
    await shop.pick(held.id)

    assert counts((await shop.cancel(held.id)).reservation.lines[0]) == {"cancelled": 3}
    assert (await shop.position("A")).available == 3


@pytest.mark.parametrize(
    ("disposition", "buckets"),
    [("sellable", (10, 0, 0)), ("damaged", (8, 2, 0)), ("quality_hold", (8, 0, 2)), ("discard", (8, 0, 0))],
)
async def test_returned_units_go_where_the_disposition_says(
    shop: Shop, disposition: m.Disposition, buckets: tuple[int, int, int]
) -> None:
    """P6."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 2))
    await shop.commit(held.id)
    shop.clock.now_ms += 1
    await shop.ship(held.id)
    shop.clock.now_ms += 1
    returned = await shop.give_back(held.id, disposition=disposition)

    position = await shop.position("A")
    assert returned.reservation.status == "returned"
    assert (position.on_hand, position.damaged, position.quality_hold) == buckets


async def test_a_line_moves_to_another_location_with_its_claim(shop: Shop) -> None:
    """P1: only if it is there, and the old location has its units back."""
    await shop.open("S2")
    await shop.stock("A", 5)
    await shop.stock("A", 2, "S2")
    held = await shop.hold(("A", 3), ttl_ms=1_000)
    assert isinstance(await shop.move(held.id, 1, "S2"), m.Insufficient)
    await shop.stock("A", 3, "S2", at_ms=START_MS + 1)

    moved = await shop.move(held.id, 1, "S2")
    assert moved.reservation.lines[0].location == "S2"
    assert ((await shop.position("A")).held, (await shop.position("A", "S2")).held) == (0, 3)
    assert await shop.move(held.id, 1, "nowhere") == m.UnknownLocation(1, "nowhere")
    shop.clock.now_ms += 1_000
    assert (await shop.position("A", "S2")).available == 3


async def test_a_part_can_be_committed(shop: Shop) -> None:
    """P5: the rest stays held and expires."""
    await shop.stock("A", 10)
    held = await shop.hold(("A", 5), ttl_ms=1_000)
    await shop.commit(held.id, (1, 2))
    shop.clock.now_ms += 1_000

    found = await shop.ledger.find(m.Find(held.id, "web"))
    assert counts(found.reservation.lines[0]) == {"committed": 2, "expired": 3}
    assert found.reservation.status == "committed"


# --- stock ------------------------------------------------------------------------------------------------------


async def test_a_snapshot_sets_and_a_later_delta_adds(shop: Shop) -> None:
    """P8."""
    assert (await shop.stock("A", 10)).on_hand == 10

    assert await shop.event("delta", "A", -3, at_ms=START_MS + 1) == m.EventResult("applied", None, 7, 10)


async def test_a_delta_that_the_count_contains_is_recorded_and_not_added(shop: Shop) -> None:
    """P8."""
    await shop.stock("A", 10)

    assert await shop.event("delta", "A", -3, at_ms=START_MS) == m.EventResult("superseded", None, 10, 10)


async def test_a_snapshot_that_arrives_late_gets_the_later_deltas_added_again(shop: Shop) -> None:
    """P8."""
    await shop.stock("A", 10, at_ms=START_MS)
    await shop.event("delta", "A", -3, at_ms=START_MS + 20)

    assert (await shop.stock("A", 50, at_ms=START_MS + 10)).on_hand == 47
    assert (await shop.stock("A", 99, at_ms=START_MS + 5)).outcome == "superseded"


async def test_an_event_counts_once(shop: Shop) -> None:
    """P8."""
    await shop.event("delta", "A", 4, id="e1")

    assert await shop.event("delta", "A", 4, id="e1") == m.EventResult("duplicate", None, 4, 4)


async def test_an_id_with_other_content_is_quarantined(shop: Shop) -> None:
    await shop.event("delta", "A", 4, id="e1")

    assert await shop.event("delta", "A", 5, id="e1") == m.EventResult("quarantined", "conflict", 4, 4)


async def test_an_event_for_an_unknown_location_is_quarantined(shop: Shop) -> None:
    assert (await shop.stock("A", 1, "nowhere")).reason == "unknown-location"


async def test_with_an_authority_other_sources_do_not_set_on_hand(shop: Shop) -> None:
    await shop.open("S1", authority="wms")
    await shop.stock("A", 5, source="wms")

    assert (await shop.stock("A", 9, source="erp", at_ms=START_MS + 1)).reason == "not-authoritative"


async def test_a_count_after_the_shipment_does_not_subtract_it_twice(shop: Shop) -> None:
    """P8: a shipment is a delta at the time it happened."""
    await shop.stock("A", 10, at_ms=START_MS)
    held = await shop.hold(("A", 4))
    await shop.commit(held.id)
    await shop.stock("A", 6, at_ms=START_MS + 50)
    shop.clock.now_ms += 100
    await shop.ship(held.id, occurred_at_ms=START_MS + 40)

    assert (await shop.position("A")).on_hand == 6


async def test_a_move_takes_units_from_one_bucket_to_another(shop: Shop) -> None:
    """P6."""
    await shop.stock("A", 10)
    await shop.event("move", "A", 2, at_ms=START_MS + 1, bucket="on_hand", to_bucket="damaged")

    position = await shop.position("A")
    assert (position.on_hand, position.damaged) == (8, 2)


async def test_a_persons_count_is_believed_and_taken_once(shop: Shop) -> None:
    """P3, P8."""
    await shop.open("S1", authority="wms")

    async def count(quantity: int, fingerprint: str) -> Any:
        key = event_key("ann", "count:S1:c1:A")
        event = m.StockEvent(key, "ann", "c1:A", "snapshot", "A", "S1", quantity, START_MS)
        return await shop.ledger.count(m.Count(fingerprint, "ann", "S1", "c1", [event]))

    assert await count(5, "f") == m.Counted(False, [m.EventResult("applied", None, 5, 0)])
    assert await count(5, "f") == m.Counted(True, [m.EventResult("duplicate", None, 5, 5)])
    assert await count(6, "g") == m.KeyReused("f")
