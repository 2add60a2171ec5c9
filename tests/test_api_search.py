"""What those who look for reservations may rely on over HTTP. Over the plain rules, without servers."""

from typing import Any

import pytest
from api_world import START_MS, World, text_of

from ledger import JOURNAL_FAILED, Filters, ReservationPage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world() -> World:
    """Stock of two SKUs at two locations."""
    world = World()
    for sku, location in (("SHOE", "W1"), ("SHOE", "S1"), ("BOOT", "W1")):
        await world.stock(sku, location)
    return world


async def search(world: World, query: str = "", **call: Any) -> Any:
    answer = await world.call("GET", f"/v1/reservations{query}", **call)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_page_shows_reservations_as_ever_and_how_old_it_is(world: World) -> None:
    first = await world.hold(customer="C-1")
    second = await world.hold("BOOT", 2)

    page = await search(world)

    assert page == {
        "reservations": [second, first],
        "next": None,
        "journal": {"lag_ms": 240, "as_of": text_of(START_MS - 240)},
    }


async def test_each_filter_reaches_the_search(world: World) -> None:
    shoe = await world.hold(customer="C-1")
    boot = await world.hold("BOOT", customer="C-2")
    store = await world.hold(location="S1")
    committed = await world.call("POST", f"/v1/reservations/{boot['id']}/commit", {"order_id": "O 1"})

    for query, expected in (
        ("order_id=O%201", [boot]),
        ("customer=C-1", [shoe]),
        ("sku=SHOE", [store, shoe]),
        ("location=W1", [boot, shoe]),
        ("status=held", [store, shoe]),
        ("sku=SHOE&location=W1&status=held&customer=C-1", [shoe]),
        ("customer=nobody", []),
    ):
        found = [reservation["id"] for reservation in (await search(world, f"?{query}"))["reservations"]]
        assert found == [reservation["id"] for reservation in expected], query
    assert [committed.json()] == (await search(world, "?status=committed"))["reservations"]


async def test_next_leads_through_all_pages(world: World) -> None:
    made = [await world.hold() for _ in range(5)]
    pages = [await search(world, "?limit=2")]
    while pages[-1]["next"]:
        pages.append(await search(world, f"?limit=2&after={pages[-1]['next']}"))

    assert [len(page["reservations"]) for page in pages] == [2, 2, 1]
    assert made[::-1] == [reservation for page in pages for reservation in page["reservations"]]


async def test_another_clients_are_not_there_and_the_scope_is_asked_for(world: World) -> None:
    await world.hold()

    assert (await search(world, token=world.token_for("app")))["reservations"] == []
    for scope in ("reservations:read", "reservations:write"):
        assert len((await search(world, token=world.token_for("web", scope)))["reservations"]) == 1
    for scope in ("atp:read", "stock:write", ""):
        answer = await world.call("GET", "/v1/reservations", token=world.token_for("web", scope))
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")


async def test_without_the_journals_database_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = JOURNAL_FAILED[0]("no route to db-7")

    async def fail(_client: str, _filters: Filters, *, limit: int, after: str | None) -> ReservationPage:
        raise failure

    monkeypatch.setattr(world.api.edge.reservations, "search", fail)
    answer = await world.call("GET", "/v1/reservations")

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-ready")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "db-7" not in answer.text


async def test_an_age_that_is_not_known_is_null(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_client: str, _filters: Filters, *, limit: int, after: str | None) -> ReservationPage:
        return ReservationPage([], None, None, None)

    monkeypatch.setattr(world.api.edge.reservations, "search", never)

    assert await search(world) == {"reservations": [], "next": None, "journal": {"lag_ms": None, "as_of": None}}
