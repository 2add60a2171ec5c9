"""What operators may rely on over HTTP about safety stock and overcommitted positions. Over the plain rules."""

from typing import Any

import pytest
from api_world import START_MS, World, text_of

from ledger import JOURNAL_FAILED, OvercommittedPage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> World:
    """Ten shoes at W1."""
    world = World()
    await world.stock()
    return world


def item(sku: str = "SHOE", location: str = "W1", quantity: Any = 4) -> dict[str, Any]:
    return {"sku": sku, "location": location, "quantity": quantity}


async def put(world: World, *items: dict[str, Any], **call: Any) -> Any:
    return await world.call("PUT", "/v1/safety-stock", {"items": items}, **call)


async def test_safety_stock_is_stored_and_no_longer_available(world: World) -> None:
    answers = [await put(world, item(), item("NEW")) for _ in range(2)]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"items": [item(), item("NEW")]})] * 2
    atp = (await world.call("GET", "/v1/atp?sku=SHOE")).json()
    assert (atp["available"], atp["locations"][0]["safety_stock"]) == (6, 4)
    assert (await world.call("GET", "/v1/atp?sku=NEW")).json()["status"] == "unknown"
    refused = await world.call("POST", "/v1/reservations", {"lines": [{"sku": "NEW", "quantity": 1}]})
    assert refused.json()["type"] == "/problems/unknown-sku"


async def test_above_what_there_is_atp_is_zero(world: World) -> None:
    await put(world, item(quantity=1_000_000_000))
    atp = (await world.call("GET", "/v1/atp?sku=SHOE")).json()
    assert (atp["available"], atp["status"], atp["locations"][0]["available"]) == (0, "sold_out", 0)


async def test_an_unknown_location_is_named_and_nothing_is_done(world: World) -> None:
    before = world.everything()
    answer = await put(world, item(), item(location="NOWHERE"))

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-location")
    assert (answer.json()["line"], answer.json()["location"]) == (2, "NOWHERE")
    assert world.everything() == before


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "items"),
        ([item()] * 501, "items"),
        ([item(), item()], "items[1]"),
        ([item(quantity=-1)], "items[0].quantity"),
        ([item(quantity=1_000_000_001)], "items[0].quantity"),
        ([item(quantity=1.0)], "items[0].quantity"),
        ([item(sku=" ")], "items[0].sku"),
        ([{**item(), "more": 1}], "items[0].more"),
    ],
)
async def test_a_form_that_is_wrong_is_refused(world: World, items: list[Any], field: str) -> None:
    answer = await put(world, *items)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)


async def test_only_the_catalogs_scope_may_put(world: World) -> None:
    assert (await put(world, item(), token=world.token_for("web", "stock:write"))).status_code == 403
    assert (await put(world, item(), token=world.token_for("web", "catalog:write"))).status_code == 200


# --- overcommitted ----------------------------------------------------------------------------------------------


async def listed(world: World, query: str = "") -> Any:
    answer = await world.call("GET", f"/v1/overcommitted{query}", token=world.token_for("ops", "ops:read"))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def short_of(world: World, sku: str, location: str = "W1") -> Any:
    """A reservation of ten, and a count that finds eight."""
    await world.stock(sku, location)
    held = await world.hold(sku, 10, location=location)
    world.now_ms += 1
    await world.stock(sku, location, 8)
    return held


async def test_the_list_shows_whose_claims_are_short_until_they_are_not(world: World) -> None:
    held = await short_of(world, "SHOE")

    claim = {
        "id": held["id"],
        "client": "web",
        "order_id": None,
        "status": "held",
        "line": 1,
        "held": 10,
        "committed": 0,
        "picked": 0,
        "created_at": text_of(START_MS),
    }
    position = {"sku": "SHOE", "location": "W1", "overcommitted": 2, "since": text_of(START_MS + 1)}
    assert await listed(world) == {
        "positions": [{**position, "reservations": [claim], "reservations_total": 1}],
        "next": None,
        "journal": {"lag_ms": 240, "as_of": text_of(START_MS + 1 - 240)},
    }
    await world.call("POST", f"/v1/reservations/{held['id']}/release", {"lines": [{"line": 1, "quantity": 2}]})
    assert (await listed(world))["positions"] == []


async def test_filters_and_pages(world: World) -> None:
    await short_of(world, "SHOE")
    await short_of(world, "BOOT")
    await short_of(world, "BOOT", "S1")

    for query, expected in (
        ("?sku=BOOT", [("BOOT", "S1"), ("BOOT", "W1")]),
        ("?location=W1", [("BOOT", "W1"), ("SHOE", "W1")]),
        ("?sku=SHOE&location=S1", []),
    ):
        found = (await listed(world, query))["positions"]
        assert [(position["sku"], position["location"]) for position in found] == expected
    first = await listed(world, "?limit=2")
    rest = await listed(world, f"?limit=2&after={first['next']}")
    assert [position["sku"] for position in first["positions"] + rest["positions"]] == ["BOOT", "BOOT", "SHOE"]
    assert rest["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=51", "after=a", "sku=", "more=1"])
async def test_a_query_that_is_wrong_is_refused(world: World, query: str) -> None:
    token = world.token_for("ops", "ops:read")
    assert (await world.call("GET", f"/v1/overcommitted?{query}", token=token)).status_code == 400


async def test_it_is_for_operators(world: World) -> None:
    """P10: it shows every client's reservations."""
    everything_else = "atp:read reservations:read reservations:write stock:write catalog:write ops:write"
    answer = await world.call("GET", "/v1/overcommitted", token=world.token_for("web", everything_else))
    assert answer.status_code == 403


async def test_without_the_journals_database_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(**_filters: Any) -> OvercommittedPage:
        raise JOURNAL_FAILED[0]("no route to db-7")

    monkeypatch.setattr(world.api.edge.reservations, "overcommitted", fail)
    answer = await world.call("GET", "/v1/overcommitted", token=world.token_for("ops", "ops:read"))

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-ready")
    assert "db-7" not in answer.text
