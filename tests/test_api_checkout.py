"""What checkout may rely on: ATP, holds, replays, refusals. Over the plain rules, without servers."""

from typing import Any

import pytest
from api_world import START_MS, World, text_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> World:
    world = World()
    await world.stock()
    return world


async def test_atp_tells_how_many_where_and_when(world: World) -> None:
    await world.hold(quantity=3)

    answer = await world.call("GET", "/v1/atp?sku=SHOE&quantity=7&channel=web")

    expected_location = {
        "location": "W1",
        "available": 7,
        "on_hand": 10,
        "held": 3,
        "committed": 0,
        "picked": 0,
        "safety_stock": 0,
        "damaged": 0,
        "quality_hold": 0,
        "in_transit": 0,
        "as_of": text_of(START_MS),
        "age_ms": 0,
        "stale": False,
    }
    assert answer.json() == {
        "sku": "SHOE",
        "channel": "web",
        "available": 7,
        "status": "in_stock",
        "quantity": 7,
        "promisable": True,
        "promise_date": "2026-11-23",
        "next_expiry": None,
        "as_of": text_of(START_MS),
        "age_ms": 0,
        "stale": False,
        "locations": [expected_location],
        "schedule": [{"date": "2026-11-23", "available": 7}],
    }


@pytest.mark.parametrize(
    ("held", "committed", "status"),
    [(0, 0, "in_stock"), (4, 0, "in_stock"), (5, 0, "low"), (9, 0, "low"), (10, 0, "held_out"), (0, 10, "sold_out")],
)
async def test_one_word_says_how_it_stands(world: World, held: int, committed: int, status: str) -> None:
    if held:
        await world.hold(quantity=held)
    if committed:
        reservation = await world.hold(quantity=committed)
        await world.call("POST", f"/v1/reservations/{reservation['id']}/commit", {"order_id": "O1"})

    item = (await world.call("GET", "/v1/atp?sku=SHOE")).json()

    assert status == item["status"]
    assert (text_of(START_MS + 600_000) if status == "held_out" else None) == item["next_expiry"]
    assert item["promisable"] == (item["available"] > 0)


async def test_a_sku_never_seen_is_unknown_and_a_named_location_without_it_shows_zeros(world: World) -> None:
    item = (await world.call("GET", "/v1/atp?sku=NEVER&location=W1&location=NOWHERE&location=W1")).json()

    assert (item["status"], item["available"], item["as_of"], item["stale"]) == ("unknown", 0, None, True)
    assert [entry["location"] for entry in item["locations"]] == ["W1", "NOWHERE"]


async def test_an_old_count_is_stale(world: World) -> None:
    world.now_ms += 93_600_000
    world.token = world.token_for("web")
    fresh = (await world.call("GET", "/v1/atp?sku=SHOE")).json()
    world.now_ms += 1
    stale = (await world.call("GET", "/v1/atp?sku=SHOE")).json()

    assert (fresh["stale"], fresh["age_ms"]) == (False, 93_600_000)
    assert (stale["stale"], stale["locations"][0]["age_ms"]) == (True, 93_600_001)


async def test_a_location_that_owes_more_than_it_has_takes_nothing_from_another(world: World) -> None:
    await world.stock("SHOE", "S1", 3)
    await world.hold(quantity=10)
    world.now_ms += 1
    await world.stock("SHOE", "W1", 6)

    item = (await world.call("GET", "/v1/atp?sku=SHOE")).json()

    assert item["available"] == 3
    assert [(at["location"], at["available"], at["on_hand"]) for at in item["locations"]] == [
        ("S1", 3, 3),
        ("W1", 0, 6),
    ]


async def test_many_skus_are_answered_in_order(world: World) -> None:
    await world.stock("BOOT", "S1", 2)
    asked = [{"sku": "NEVER"}, {"sku": "BOOT", "quantity": 3}, {"sku": "SHOE", "location": "S1"}]

    items = (await world.call("POST", "/v1/atp", {"items": asked, "by": "2026-11-24"})).json()["items"]

    told = [(item["sku"], item["available"], item["quantity"], item["promisable"]) for item in items]
    assert told == [("NEVER", 0, 1, False), ("BOOT", 2, 3, False), ("SHOE", 0, 1, False)]


async def test_a_reservation_has_every_field(world: World) -> None:
    answer = await world.call(
        "POST",
        "/v1/reservations",
        {
            "lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}],
            "channel": "web",
            "customer": "C 9",
            "ttl_seconds": 60,
        },
    )

    line = {
        "line": 1,
        "sku": "SHOE",
        "quantity": 2,
        "location": "W1",
        "promise_date": "2026-11-23",
        "requested": 2,
        "held": 2,
        "committed": 0,
        "picked": 0,
        "shipped": 0,
        "released": 0,
        "expired": 0,
        "cancelled": 0,
        "returned": 0,
    }
    reservation = answer.json()
    assert answer.status_code == 201
    assert {
        "id": reservation["id"],
        "status": "held",
        "expires_at": text_of(START_MS + 60_000),
        "order_id": None,
        "channel": "web",
        "customer": "C 9",
        "lines": [line],
        "receipt": {"shard": 0, "epoch": 1, "seq": 3, "durability": "fsync"},
    } == reservation
    assert reservation == (await world.call("GET", f"/v1/reservations/{reservation['id']}")).json()


async def test_replays_have_the_first_status_and_the_reservation_as_it_is_now(world: World) -> None:
    body = {"lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}]}
    first = await world.call("POST", "/v1/reservations", body, key="cart-1")
    path = f"/v1/reservations/{first.json()['id']}"
    commit = await world.call("POST", f"{path}/commit", {"order_id": "O1"}, key="pay-1")
    before = world.everything()

    # The same operation: quotes around its key are optional, and so are fields with their defaults.
    again = await world.call("POST", "/v1/reservations", {**body, "ttl_seconds": 600, "channel": None}, key='"cart-1"')
    commit_again = await world.call("POST", f"{path}/commit", {"order_id": "O1", "reacquire": False}, key="pay-1")

    assert ("Idempotency-Replayed" in first.headers, "Idempotency-Replayed" in commit.headers) == (False, False)
    assert (
        again.status_code,
        again.headers["Idempotency-Replayed"],
        again.json()["status"],
    ) == (201, "true", "committed")
    assert (200, "true", commit.json()) == (
        commit_again.status_code,
        commit_again.headers["Idempotency-Replayed"],
        commit_again.json(),
    )
    assert before == world.everything()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("", {"lines": [{"sku": "SHOE", "quantity": 1, "location": "W1"}]}, "lines"),
        ("", {"lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}], "ttl_seconds": 5}, "ttl_seconds"),
        ("", {"lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}], "customer": "C1"}, "customer"),
        ("", {"lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}], "by": "2026-12-24"}, "by"),
        ("/{id}/release", {}, "call"),
        ("/{id}/commit", {"order_id": "O1"}, "call"),
    ],
)
async def test_a_key_used_for_something_else_names_the_field(
    world: World, path: str, body: dict[str, Any], field: str
) -> None:
    first = {"lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}]}
    made = (await world.call("POST", "/v1/reservations", first, key="cart-1")).json()["id"]
    before = world.everything()

    answer = await world.call("POST", f"/v1/reservations{path.format(id=made)}", body, key="cart-1")

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert [field] == [fault["field"] for fault in answer.json()["errors"]]
    assert before == world.everything()


async def test_keys_belong_to_their_client(world: World) -> None:
    body = {"lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}]}
    mine = await world.call("POST", "/v1/reservations", body, key="cart-1")
    theirs = await world.call("POST", "/v1/reservations", body, key="cart-1", token=world.token_for("app"))

    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["id"] != theirs.json()["id"]


async def test_operations_settle_what_is_unknown(world: World) -> None:
    made = await world.hold()
    await world.call("POST", f"/v1/reservations/{made['id']}/commit", {"order_id": "O1"}, key="a/b%20?#")

    done = await world.call("GET", "/v1/operations/a%2Fb%2520%3F%23")
    other_client = await world.call("GET", "/v1/operations/a%2Fb%2520%3F%23", token=world.token_for("app"))
    never = await world.call("GET", "/v1/operations/never")
    malformed = await world.call("GET", "/v1/operations/a%20b")

    assert (
        done.json()["key"],
        done.json()["operation"],
        done.json()["reservation"]["status"],
    ) == ("a/b%20?#", "commit", "committed")
    assert (never.status_code, never.json()["type"]) == (404, "/problems/unknown-operation")
    assert (other_client.status_code, other_client.json()["type"]) == (404, "/problems/unknown-operation")
    assert (malformed.status_code, malformed.json()["errors"][0]["field"]) == (400, "key")


REFUSALS: list[tuple[str, dict[str, Any], int, str, dict[str, Any]]] = [
    (
        "too many of one, and of two lines together",
        {
            "lines": [
                {"sku": "SHOE", "quantity": 6, "location": "W1"},
                {"sku": "SHOE", "quantity": 6, "location": "W1"},
                {"sku": "BOOT", "quantity": 3, "location": "S1"},
                {"sku": "BOOT", "quantity": 1, "location": "W1"},
            ]
        },
        409,
        "insufficient-stock",
        {
            "lines": [
                {
                    "line": 2,
                    "sku": "SHOE",
                    "location": "W1",
                    "requested": 6,
                    "available": 4,
                    "status": "low",
                },
                {
                    "line": 3,
                    "sku": "BOOT",
                    "location": "S1",
                    "requested": 3,
                    "available": 2,
                    "status": "low",
                },
                {
                    "line": 4,
                    "sku": "BOOT",
                    "location": "W1",
                    "requested": 1,
                    "available": 0,
                    "status": "sold_out",
                },
            ]
        },
    ),
    (
        "a SKU never seen",
        {"lines": [{"sku": "NEVER", "quantity": 1, "location": "W1"}]},
        422,
        "unknown-sku",
        {"line": 1, "sku": "NEVER"},
    ),
    (
        "a location not in the catalog",
        {"lines": [{"sku": "SHOE", "quantity": 1, "location": "NOWHERE"}]},
        422,
        "unknown-location",
        {"line": 1, "location": "NOWHERE"},
    ),
]


@pytest.mark.parametrize(
    ("body", "status", "name", "members"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
async def test_a_refusal_says_why_and_changes_nothing(
    world: World, body: dict[str, Any], status: int, name: str, members: dict[str, Any]
) -> None:
    await world.stock("BOOT", "S1", 2)
    before = world.everything()

    answer = await world.call("POST", "/v1/reservations", body)

    assert (status, f"/problems/{name}") == (answer.status_code, answer.json()["type"])
    assert members == {field: answer.json()[field] for field in members}
    assert before == world.everything()


async def test_another_clients_reservation_is_not_there(world: World) -> None:
    made = await world.hold()
    answers = [
        await world.call("GET", f"/v1/reservations/{made['id']}", token=world.token_for("app")),
        await world.call("GET", f"/v1/reservations/{'a' * 24}"),
        await world.call("GET", "/v1/reservations/x"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()


async def test_an_operations_id_is_no_reservations_id(world: World) -> None:
    from ledger import operation_id

    made = await world.hold()
    await world.call("POST", f"/v1/reservations/{made['id']}/commit", {"order_id": "O"}, key="pay-1")

    answer = await world.call("GET", f"/v1/reservations/{operation_id('web', 'pay-1')}")

    assert answer.status_code == 404


async def test_a_day_in_the_past_is_refused_but_not_for_what_was_done_when_it_was_not(world: World) -> None:
    body = {"lines": [{"sku": "SHOE", "quantity": 2, "location": "W1"}], "by": "2026-11-23"}
    first = await world.call("POST", "/v1/reservations", body, key="cart-1")
    world.now_ms += 86_400_000
    world.token = world.token_for("web")

    again = await world.call("POST", "/v1/reservations", body, key="cart-1")
    fresh = await world.call("POST", "/v1/reservations", body, key="cart-2")
    asked = await world.call("GET", "/v1/atp?sku=SHOE&by=2026-11-23")

    assert (first.status_code, again.status_code, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
    assert (fresh.status_code, fresh.json()["errors"][0]["field"]) == (400, "by")
    assert (asked.status_code, asked.json()["errors"][0]["field"]) == (400, "by")
