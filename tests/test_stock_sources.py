"""What stock events of several sources come to, on both ledgers: views, sales, shipments that are told twice (P8)."""

import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest
from books import assert_books_balance, fold, journal_of
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import START_MS, Clock, Shop
from redis import Redis
from servers import as_owner

from ledger import messages as m
from ledger.convergence import OURS, VIEWS_MAX, History
from ledger.identity import event_key
from ledger.rules import RulesLedger
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

NOT_BELIEVED = ("quarantined", "not-authoritative")


@pytest.fixture
async def shop(server_url: str | None) -> AsyncIterator[Shop]:
    """A shop with one location, S1, that believes the WMS. In the end the books balance."""
    clock = Clock()
    ledger = Ledger(server_url, now_ms=clock) if server_url else RulesLedger(clock)
    shop = Shop(ledger, clock)
    await shop.open(authority="wms")
    yield shop
    if server_url:
        with Redis.from_url(as_owner(server_url)) as client:
            assert_books_balance(client)
    await ledger.close()


async def shipped(shop: Shop, *parts: int, at_ms: int = START_MS + 10, quantity: int = 5) -> str:
    """A reservation of units of A, committed, of which these parts are shipped one after the other."""
    held = await shop.hold(("A", quantity))
    reservation: str = held.id
    await shop.commit(reservation)
    for number, part in enumerate(parts):
        shop.clock.now_ms = max(shop.clock.now_ms, at_ms + number)
        assert isinstance(await shop.ship(reservation, (1, part), occurred_at_ms=at_ms + number), m.Done)
    return reservation


async def on_hand(shop: Shop) -> int:
    return (await shop.position("A")).on_hand


# --- views ------------------------------------------------------------------------------------------------------


async def test_a_source_that_is_not_believed_leaves_a_view_and_the_stock_alone(shop: Shop) -> None:
    """Its snapshot again is a duplicate, an older one changes nothing, a newer one takes its place."""
    await shop.stock("A", 5)
    told = await shop.stock("A", 9, source="erp", id="night-2", at_ms=START_MS + 2)
    assert told == m.EventResult("quarantined", "not-authoritative", 5, 5)
    again = await shop.stock("A", 9, source="erp", id="night-2", at_ms=START_MS + 2)
    assert again == m.EventResult("duplicate", None, 5, 5)
    other = await shop.stock("A", 8, source="erp", id="night-2", at_ms=START_MS + 2)
    assert other == m.EventResult("quarantined", "conflict", 5, 5)
    older = await shop.stock("A", 1, source="erp", id="night-1", at_ms=START_MS + 1)
    assert (older.outcome, older.reason) == NOT_BELIEVED

    assert await shop.views() == [m.View("S1", "erp", 9, START_MS + 2, None, "night-2", 5)]
    await shop.stock("A", 7, source="erp", id="night-3", at_ms=START_MS + 2, sequence=1)
    assert await shop.views() == [m.View("S1", "erp", 7, START_MS + 2, 1, "night-3", 5)]
    assert await shop.position("A") == m.Position(5, 0, 0, 0, 0, 0, 0, 0, START_MS)


async def test_a_view_alone_makes_no_position(shop: Shop) -> None:
    await shop.stock("A", 9, source="erp", id="n")

    assert await shop.views() == [m.View("S1", "erp", 9, START_MS, None, "n", None)]
    assert await shop.hold(("A", 1)) == m.UnknownSku(1, "A")


async def test_views_are_listed_by_location_and_source(shop: Shop) -> None:
    await shop.open("S0", authority="wms")
    for location, source in (("S1", "pos"), ("S1", "erp"), ("S0", "erp")):
        await shop.stock("A", 1, location, source=source)
    await shop.stock("B", 1, source="erp")

    at = [("S0", "erp"), ("S1", "erp"), ("S1", "pos")]
    assert [(view.location, view.source) for view in await shop.views()] == at
    assert [view.source for view in await shop.views("A", "S1")] == ["erp", "pos"]
    assert await shop.views("A", "nowhere") == await shop.views("C") == []


async def test_a_position_keeps_the_newest_views_only(shop: Shop) -> None:
    """Whatever the order: the oldest gives way."""
    times = [START_MS + number for number in range(VIEWS_MAX + 2)]
    for at_ms in [*times[1::2], *times[::2]]:
        await shop.stock("A", 1, source=f"s{at_ms}", at_ms=at_ms)

    assert [view.as_of_ms for view in await shop.views()] == times[2:]


async def test_a_source_takes_its_view_back(shop: Shop) -> None:
    """P8: whichever of the two comes first."""
    for first, second in ((1, 0), (0, 1)):
        key = f"{first}"
        snapshot = {"source": f"erp:{key}", "id": "n"}
        probe = await shop.stock("A", 1, source=f"erp:{key}", id="probe", at_ms=START_MS - 1)
        assert (probe.outcome, probe.reason) == NOT_BELIEVED
        retraction = {"source": f"erp:{key}", "id": "r", "reverses": event_key(f"erp:{key}", "n")}
        calls = [snapshot, retraction]
        outcomes = [(await shop.stock("A", 9, **calls[index])).outcome for index in (first, second)]
        assert outcomes == (["applied", "superseded"] if first else ["quarantined", "applied"])
    assert [(view.source, view.id) for view in await shop.views()] == [("erp:1", "probe")]


async def test_another_authority_is_believed_from_the_next_event_on(shop: Shop) -> None:
    """And what was told before is not taken up again: not by us, and not from the view when it is sent again."""
    await shop.stock("A", 5)
    night = {"source": "erp", "id": "night", "at_ms": START_MS + 1}
    await shop.stock("A", 9, **night)  # type: ignore[arg-type]
    await shop.open(authority="erp")
    assert (await on_hand(shop), await shop.views()) == (5, [])

    assert (await shop.stock("A", 9, **night)).outcome == "applied"  # type: ignore[arg-type]
    late = await shop.stock("A", 2, id="late", at_ms=START_MS + 3)
    assert (late.outcome, late.reason, await on_hand(shop)) == (*NOT_BELIEVED, 9)
    await shop.open(authority="wms")
    assert (await shop.stock("A", 9, **night)).outcome == "duplicate"  # type: ignore[arg-type]
    assert (await shop.stock("A", 2, id="late", at_ms=START_MS + 3)).outcome == "applied"
    assert await on_hand(shop) == 2


async def test_other_buckets_and_counts_of_persons_need_no_authority(shop: Shop) -> None:
    assert (await shop.stock("A", 3, source="erp", bucket="damaged")).outcome == "applied"
    assert await shop.views() == []


# --- sales and shipments of any source --------------------------------------------------------------------------


async def test_a_sale_at_the_till_counts_whoever_the_authority_is(shop: Shop) -> None:
    """P8: once, and unless a later count has it."""
    await shop.stock("A", 10, at_ms=START_MS + 10)
    sale = {"source": "pos:7", "id": "receipt-1", "at_ms": START_MS + 20, "reason": "sale"}
    assert await shop.event("delta", "A", -2, **sale) == m.EventResult("applied", None, 8, 10)  # type: ignore[arg-type]
    assert (await shop.event("delta", "A", -2, **sale)).outcome == "duplicate"  # type: ignore[arg-type]
    before = await shop.event("delta", "A", -3, source="pos:7", at_ms=START_MS + 5)
    assert before == m.EventResult("superseded", None, 8, 8)
    assert (await shop.stock("A", 10, at_ms=START_MS + 15)).on_hand == 8
    assert (await shop.stock("A", 8, at_ms=START_MS + 25)).on_hand == 8


async def test_the_reason_of_an_event_is_journaled(valkey_url: str) -> None:
    clock = Clock()
    shop = Shop(Ledger(valkey_url, now_ms=clock), clock)
    await shop.open()
    await shop.event("delta", "A", -2, reason="sale", id="receipt-1", source="pos")
    await shop.ledger.close()
    with Redis.from_url(as_owner(valkey_url)) as client:
        (sale,) = journal_of(client)[-1].operations
    assert sale.verb == "apply"
    assert msgspec.msgpack.decode(sale.body, type=m.StockEvent).reason == "sale"


# --- a shipment that is told twice ------------------------------------------------------------------------------


@pytest.mark.parametrize("reports_first", [False, True])
@pytest.mark.parametrize("reports", [(5,), (2, 3), (1, 1, 3)])
@pytest.mark.parametrize("parts", [(5,), (3, 2)])
async def test_our_shipment_and_its_report_are_one_fact(
    shop: Shop, reports: tuple[int, ...], parts: tuple[int, ...], *, reports_first: bool
) -> None:
    """P8: whichever comes first, in as many parts as each likes."""
    await shop.stock("A", 10)
    reservation = await shipped(shop, *(() if reports_first else parts))
    for number, quantity in enumerate(reports):
        told = await shop.reported(reservation, quantity, at_ms=START_MS + 20 + number)
        assert told.outcome == "applied"
        if not reports_first:
            assert (told.on_hand, told.previous) == (5, 5)
    if reports_first:
        for number, part in enumerate(parts):
            await shop.ship(reservation, (1, part), occurred_at_ms=START_MS + 10 + number)
    assert await on_hand(shop) == 5


async def test_the_worked_case_of_the_manual(shop: Shop) -> None:
    """P8: as in ledger/README.md."""
    await shop.stock("A", 10, at_ms=START_MS)
    reservation = await shipped(shop, 3, at_ms=START_MS + 1_000, quantity=6)
    await shop.ship(reservation, (1, 2), occurred_at_ms=START_MS + 2_000)
    assert await on_hand(shop) == 5
    told = await shop.reported(reservation, 4, at_ms=START_MS + 1_050)
    assert told == m.EventResult("applied", None, 5, 5)
    assert (await shop.reported(reservation, 2, id="w2", at_ms=START_MS + 2_200)).on_hand == 4
    await shop.ship(reservation, (1, 1), occurred_at_ms=START_MS + 2_500)
    assert await on_hand(shop) == 4
    assert (await shop.stock("A", 6, at_ms=START_MS + 1_500)).on_hand == 4
    await shop.reported(reservation, 2, at_ms=START_MS + 2_300, reverses=event_key("wms", "w2"))
    assert await on_hand(shop) == 4


async def test_what_is_reported_of_another_line_or_elsewhere_is_another_fact(shop: Shop) -> None:
    await shop.stock("A", 10)
    reservation = await shipped(shop, 5)
    await shop.reported(reservation, 1, line=2)
    await shop.reported("somebody-else", 1)
    await shop.reported(reservation, 1, bucket="damaged")
    assert await on_hand(shop) == 3
    assert (await shop.reported(reservation, -1)).on_hand == 4


async def test_more_reported_than_shipped_counts_and_the_later_shipment_does_not(shop: Shop) -> None:
    await shop.stock("A", 10)
    reservation = await shipped(shop, 2)
    assert (await shop.reported(reservation, 4)).on_hand == 6
    await shop.ship(reservation, (1, 2))
    assert await on_hand(shop) == 6
    await shop.ship(reservation, (1, 1))
    assert await on_hand(shop) == 5


async def test_a_report_is_believed_about_the_time(shop: Shop) -> None:
    """P8: a count between our shipment and the reported one has the units or not as the report says."""
    await shop.stock("A", 10)
    reservation = await shipped(shop, 2, at_ms=START_MS + 10)
    await shop.stock("A", 10, at_ms=START_MS + 20)  # they had not left
    assert await on_hand(shop) == 10
    assert (await shop.reported(reservation, 2, at_ms=START_MS + 30)).on_hand == 8

    second = await shipped(shop, 3, at_ms=START_MS + 50)
    assert await on_hand(shop) == 5
    await shop.stock("A", 5, at_ms=START_MS + 40)  # they had left
    assert await on_hand(shop) == 2
    told = await shop.reported(second, 3, at_ms=START_MS + 35)
    assert (told.outcome, told.on_hand) == ("applied", 5)


async def test_a_report_taken_back_lets_our_shipment_count_again(shop: Shop) -> None:
    """P8: and before it came, too; taking it back twice is taking it back once."""
    await shop.stock("A", 10)
    reservation = await shipped(shop, 5)
    await shop.reported(reservation, 5, id="w1", at_ms=START_MS + 20)
    for name in ("r1", "r2"):
        await shop.reported(reservation, 5, id=name, at_ms=START_MS + 30, reverses=event_key("wms", "w1"))
        assert await on_hand(shop) == 5
    await shop.stock("A", 9, at_ms=START_MS + 15)
    assert await on_hand(shop) == 9
    assert (await shop.reported(reservation, 5, id="w1", at_ms=START_MS + 20)).outcome == "duplicate"
    assert (await shop.reported(reservation, 2, id="w2", at_ms=START_MS + 16)).on_hand == 7

    await shop.reported(reservation, 5, id="r3", at_ms=START_MS + 30, reverses=event_key("wms", "w3"))
    assert (await shop.reported(reservation, 2, id="w3", at_ms=START_MS + 17)).outcome == "superseded"
    assert await on_hand(shop) == 7


async def test_of_two_reports_only_the_one_taken_back_counts_no_more(shop: Shop) -> None:
    await shop.stock("A", 10)
    reservation = await shipped(shop, 5)
    await shop.reported(reservation, 2, id="w1", at_ms=START_MS + 20)
    await shop.reported(reservation, 2, id="w2", at_ms=START_MS + 20)
    for name in ("r1", "r2"):
        await shop.reported(reservation, 2, id=name, at_ms=START_MS + 30, reverses=event_key("wms", "w1"))
        assert await on_hand(shop) == 5


async def test_what_we_shipped_first_was_reported_first(shop: Shop) -> None:
    """P8: by the time when it left, not by when we were told."""
    await shop.stock("A", 10)
    reservation = await shipped(shop, 2, at_ms=START_MS + 30)
    await shop.ship(reservation, (1, 3), occurred_at_ms=START_MS + 10)
    await shop.stock("A", 10, at_ms=START_MS + 20)
    assert (await shop.reported(reservation, 3, at_ms=START_MS + 25)).on_hand == 5


async def test_a_report_with_another_reference_contradicts_itself(shop: Shop) -> None:
    await shop.stock("A", 10)
    reservation = await shipped(shop)
    await shop.reported(reservation, 2, id="w1")
    assert (await shop.reported(reservation, 2, id="w1", line=2)).reason == "conflict"
    assert (await shop.reported(reservation, 2, id="w1")).outcome == "duplicate"


shipments = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), max_size=4)


@settings(max_examples=300, deadline=None)
@given(ours=shipments, reports=shipments, count_at=st.integers(0, 9), data=st.data())
def test_any_order_of_shipments_reports_and_a_count_comes_to_the_same(
    ours: list[tuple[int, int]], reports: list[tuple[int, int]], count_at: int, data: st.DataObject
) -> None:
    """P8: all that was reported, and of ours the newest units that were not."""
    names = itertools.count()

    def event(source: str, quantity: int, at: int) -> m.StockEvent:
        line = {"reference_reservation": "r", "reference_line": 1}
        return m.StockEvent(f"{next(names):02}", source, "e", "delta", "A", "S1", -quantity, at, **line)  # type: ignore[arg-type]

    counted = m.StockEvent("count", "wms", "c", "snapshot", "A", "S1", 20, count_at)
    events = [*(event(OURS, *one) for one in ours), *(event("wms", *one) for one in reports), counted]
    history = History()
    for one in data.draw(st.permutations(events)):
        history.accept(one)

    our_units = sorted(at for quantity, at in ours for _ in range(quantity))
    reported_units = [at for quantity, at in reports for _ in range(quantity)]
    left = our_units[len(reported_units) :] + reported_units
    assert history.number("on_hand") == 20 - sum(at > count_at for at in left)


# --- reports and the window -------------------------------------------------------------------------------------


@pytest.fixture
async def server(valkey_url: str) -> AsyncIterator[Shop]:
    clock = Clock()
    ledger = Ledger(valkey_url, now_ms=clock)
    shop = Shop(ledger, clock)
    await shop.open()
    yield shop
    await ledger.close()


async def fill_window(shop: Shop, at_ms: int) -> None:
    """So many deltas of nothing that all before them are folded."""
    events = [
        m.StockEvent(f"f{at_ms}{number}", "wms", f"f{number}", "delta", "A", "S1", 0, at_ms + number)
        for number in range(513)
    ]
    await shop.ledger.apply(m.Apply("feed", events))


def marks(client: Redis) -> list[bytes]:
    fields: dict[bytes, bytes] = client.hgetall("{s0}:feed:A:S1")  # type: ignore[assignment]
    return [field for field in fields if field.startswith(b"#")]


async def test_what_was_matched_stays_so_when_it_folds_and_is_forgotten(server: Shop, valkey_url: str) -> None:
    """P6, P8: the number stays, the record goes with the last event of its line."""
    await server.stock("A", 10)
    reservation = await shipped(server, 3, at_ms=START_MS + 10)
    await server.reported(reservation, 2, at_ms=START_MS + 2_000)
    await server.ship(reservation, (1, 1), occurred_at_ms=START_MS + 3_000)
    assert await on_hand(server) == 6
    with Redis.from_url(as_owner(valkey_url)) as client:
        server.clock.now_ms = START_MS + 1_000
        await fill_window(server, START_MS + 100)
        assert (await on_hand(server), len(marks(client))) == (6, 1)
        await server.reported(reservation, 1, at_ms=START_MS + 4_000)  # of the one of 3,000
        assert await on_hand(server) == 6
        await server.ship(reservation, (1, 1), occurred_at_ms=START_MS + 4_500)
        assert await on_hand(server) == 5
        await fill_window(server, START_MS + 5_000)
        assert (await on_hand(server), marks(client)) == (5, [])
        assert_books_balance(client)


@pytest.mark.parametrize("folded_first", [False, True])
async def test_a_line_of_which_a_part_was_folded_meets_the_reports_of_the_rest(
    server: Shop, *, folded_first: bool
) -> None:
    await server.stock("A", 10)
    reservation = await shipped(server, 2, at_ms=START_MS + 10)
    if folded_first:
        await fill_window(server, START_MS + 100)
    server.clock.now_ms = START_MS + 4_000
    await server.ship(reservation, (1, 1), occurred_at_ms=START_MS + 3_000)
    if not folded_first:
        await fill_window(server, START_MS + 100)
    assert await on_hand(server) == 7
    assert (await server.reported(reservation, 1, at_ms=START_MS + 3_001)).on_hand == 7


async def test_our_shipment_from_before_the_horizon_meets_its_report(server: Shop, valkey_url: str) -> None:
    """P8: it is folded at once, as much of it as was not reported; later ones count again for it."""
    await server.stock("A", 10)
    reservation = await shipped(server)
    await fill_window(server, START_MS + 100)
    server.clock.now_ms = START_MS + 9_000
    await server.reported(reservation, 2, at_ms=START_MS + 8_000)
    await server.ship(reservation, (1, 1))
    assert await on_hand(server) == 8
    await server.ship(reservation, (1, 3), occurred_at_ms=START_MS + 101)
    assert await on_hand(server) == 6
    late = await server.reported(reservation, 1, at_ms=START_MS + 102)
    assert (late.reason, late.on_hand) == ("late", 6)
    with Redis.from_url(as_owner(valkey_url)) as client:
        assert fold(journal_of(client))["A", "S1"]["on_hand"] == 6
        assert_books_balance(client)
