"""What operators rely on who reconcile what several sources say of a stock. Over the plain rules, without servers."""

from typing import Any

import pytest
from api_world import ALL_SCOPES, START_MS, World, text_of

pytestmark = pytest.mark.anyio

NIGHT = {"id": "N1", "source": "erp", "kind": "snapshot", "sku": "SHOE", "quantity": 14}


@pytest.fixture
async def world() -> World:
    """Ten shoes at each of two locations that believe the WMS, and what the ERP says of one and of a third."""
    world = World()
    for location in ("W1", "S1"):
        await world.stock(location=location)
    for location in ("W1", "S1", "S 2"):
        body = {"type": "warehouse", "authority": "wms"}
        assert (await world.call("PUT", f"/v1/locations/{location.replace(' ', '%20')}", body)).status_code == 200
    events = [
        NIGHT | {"location": "W1", "occurred_at": text_of(START_MS + 1), "sequence": 3},
        NIGHT | {"id": "N2", "location": "S 2", "occurred_at": text_of(START_MS)},
    ]
    answer = await world.call("POST", "/v1/stock-events", {"events": events})
    told = {"outcome": "quarantined", "reason": "not-authoritative"}
    assert answer.json()["results"] == [{"id": "N1", **told}, {"id": "N2", **told}]
    return world


async def views(world: World, query: str, scope: str = "ops:read") -> Any:
    return await world.call("GET", f"/v1/views{query}", token=world.token_for("ops", scope))


async def test_a_view_is_shown_beside_what_is_on_hand(world: World) -> None:
    at_w1 = {"location": "W1", "source": "erp", "event": "N1", "quantity": 14, "as_of": text_of(START_MS + 1)} | {
        "sequence": 3,
        "on_hand": 10,
        "difference": 4,
    }
    at_s2 = {"location": "S 2", "source": "erp", "event": "N2", "quantity": 14, "as_of": text_of(START_MS)} | {
        "sequence": None,
        "on_hand": None,
        "difference": None,
    }
    assert (await views(world, "?sku=SHOE")).json() == {"sku": "SHOE", "views": [at_s2, at_w1]}
    assert (await views(world, "?sku=SHOE&location=W1")).json() == {"sku": "SHOE", "views": [at_w1]}
    assert (await views(world, "?sku=BOOT")).json() == {"sku": "BOOT", "views": []}


async def test_a_view_floods_no_quarantine_and_changes_no_promise(world: World) -> None:
    assert world.quarantine.events == []
    assert await world.available() == 20


async def test_only_operators_see_views(world: World) -> None:
    answer = await views(world, "?sku=SHOE", ALL_SCOPES)
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")


@pytest.mark.parametrize("query", ["", "?sku=", "?sku=A&sku=B", "?sku=A&location=%20", "?sku=A&source=erp"])
async def test_a_bad_question_is_refused(world: World, query: str) -> None:
    assert (await views(world, query)).status_code == 400
