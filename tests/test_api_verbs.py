"""What can be done to a reservation, from its hold to its return. Over the plain rules, without servers."""

from typing import Any

import httpx
import pytest
from api_world import START_MS, World, text_of

pytestmark = pytest.mark.anyio

STATES = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")
NOW_MS = START_MS + 1
"""A moment after the counts, which so contain nothing of what follows."""
BUCKETS = ("available", "on_hand", "held", "committed", "picked", "damaged", "quality_hold")


@pytest.fixture
async def world() -> World:
    world = World()
    await world.stock()
    await world.stock("SHOE", "S1", 4)
    world.now_ms = NOW_MS
    return world


class Reservation:
    """A reservation of ten SHOE in W1 on line 1 and two in S1 on line 2, and the verbs on it."""

    def __init__(self, world: World, identity: str) -> None:
        self._world, self.path = world, f"/v1/reservations/{identity}"

    async def tried(self, verb: str, body: object = None, **more: Any) -> httpx.Response:
        """Do it, or be refused."""
        return await self._world.call("POST", f"{self.path}/{verb}", {} if body is None else body, **more)

    async def done(self, verb: str, body: object = None) -> Any:
        """The reservation after the verb."""
        answer = await self.tried(verb, body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == (await self._world.call("GET", self.path)).json()
        return answer.json()


async def held(world: World) -> Reservation:
    lines = [{"sku": "SHOE", "quantity": 10, "location": "W1"}, {"sku": "SHOE", "quantity": 2, "location": "S1"}]
    answer = await world.call("POST", "/v1/reservations", {"lines": lines})
    return Reservation(world, answer.json()["id"])


async def committed(world: World) -> Reservation:
    reservation = await held(world)
    await reservation.done("commit", {"order_id": "ORDER-1"})
    return reservation


async def shipped(world: World) -> Reservation:
    reservation = await committed(world)
    await reservation.done("ship")
    return reservation


def units(reservation: Any) -> list[dict[str, int]]:
    """The states of each line that have units; they add up to what was granted."""
    counted = [{state: line[state] for state in STATES if line[state]} for line in reservation["lines"]]
    assert [sum(states.values()) for states in counted] == [line["quantity"] for line in reservation["lines"]]
    return counted


async def position(world: World, location: str = "W1") -> dict[str, int]:
    """The buckets of SHOE there that have units."""
    (entry,) = (await world.call("GET", f"/v1/atp?sku=SHOE&location={location}")).json()["locations"]
    return {bucket: entry[bucket] for bucket in BUCKETS if entry[bucket]}


def part(quantity: int, line: int = 1) -> dict[str, Any]:
    return {"lines": [{"line": line, "quantity": quantity}]}


async def test_buy_online_and_pick_up_in_a_store(world: World) -> None:
    reservation = await held(world)

    extended = await reservation.done("extend", {"ttl_seconds": 900})
    released = await reservation.done("release", part(1))
    ordered = await reservation.done("commit", {"order_id": "ORDER-1"})
    picked = await reservation.done("pick")
    world.now_ms += 1_000
    collected = await reservation.done("ship", {"occurred_at": text_of(world.now_ms)})
    brought_back = await reservation.done("return", part(2))

    assert text_of(NOW_MS + 900_000) == extended["expires_at"]
    assert units(released) == [{"held": 9, "released": 1}, {"held": 2}]
    assert (ordered["status"], ordered["order_id"], units(ordered)[0]) == (
        "committed",
        "ORDER-1",
        {"committed": 9, "released": 1},
    )
    assert (picked["status"], units(picked)[1]) == ("committed", {"picked": 2})
    assert (collected["status"], units(collected)[0]) == ("shipped", {"shipped": 9, "released": 1})
    assert (brought_back["status"], units(brought_back)[0]) == ("shipped", {"shipped": 7, "returned": 2, "released": 1})
    assert await position(world) == {"available": 3, "on_hand": 3}


@pytest.mark.parametrize("verb", ["release", "pick", "ship", "cancel", "return"])
@pytest.mark.parametrize("raw", [b"", b"{}", b'{"lines":null}'])
async def test_without_lines_a_verb_takes_all(world: World, verb: str, raw: bytes) -> None:
    make = {"release": held, "return": shipped}.get(verb, committed)
    state = {"release": "released", "pick": "picked", "ship": "shipped", "cancel": "cancelled", "return": "returned"}

    answer = await (await make(world)).tried(verb, raw=raw) if raw else await (await make(world)).tried(verb)

    assert (answer.status_code, units(answer.json())) == (200, [{state[verb]: 10}, {state[verb]: 2}])


async def test_an_order_can_take_a_part_and_leave_the_rest_held(world: World) -> None:
    reservation = await held(world)

    first = await reservation.done("commit", {"order_id": "ORDER-1", **part(4)})
    both = await reservation.done("release", part(1))
    second = await reservation.done("commit", {"order_id": "ORDER-1"})

    assert (first["status"], units(first)) == ("held", [{"held": 6, "committed": 4}, {"held": 2}])
    assert units(both)[0] == {"held": 5, "committed": 4, "released": 1}
    assert (second["status"], units(second)) == ("committed", [{"committed": 9, "released": 1}, {"committed": 2}])


async def test_an_expired_hold_is_claimed_again_in_part_if_its_units_are_still_there(world: World) -> None:
    reservation = await held(world)
    world.now_ms += 600_000
    await world.hold(quantity=5)

    short = await reservation.tried("commit", {"order_id": "O", "reacquire": True})
    claimed = await reservation.done("commit", {"order_id": "O", "reacquire": True, **part(5)})

    assert (short.status_code, short.json()["type"]) == (409, "/problems/insufficient-stock")
    assert short.json()["lines"] == [
        {"line": 1, "sku": "SHOE", "location": "W1", "requested": 10, "available": 5, "status": "low"}
    ]
    assert units(claimed) == [{"committed": 5, "expired": 5}, {"expired": 2}]


async def test_what_was_picked_ships_before_what_was_not(world: World) -> None:
    reservation = await committed(world)
    await reservation.done("pick", part(3))

    one = await reservation.done("ship", part(2))
    two = await reservation.done("ship", part(4))

    assert units(one)[0] == {"committed": 7, "picked": 1, "shipped": 2}
    assert units(two)[0] == {"committed": 4, "shipped": 6}
    assert await position(world) == {"on_hand": 4, "committed": 4}


async def test_what_is_cancelled_can_be_sold_again_and_what_was_picked_goes_back_to_the_shelf(world: World) -> None:
    reservation = await committed(world)
    await reservation.done("pick", part(3))

    some = await reservation.done("cancel", part(8))
    before_all = await position(world)
    rest = await reservation.done("cancel")

    assert units(some)[0] == {"picked": 2, "cancelled": 8}
    assert before_all == {"available": 8, "on_hand": 10, "picked": 2}
    assert (rest["status"], units(rest)) == ("cancelled", [{"cancelled": 10}, {"cancelled": 2}])
    assert await position(world) == {"available": 10, "on_hand": 10}


@pytest.mark.parametrize(
    ("body", "there"),
    [
        ({}, {"available": 3, "on_hand": 3}),
        ({"disposition": "sellable"}, {"available": 3, "on_hand": 3}),
        ({"disposition": "damaged"}, {"damaged": 3}),
        ({"disposition": "quality_hold"}, {"quality_hold": 3}),
        ({"disposition": "discard"}, {}),
    ],
)
async def test_a_return_goes_where_its_disposition_says(
    world: World, body: dict[str, Any], there: dict[str, int]
) -> None:
    reservation = await shipped(world)

    answer = await reservation.done("return", {**part(3), **body})

    assert units(answer)[0] == {"shipped": 7, "returned": 3}
    assert there == await position(world)


async def test_a_shipment_and_a_return_count_from_when_they_happened(world: World) -> None:
    reservation = await committed(world)
    early, late = text_of(START_MS), text_of(NOW_MS + 1_000)
    world.now_ms += 2_000

    # The count already contains what happened up to it.
    await reservation.done("ship", {**part(4), "occurred_at": early})
    after_early = await position(world)
    await reservation.done("ship", {**part(6), "occurred_at": late})
    await reservation.done("return", {**part(1), "occurred_at": early})

    assert after_early["on_hand"] == 10
    assert await position(world) == {"available": 4, "on_hand": 4}


@pytest.mark.parametrize(
    ("verb", "occurred_at_ms"), [("pick", START_MS - 1), ("cancel", START_MS - 1), ("ship", NOW_MS)]
)
async def test_what_a_return_may_say_is_taken_by_its_neighbours_and_changes_nothing_there(
    world: World, verb: str, occurred_at_ms: int
) -> None:
    reservation = await committed(world)
    body = {**part(3), "disposition": "damaged", "occurred_at": text_of(occurred_at_ms)}

    with_all = units(await reservation.done(verb, body))
    there = await position(world)
    plain = units(await reservation.done(verb, part(3)))

    state = {"pick": "picked", "cancel": "cancelled", "ship": "shipped"}[verb]
    assert (with_all[0], plain[0]) == ({"committed": 7, state: 3}, {"committed": 4, state: 6})
    expected = {
        "pick": {"on_hand": 10, "committed": 7, "picked": 3},
        "cancel": {"available": 3, "on_hand": 10, "committed": 7},
        "ship": {"on_hand": 7, "committed": 7},
    }
    assert expected[verb] == there


async def test_a_claim_moves_to_another_location_whole(world: World) -> None:
    reservation = await held(world)
    await reservation.done("release", part(7))
    await reservation.done("commit", {"order_id": "O", **part(1)})

    short = await reservation.tried("move", {"line": 1, "location": "S1"})
    await reservation.done("release", part(1, line=2))
    await reservation.done("release", part(1))
    moved = await reservation.done("move", {"line": 1, "location": "S1"})

    assert (short.status_code, short.json()["lines"]) == (
        409,
        [{"line": 1, "sku": "SHOE", "location": "S1", "requested": 3, "available": 2, "status": "low"}],
    )
    assert [line["location"] for line in moved["lines"]] == ["S1", "S1"]
    assert units(moved)[0] == {"held": 1, "committed": 1, "released": 8}
    assert await position(world) == {"available": 10, "on_hand": 10}
    assert await position(world, "S1") == {"available": 1, "on_hand": 4, "held": 2, "committed": 1}


# --- replays -----------------------------------------------------------------------------------------------------

VERBS: list[tuple[str, dict[str, Any]]] = [
    ("extend", {"ttl_seconds": 900}),
    ("commit", {"order_id": "O", **part(3)}),
    ("release", part(1)),
    ("pick", part(1)),
    ("ship", {**part(1), "occurred_at": text_of(NOW_MS)}),
    ("cancel", part(1)),
    ("return", {**part(1), "disposition": "damaged"}),
    ("move", {"line": 2, "location": "W1"}),
]


async def with_units_in_every_state(world: World) -> Reservation:
    """Line 1 has held, committed, picked and shipped units, line 2 only held ones; W1 has room for these."""
    await world.stock("SHOE", "W1", 20)
    reservation = await held(world)
    await reservation.done("commit", {"order_id": "O", **part(6)})
    await reservation.done("pick", part(4))
    await reservation.done("ship", part(2))
    return reservation


@pytest.mark.parametrize(("verb", "body"), VERBS)
async def test_a_key_does_its_operation_once(world: World, verb: str, body: dict[str, Any]) -> None:
    reservation = await with_units_in_every_state(world)

    first = await reservation.tried(verb, body, key="K")
    before = world.everything()
    again = await reservation.tried(verb, body, key='"K"')
    settled = (await world.call("GET", "/v1/operations/K")).json()

    assert (first.status_code, "Idempotency-Replayed" in first.headers) == (200, False)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert first.json() == again.json() == settled["reservation"]
    assert settled["operation"] == verb
    assert before == world.everything()


@pytest.mark.parametrize(
    ("verb", "body", "changed", "field"),
    [
        ("extend", {"ttl_seconds": 900}, {"ttl_seconds": 901}, "ttl_seconds"),
        ("commit", {"order_id": "O"}, {"order_id": "P"}, "order_id"),
        ("commit", {"order_id": "O"}, {"order_id": "O", **part(1)}, "lines"),
        ("commit", {"order_id": "O"}, {"order_id": "O", "reacquire": True}, "reacquire"),
        ("release", part(1), part(2), "lines"),
        ("pick", part(1), {}, "lines"),
        ("pick", part(1), {**part(1), "disposition": "discard"}, "disposition"),
        ("ship", part(1), {**part(1), "occurred_at": text_of(NOW_MS)}, "occurred_at"),
        ("cancel", part(1), part(1, line=2), "lines"),
        ("return", part(1), {**part(1), "disposition": "damaged"}, "disposition"),
        ("move", {"line": 2, "location": "W1"}, {"line": 2, "location": "S1"}, "location"),
        ("move", {"line": 2, "location": "W1"}, {"line": 1, "location": "W1"}, "line"),
    ],
)
async def test_a_key_with_another_body_names_the_field(
    world: World, verb: str, body: dict[str, Any], changed: dict[str, Any], field: str
) -> None:
    reservation = await with_units_in_every_state(world)
    assert (await reservation.tried(verb, body, key="K")).status_code == 200
    before = world.everything()

    answer = await reservation.tried(verb, changed, key="K")

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert [field] == [fault["field"] for fault in answer.json()["errors"]]
    assert before == world.everything()


@pytest.mark.parametrize(("first", "body"), VERBS)
async def test_a_key_of_one_call_is_taken_by_no_other(world: World, first: str, body: dict[str, Any]) -> None:
    reservation = await with_units_in_every_state(world)
    other = await world.hold(location="S1")
    assert (await reservation.tried(first, body, key="K")).status_code == 200
    before = world.everything()

    answers = [await reservation.tried(verb, given, key="K") for verb, given in VERBS if verb != first]
    answers.append(await world.call("POST", f"/v1/reservations/{other['id']}/{first}", body, key="K"))
    lines = [{"sku": "SHOE", "quantity": 1, "location": "W1"}]
    answers.append(await world.call("POST", "/v1/reservations", {"lines": lines}, key="K"))

    told = {(answer.status_code, answer.json()["type"], answer.json()["errors"][0]["field"]) for answer in answers}
    assert told == {(422, "/problems/idempotency-key-reused", "call")}
    assert before == world.everything()


# --- refusals ----------------------------------------------------------------------------------------------------

HELD = {"reservation_status": "held", "allowed": ["commit", "extend", "release", "move"]}
COMMITTED = {"reservation_status": "committed", "allowed": ["pick", "ship", "cancel", "move"]}
SHIPPED = {"reservation_status": "shipped", "allowed": ["return"]}
EXPIRED = {"reservation_status": "expired", "allowed": []}
ORDER = {"order_id": "O"}
NOBODYS = "a" * 24

REFUSALS: list[tuple[str, str, dict[str, Any], int, str, dict[str, Any]]] = [
    ("expired", "commit", ORDER, 409, "reservation-expired", {"expired_at": text_of(NOW_MS + 1_000)}),
    ("expired", "extend", {"ttl_seconds": 9}, 409, "reservation-expired", {}),
    ("expired", "release", {}, 409, "reservation-expired", {}),
    ("expired", "pick", {}, 409, "wrong-state", EXPIRED),
    ("expired", "move", {"line": 1, "location": "S1"}, 409, "wrong-state", EXPIRED),
    ("held", "pick", {}, 409, "wrong-state", HELD),
    ("held", "ship", {}, 409, "wrong-state", HELD),
    ("held", "cancel", {}, 409, "wrong-state", HELD),
    ("held", "return", {}, 409, "wrong-state", HELD),
    ("committed", "commit", ORDER, 409, "wrong-state", COMMITTED),
    ("committed", "extend", {"ttl_seconds": 9}, 409, "wrong-state", COMMITTED),
    ("committed", "release", {}, 409, "wrong-state", COMMITTED),
    ("committed", "return", {}, 409, "wrong-state", COMMITTED),
    ("picked", "pick", {}, 409, "wrong-state", {"reservation_status": "committed", "allowed": ["ship", "cancel"]}),
    ("picked", "move", {"line": 1, "location": "S1"}, 409, "wrong-state", {}),
    ("shipped", "commit", ORDER, 409, "wrong-state", SHIPPED),
    ("shipped", "pick", {}, 409, "wrong-state", SHIPPED),
    ("shipped", "ship", {}, 409, "wrong-state", SHIPPED),
    ("shipped", "cancel", {}, 409, "wrong-state", SHIPPED),
    ("shipped", "move", {"line": 1, "location": "S1"}, 409, "wrong-state", SHIPPED),
    ("returned", "return", {}, 409, "wrong-state", {"reservation_status": "returned", "allowed": []}),
    ("held", "commit", {**ORDER, **part(3)}, 409, "wrong-state", HELD),
    *(("held", "release", lines, 409, "wrong-state", HELD) for lines in (part(3), part(1, line=2))),
    *(
        (state, verb, lines, 409, "wrong-state", {})
        for state, verb in (
            ("committed", "pick"),
            ("committed", "ship"),
            ("committed", "cancel"),
            ("shipped", "return"),
        )
        for lines in (part(3), part(1, line=2))
    ),
    ("held", "move", {"line": 2, "location": "S1"}, 409, "wrong-state", HELD),
    ("held", "move", {"line": 1, "location": "NOWHERE"}, 422, "unknown-location", {"line": 1, "location": "NOWHERE"}),
    (
        "held",
        "move",
        {"line": 1, "location": "S1"},
        409,
        "insufficient-stock",
        {"lines": [{"line": 1, "sku": "SOCK", "location": "S1", "requested": 2, "available": 0, "status": "sold_out"}]},
    ),
    *(
        (whose, verb, body, 404, "not-found", {})
        for whose in ("theirs", NOBODYS, "%00", "A" * 24)
        for verb, body in VERBS
    ),
]


@pytest.mark.parametrize(
    ("whose", "verb", "body", "status", "name", "members"), REFUSALS, ids=[" ".join(row[:2]) for row in REFUSALS]
)
async def test_a_refusal_says_why_and_changes_nothing(
    world: World, whose: str, verb: str, body: dict[str, Any], status: int, name: str, members: dict[str, Any]
) -> None:
    await world.stock("SOCK", "W1", 20)
    ways = {"committed": [], "picked": ["pick"], "shipped": ["ship"], "returned": ["ship", "return"]}
    lines = [{"sku": "SOCK", "quantity": 2, "location": "W1"}]
    theirs = await world.call("POST", "/v1/reservations", {"lines": lines}, token=world.token_for("app"))
    names = {
        "expired": (await world.hold("SOCK", 2, ttl_seconds=1))["id"],
        "held": (await world.hold("SOCK", 2))["id"],
        "theirs": theirs.json()["id"],
    }
    for state, verbs in ways.items():
        reservation = Reservation(world, (await world.hold("SOCK", 2))["id"])
        names[state] = reservation.path.rpartition("/")[2]
        for each in ["commit", *verbs]:
            await reservation.done(each, ORDER if each == "commit" else None)
    world.now_ms += 1_000
    await world.available("SOCK")  # what is overdue ends in the next decision, which shall not be the refusal
    before = world.everything()

    answer = await Reservation(world, names.get(whose, whose)).tried(verb, body)

    assert (status, f"/problems/{name}") == (answer.status_code, answer.json()["type"])
    assert members == {field: answer.json()[field] for field in members}
    assert before == world.everything()


async def test_a_reservation_takes_so_many_operations_and_no_more(world: World) -> None:
    reservation = await held(world)
    for _ in range(200):
        await reservation.done("extend", {"ttl_seconds": 900})
    before = world.everything()

    answer = await reservation.tried("extend", {"ttl_seconds": 900})

    told = [answer.json()[member] for member in ("status", "type", "limit", "current", "retry")]
    assert told == [409, "/problems/operations-limit", 200, 200, "never"]
    assert before == world.everything()
    assert (await reservation.tried("release")).status_code == 200, "what takes all that it can is never refused"
