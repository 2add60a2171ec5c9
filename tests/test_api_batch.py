"""Many holds in one call are answered as single calls would be. Over the plain rules, without servers."""

import asyncio
from typing import Any

import msgspec
import pytest
from api_world import START_MS, World

from ledger import Hold, HoldOutcome, Overloaded, Unavailable, Unknown

pytestmark = pytest.mark.anyio

BATCH = "/v1/reservations/batch"
MANY = 256


@pytest.fixture
async def world() -> World:
    world = World()
    await world.stock()
    return world


def lines(quantity: int = 1, sku: str = "SHOE", location: str = "W1") -> dict[str, Any]:
    return {"lines": [{"sku": sku, "quantity": quantity, "location": location}]}


async def results(world: World, *items: object, **more: Any) -> list[Any]:
    """The results of a batch."""
    answer = await world.call("POST", BATCH, {"reservations": items}, **more)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["results"]
    assert len(found) == len(items)
    return found


ITEMS: list[dict[str, Any]] = [
    {"key": "K1", **lines(4), "channel": "web", "customer": "C 9", "ttl_seconds": 60},
    {"key": "K2", **lines(9)},
    {"key": "K3", **lines(1, "NEVER")},
    {"key": "K4", **lines(1, location="NOWHERE")},
    {"key": "K5", **lines(0)},
    {"key": "K6", **lines(9), "mode": "available"},
    {"key": "K1", **lines(4), "channel": "web", "customer": "C 9", "ttl_seconds": 60},
    {"key": "K1", **lines(5), "channel": "web", "customer": "C 9", "ttl_seconds": 60},
    {"key": "K7", **lines(1), "by": "2026-11-22"},
    {"key": "K2", **lines(2)},
    {"key": "K8", **lines(1), "unknown": 1},
]


async def test_each_is_answered_as_if_it_had_come_alone(world: World) -> None:
    alone = World()
    await alone.stock()
    expected = []
    for item in ITEMS:
        body = {name: value for name, value in item.items() if name != "key"}
        answer = await alone.call("POST", "/v1/reservations", body, key=item["key"])
        replayed = {"replayed": True} if "Idempotency-Replayed" in answer.headers else {}
        expected.append({"status": answer.status_code, "body": answer.json(), **replayed})

    found = await results(world, *ITEMS)

    assert expected == found
    assert [result["status"] for result in found] == [201, 409, 422, 422, 400, 201, 201, 422, 400, 409, 400]
    assert [index for index, result in enumerate(found) if "replayed" in result] == [6]
    assert world.everything() == alone.everything()


async def test_single_calls_and_batches_know_each_others_keys(world: World) -> None:
    single = await world.call("POST", "/v1/reservations", lines(2), key='"cart-1"')
    found = await results(world, {"key": "cart-1", **lines(2)}, {"key": "cart-2", **lines(3)})
    again = await world.call("POST", "/v1/reservations", lines(3), key="cart-2")
    settled = await world.call("GET", "/v1/operations/cart-2")
    path = f"/v1/reservations/{single.json()['id']}"
    commit = await world.call("POST", f"{path}/commit", {"order_id": "O"}, key="cart-2")

    assert found[0] == {"status": 201, "body": single.json(), "replayed": True}
    assert (again.headers["Idempotency-Replayed"], again.json()) == ("true", found[1]["body"])
    assert settled.json()["reservation"] == found[1]["body"]
    assert (commit.status_code, commit.json()["errors"][0]["field"]) == (422, "call")


async def test_a_batch_sent_again_changes_nothing(world: World) -> None:
    items = [{"key": f"K{number}", **lines()} for number in range(5)]
    first = await results(world, *items)
    before = world.everything()

    again = await results(world, *items)

    assert again == [{**result, "replayed": True} for result in first]
    assert before == world.everything()


async def test_keys_belong_to_their_client_and_no_header_is_asked_for(world: World) -> None:
    (mine,) = await results(world, {"key": "K", **lines()}, headers={"Idempotency-Key": ""})
    (theirs,) = await results(world, {"key": "K", **lines()}, token=world.token_for("app"))
    (ours,) = await results(world, {"key": "L", **lines()}, headers={"Idempotency-Key": "K"})

    assert (mine["status"], theirs["status"], ours["status"]) == (201, 201, 201)
    assert len({result["body"]["id"] for result in (mine, theirs, ours)}) == 3


async def test_all_go_to_the_ledger_in_one_turn_of_the_event_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, seen, at_end_of_turn = world.ledger.hold, 0, []

    async def counted(operation: Hold) -> HoldOutcome:
        nonlocal seen
        if not seen:  # the ledger sends at the end of the turn in which the first operation comes
            asyncio.get_running_loop().call_soon(lambda: at_end_of_turn.append(seen))
        seen += 1
        await asyncio.sleep(0)
        outcome: HoldOutcome = await hold(operation)
        return outcome

    monkeypatch.setattr(world.ledger, "hold", counted)

    found = await results(world, *({"key": f"K{number}", **lines()} for number in range(MANY)))

    assert at_end_of_turn == [MANY]
    assert [result["status"] for result in found] == [201] * 10 + [409] * (MANY - 10)


async def test_items_of_one_key_are_judged_in_their_order_however_slow_the_ledger_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = world.ledger.hold

    async def slow_at_first(operation: Hold) -> HoldOutcome:
        for _ in range(10 if operation.lines[0].quantity == 1 else 0):
            await asyncio.sleep(0)
        outcome: HoldOutcome = await hold(operation)
        return outcome

    monkeypatch.setattr(world.ledger, "hold", slow_at_first)

    found = await results(world, {"key": "K", **lines(1)}, {"key": "K", **lines(2)}, {"key": "L", **lines(2)})

    assert [result["status"] for result in found] == [201, 422, 201]


async def test_what_the_ledger_fails_at_is_told_item_by_item(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = world.ledger.hold
    failures = {
        "2": Overloaded("the queue is full"),
        "3": Unavailable("there is no ledger"),
        "4": Unknown("the reply was lost"),
        "5": ValueError("secret"),
    }

    async def failing(operation: Hold) -> HoldOutcome:
        if operation.customer in failures:
            raise failures[operation.customer]
        outcome: HoldOutcome = await hold(operation)
        return outcome

    monkeypatch.setattr(world.ledger, "hold", failing)

    found = await results(world, *({"key": f"K{who}", **lines(), "customer": who} for who in "123456"))

    assert [result["status"] for result in found] == [201, 503, 503, 504, 500, 201]
    assert [result["body"].get("retry") for result in found] == [None, "later", "later", "ask", "ask", None]
    assert all("/v1/operations/" in result["body"]["detail"] for result in found[3:5])
    assert "secret" not in str(found)


async def test_nothing_is_held_while_the_ledger_is_behind_its_journal(world: World) -> None:
    world.refuse_changes("the ledger is behind its journal")
    before = world.everything()

    found = await results(world, {"key": "K", **lines()}, {"key": "L", **lines(0)})

    assert [(result["status"], result["body"]["type"]) for result in found] == [
        (503, "/problems/not-ready"),
        (400, "/problems/invalid-request"),
    ]
    assert before == world.everything()


@pytest.mark.parametrize(
    ("raw", "status", "name"),
    [
        (b'{"key":"K","lines":[{"sku":"\xff","quantity":1}]}', 400, "invalid-request"),
        (b'{"key":"K","lines":' + b"[" * 900 + b"]" * 900 + b"}", 400, "invalid-request"),
        (b'{"key":"K"' + b" " * 65_536 + b"}", 413, "too-large"),
    ],
)
async def test_bytes_that_are_no_hold_stop_no_other_either(world: World, raw: bytes, status: int, name: str) -> None:
    good = msgspec.json.encode({"key": "L", **lines()})

    answer = await world.call("POST", BATCH, raw=b'{"reservations":[' + raw + b"," + good + b"]}")

    told = [(result["status"], result["body"].get("type")) for result in answer.json()["results"]]
    assert told == [(status, f"/problems/{name}"), (201, None)]


@pytest.mark.parametrize("raw", [b"{", b"", b"nul", b'{"key":"\\ud800"}', b"[" * 100_000])
async def test_what_is_no_json_is_refused_as_a_whole(world: World, raw: bytes) -> None:
    before = world.everything()
    good = msgspec.json.encode({"key": "L", **lines()})

    answer = await world.call("POST", BATCH, raw=b'{"reservations":[' + good + b"," + raw + b"]}")

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")
    assert before == world.everything()


@pytest.mark.parametrize("key", ["k", "k" * 255, '"', '"k"', "{}", "~!"])
async def test_every_other_key_is_taken_as_it_is(world: World, key: str) -> None:
    (result,) = await results(world, {"key": key, **lines()})
    (again,) = await results(world, {"key": key, **lines()})

    assert (result["status"], again["replayed"]) == (201, True)


async def test_figures_have_one_word_for_a_batch(world: World) -> None:
    await results(world, {"key": "K", **lines()}, {"key": "L", **lines()})
    await results(world, {"key": "M", **lines()}, {"key": "N", **lines(0)})

    page = world.api.telemetry.page().decode()

    for outcome in ("held", "mixed"):
        assert f'availability_requests_total{{outcome="{outcome}",route="POST {BATCH}"}} 1.0' in page


async def test_the_most_that_is_taken_fits_and_comes_back_in_order(world: World) -> None:
    await world.stock("N" * 64, "L" * 64, 1_000_000_000)
    items = [
        {"key": f"{number:03}".ljust(255, "k"), **lines(number + 1, "N" * 64, "L" * 64), "customer": "C" * 128}
        for number in range(MANY)
    ]

    found = await results(world, *items)

    assert [result["body"]["lines"][0]["quantity"] for result in found] == list(range(1, MANY + 1))
    assert {result["body"]["expires_at"] for result in found} == {found[0]["body"]["expires_at"]}
    assert world.now_ms == START_MS
