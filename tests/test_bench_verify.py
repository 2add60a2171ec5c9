"""The bench's checks after a run: each is green on what was promised, and red on what was not kept."""

import json
from array import array
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from bench import orders, verify
from bench.account import Account
from bench.feeder import Event, Feeder
from bench.http_load import Request
from bench.opening import Position, assortment
from bench.orders import ENDING, HELD, NOT_DONE, REFUSED, UNKNOWN, Holds, Plan, Pool
from bench.sale import Sale
from bench.verify import Expected

HOT, TAIL = Position("here", "hot"), Position("here", "tail")
COMMITTED, RELEASED = HELD + ENDING * orders.COMMITTED, HELD + ENDING * orders.RELEASED
ONE_HOT, TWO_TAIL = [("here", "hot", 1)], [("here", "hot", 1), ("here", "tail", 2)]


def account(*holds: tuple[int, int, str | None]) -> Account:
    """Of (basket, state, id)."""
    told = Holds(
        baskets=[ONE_HOT, TWO_TAIL],
        asked=array("H", [basket for basket, _, _ in holds]).tobytes(),
        states=bytes(state for _, state, _ in holds),
        ids=[identity for _, _, identity in holds],
        raised={"tail": 3},
        unsettled_events=[],
    )
    return Account("run", 2, [told])


def reservation(identity: str, status: str, lines: list[tuple[str, str, int]]) -> dict[str, Any]:
    units = dict.fromkeys(("held", "committed", "released", "expired"), 0)
    told = [
        {"location": location, "sku": sku, "quantity": quantity, **units, status: quantity}
        for location, sku, quantity in lines
    ]
    return {"id": identity, "status": status, "lines": told}


def position(on_hand: int, committed: int = 0, held: int = 0, available: int | None = None) -> dict[str, int]:
    left = max(0, on_hand - committed - held)
    claims = {"held": held, "committed": committed, "picked": 0, "safety_stock": 0}
    return {"on_hand": on_hand, "available": left if available is None else available, **claims}


def test_units_acknowledged_as_committed_are_those_of_commits_alone() -> None:
    ours = account((1, COMMITTED, "a"), (0, COMMITTED, "b"), (0, HELD, "c"), (1, RELEASED, "d"), (0, REFUSED, None))

    assert ours.committed() == {HOT: 2, TAIL: 2}
    assert [hold.identity for hold in ours.acknowledged()] == ["a", "b", "c", "d"]
    assert [hold.key for hold in ours.refused()] == ["run-1-4"]
    assert [hold.client for hold in ours.holds()] == [0, 1, 0, 1, 0]
    assert ours.raised("there") == {Position("there", "tail"): 3}


def test_what_was_unknown_becomes_what_the_service_says_of_it() -> None:
    asking = HELD + ENDING * orders.COMMIT_UNKNOWN
    ours = account((0, UNKNOWN, None), (1, UNKNOWN, None), (0, asking, "c"), (0, asking, "d"), (0, HELD, "e"))
    found = [None, reservation("b", "released", TWO_TAIL)]
    found += [reservation("c", "committed", ONE_HOT), reservation("d", "expired", ONE_HOT)]

    unknown = ours.unknown()
    for hold, told in zip(unknown, found, strict=True):
        ours.settle(hold, told)

    assert [hold.number for hold in unknown] == [0, 1, 2, 3]
    assert [hold.state for hold in ours.holds()] == [NOT_DONE, HELD, HELD, HELD, HELD]
    assert [hold.status for hold in ours.acknowledged()] == ["released", "committed", "expired", "expired"]
    assert ours.unknown() == []


KEPT = [("a", "committed", TWO_TAIL), ("b", "expired", ONE_HOT)]


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        ([reservation(*KEPT[0]), reservation(*KEPT[1])], True),
        ([reservation(*KEPT[0]), None], False),
        ([reservation(*KEPT[0]), reservation("x", "expired", ONE_HOT)], False),
        ([reservation("a", "expired", TWO_TAIL), reservation(*KEPT[1])], False),
        ([reservation("a", "committed", ONE_HOT), reservation(*KEPT[1])], False),
    ],
    ids=["kept", "lost", "another", "a commit undone", "a line lost"],
)
def test_an_acknowledgement_that_was_lost_is_seen(found: list[dict[str, Any] | None], holds: bool) -> None:  # noqa: FBT001
    chosen = list(account((1, COMMITTED, "a"), (0, HELD, "b")).acknowledged())

    assert verify.check_sample(chosen, found, 2, 0, 0).holds is holds


@pytest.mark.parametrize(
    ("hot", "broken"),
    [
        (position(5, committed=5), set()),
        (position(4, committed=5), {0, 1}),
        (position(5, committed=5, held=1), {0, 1}),
        (position(5, committed=4), {1}),
        (position(6, committed=5), {1}),
        (position(5, committed=5, available=1), {2}),
    ],
    ids=["kept", "oversold", "held beyond", "a commit lost", "stock from nowhere", "unbalanced"],
)
def test_positions_that_do_not_show_what_was_acknowledged_are_seen(hot: dict[str, int], broken: set[int]) -> None:
    expected = Expected(on_hand=Counter({HOT: 5, TAIL: 9}), committed=Counter({HOT: 5}))

    checks = verify.check_positions({HOT: hot, TAIL: position(9)}, expected)

    assert {number for number, check in enumerate(checks) if not check.holds} == broken


@pytest.mark.parametrize(
    ("held", "holds"),
    [({"a": 1, "b": 1}, True), ({"a": 1}, False), ({"a": 1, "b": 2}, False), ({"a": 1, "b": 1, "c": 1}, False)],
    ids=["kept", "lost", "twice", "refused and done"],
)
def test_the_journal_must_have_each_acknowledged_hold_once_and_no_other(held: dict[str, int], holds: bool) -> None:  # noqa: FBT001
    ours = account((1, COMMITTED, "a"), (0, HELD, "b"), (0, REFUSED, None), (0, NOT_DONE, None))

    assert verify.in_journal(ours, held).holds is holds


def test_a_moment_of_less_than_nothing_is_an_oversell() -> None:
    assert verify.never_oversold({("here", "hot"): 0, ("here", "tail"): 3}).holds
    assert not verify.never_oversold({("here", "hot"): -1, ("here", "tail"): 3}).holds


def test_a_refusal_although_there_was_always_enough_is_seen() -> None:
    ours = account((1, REFUSED, None))

    assert verify.ran_short(ours, {("here", "hot"): 1, ("here", "tail"): 1}).holds
    assert not verify.ran_short(ours, {("here", "hot"): 1, ("here", "tail"): 2}).holds


# What the generator keeps of each hold.


@pytest.fixture(autouse=True)
def few_baskets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quickly made ones."""
    for name in ("BASKETS", "READS", "READS_OF_MANY"):
        monkeypatch.setattr(f"bench.sale.{name}", 400)


class Buyers:
    """A ``Sale`` whose follow-ups wait in ``later``."""

    def __init__(self, **changes: Any) -> None:
        self.later: list[Request] = []
        settings: dict[str, Any] = {"commit_share": 0.6, "release_share": 0.2, "pools": [Pool("baskets", 0.5, 0)]}
        plan = Plan(
            url="http://example.org:8000",
            tokens=["one", "two"],
            name="run",
            number=3,
            processes=4,
            seed=1,
            connections_max=4,
            assortment=assortment("run", 50, 2),
            think_s=0.1,
            ttl_s=5,
            realtime=False,
            items=3,
            events=4,
            **settings | changes,
        )
        self.sale = Sale(plan, self.later.append)

    def answer(self, stream: str, status: str, body: bytes) -> Request:
        request = self.sale.streams[stream](7.0)
        request.answered(request, status, body)
        return request


def body_of(request: Request) -> Any:
    head, _, body = request.raw.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    return json.loads(body)


def header(request: Request, name: str) -> str:
    lines = request.raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    (value,) = [line.partition(": ")[2] for line in lines if line.startswith(f"{name}: ")]
    return value


def test_holds_are_whole_requests_with_keys_of_their_own_and_baskets_like_real_ones() -> None:
    buyers = Buyers()
    holds = [buyers.sale.streams["baskets"](float(second)) for second in range(2_000)]
    lines = [body_of(hold)["lines"] for hold in holds]

    assert {hold.raw.split(b"\r\n")[0] for hold in holds} == {b"POST /v1/reservations HTTP/1.1"}
    assert len({header(hold, "Idempotency-Key") for hold in holds}) == 2_000
    assert [header(hold, "Authorization") for hold in holds[:3]] == ["Bearer one", "Bearer two", "Bearer one"]
    assert [hold.due_s for hold in holds[:3]] == [0.0, 1.0, 2.0]
    hot = [basket for basket in lines if basket[0]["sku"] == "run-hot"]
    assert len(hot) == sum(hold.kind == "hold-hot" for hold in holds) == pytest.approx(1_000, rel=0.1)
    assert sum(map(len, lines)) / 2_000 == pytest.approx(9.4, rel=0.1)
    assert all(len({(line["sku"], line["location"]) for line in basket}) == len(basket) <= 100 for basket in lines)
    wanted = Counter(line["sku"] for basket in lines for line in basket)
    assert wanted["run-00001"] > 1.2 * wanted["run-00004"] > 1.2 * wanted["run-00040"]


def test_what_becomes_of_a_hold_is_kept_and_its_ending_follows() -> None:
    buyers = Buyers(commit_share=1.0, release_share=0.0)
    buyers.answer("baskets", "201", b'{"id":"abc","status":"held"}')
    buyers.answer("baskets", "201", b'{"status":"held", "id":"def"}')
    short = {"line": 1, "requested": 2, "available": 1}
    buyers.answer("baskets", "409", json.dumps({"lines": [short]}).encode())
    buyers.answer("baskets", "409", json.dumps({"lines": [short | {"available": 2}]}).encode())
    for status in ("503", "429", "422", "504", "lost", "timeout"):
        buyers.answer("baskets", status, b"")
    buyers.sale.streams["baskets"](7.0)
    commit, other = buyers.later

    assert commit.raw.startswith(b"POST /v1/reservations/abc/commit HTTP/1.1\r\n")
    assert (header(commit, "Idempotency-Key"), body_of(commit)) == ("run-3-0-commit", {"order_id": "run-3-0"})
    assert header(other, "Authorization") == "Bearer two"
    commit.answered(commit, "200", b"{}")
    other.answered(other, "lost", b"")
    told = buyers.sale.holds()
    expected = [COMMITTED, HELD + ENDING * orders.COMMIT_UNKNOWN, REFUSED, REFUSED, *[NOT_DONE] * 3, *[UNKNOWN] * 4]
    assert list(told.states) == expected
    assert told.ids[:3] == ["abc", "def", None]
    assert [odd["key"] for odd in told.odd] == ["run-3-3"]
    assert not verify.check_refusals_by_themselves(Account("run", 2, [told])).holds


@pytest.mark.parametrize(
    ("commit", "release", "verbs"),
    [(1.0, 0.0, {"commit"}), (0.0, 1.0, {"release"}), (0.0, 0.0, set()), (0.5, 0.5, {"commit", "release"})],
)
def test_holds_end_in_the_shares_that_were_asked_for(commit: float, release: float, verbs: set[str]) -> None:
    buyers = Buyers(commit_share=commit, release_share=release)
    for _ in range(50):
        buyers.answer("baskets", "201", b'{"id":"abc"}')

    assert {request.kind for request in buyers.later} == verbs
    assert len(buyers.later) == 50 * (commit + release)


def test_stock_events_count_when_they_are_acknowledged_and_are_told_again_when_not() -> None:
    buyers = Buyers()
    applied = buyers.answer("events", "200", b'{"results":[{"outcome":"applied"}]}')
    lost = buyers.answer("events", "lost", b"")
    told = buyers.sale.holds()

    assert sum(told.raised.values()) == len(body_of(applied)["events"]) == 4
    assert [json.loads(body) for body in told.unsettled_events] == [body_of(lost)]


def test_reads_are_whole_requests() -> None:
    buyers = Buyers()
    one, many = buyers.answer("atp", "200", b""), buyers.answer("atp-many", "200", b"")

    assert one.raw.startswith(b"GET /v1/atp?sku=run-")
    assert one.raw.endswith(b"\r\n\r\n")
    assert b"Authorization: Bearer " in one.raw
    assert len(body_of(many)["items"]) == 3


# Stock events over NATS.


def told_by(events: list[Event], opening: int) -> int:
    """On hand by DESIGN 6: the newest count, and what happened after it; each event once."""
    base, as_of, deltas = opening, datetime.min, dict[object, tuple[datetime, int]]()  # noqa: DTZ901
    for event in events:
        at = datetime.fromisoformat(str(event["occurred_at"])).replace(tzinfo=None)
        quantity = int(str(event["quantity"]))
        if event["kind"] == "delta":
            deltas[event["id"]] = at, quantity
        elif at >= as_of:
            base, as_of = quantity, at
    return base + sum(quantity for at, quantity in deltas.values() if at > as_of)


@pytest.mark.parametrize("order", [list, lambda events: events[::-1]], ids=["in order", "backwards"])
def test_counts_and_repeats_in_a_feed_change_nothing(order: Callable[[list[Event]], list[Event]]) -> None:
    goods = assortment("run", 5, 2)
    opening = Counter({Position(goods.locations[0], sku): 100 for sku in goods.tail})
    feeder = Feeder("run", goods, opening, seed=1)
    events = order([event for now_ms in range(200) for event in feeder.message(20, now_ms // 10)])

    assert {event["kind"] for event in events} == {"delta", "snapshot"}
    assert len(events) > len({event["id"] for event in events})
    for place in opening:
        ours = [event for event in events if event["sku"] == place.sku]
        assert told_by(ours, 100) == 100 + feeder.raised[place]
