"""What clients see when there is more to do than can be done: a refusal at once, and all the others as ever."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_world import World
from waiting import wait_until

from availability.api.gate import LANES, lane_name
from availability.api.lanes import BURST_LEAST
from availability.api.service import ENDPOINTS
from ledger import Hold, HoldOutcome

pytestmark = pytest.mark.anyio

HOLD = {"lines": [{"sku": "SHOE", "quantity": 1, "location": "W1"}]}


class Stuck:
    """A world whose ledger answers no hold until it is let go."""

    def __init__(self) -> None:
        self.world = World()
        self.go_on = asyncio.Event()
        self.holds = 0
        self._hold = self.world.ledger.hold
        self.world.ledger.hold = self.hold  # type: ignore[method-assign, assignment]
        self.tasks: list[asyncio.Task[Any]] = []

    async def hold(self, operation: Hold) -> HoldOutcome:
        self.holds += 1
        await self.go_on.wait()
        outcome: HoldOutcome = await self._hold(operation)
        return outcome

    async def fill(self) -> None:
        """As many holds as are let in, all under way."""
        self.tasks = [
            asyncio.create_task(self.world.call("POST", "/v1/reservations", HOLD)) for _ in range(BURST_LEAST)
        ]
        await wait_until(self.is_full)

    async def is_full(self) -> bool:
        return self.holds == BURST_LEAST

    async def has_room(self) -> bool:
        return self.world.api.gate.lanes["holds"].under_way < BURST_LEAST


@pytest.fixture
async def stuck() -> AsyncIterator[Stuck]:
    stuck = Stuck()
    await stuck.world.stock(quantity=1_000)
    stuck.go_on.set()
    held = (await stuck.world.hold())["id"]
    stuck.world.held = held
    stuck.go_on.clear()
    stuck.holds = 0
    await stuck.fill()
    yield stuck
    stuck.go_on.set()
    await asyncio.gather(*stuck.tasks)


async def test_one_too_many_is_refused_at_once_without_being_done(stuck: Stuck) -> None:
    """P4: 503 means that it was not done; its body was not even read."""
    world = stuck.world
    before = world.everything()
    answer = await world.call("POST", "/v1/reservations", HOLD, key="late")

    async def unread() -> object:
        raise AssertionError("the body was read")

    assert await world.asgi("POST", "/v1/reservations", unread) == 503
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (answer.json()["type"], answer.json()["retry"]) == ("/problems/overloaded", "later")
    assert world.everything() == before
    assert stuck.holds == BURST_LEAST
    assert (await world.call("GET", "/v1/operations/late")).status_code == 404


async def test_what_is_of_another_kind_is_answered_as_ever(stuck: Stuck) -> None:
    """Who looks, who pays and what feeds bring has a lane of its own; /health and /metrics need none."""
    world = stuck.world
    answers = [
        await world.call("GET", "/v1/atp?sku=SHOE"),
        await world.call("POST", f"/v1/reservations/{world.held}/commit", {"order_id": "O1"}),
        await world.call("PUT", "/v1/locations/W2", {"type": "warehouse"}),
        await world.call("GET", "/v1/reservations?order_id=O1"),
        await world.call("GET", "/health/ready", token=""),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5

    await world.call("POST", "/v1/reservations", HOLD)
    page = (await world.call("GET", "/metrics", token="")).text.splitlines()
    for line in [
        'availability_shed_total{reason="holds"} 1.0',
        'availability_shed_total{reason="reads"} 0.0',
        f'availability_requests_under_way{{lane="holds"}} {float(BURST_LEAST)}',
        'availability_requests_under_way{lane="reads"} 0.0',
        "availability_ledger_queue_wait_seconds 0.0",
        "availability_loop_lag_seconds 0.0",
    ]:
        assert line in page


async def test_it_recovers_by_itself(stuck: Stuck) -> None:
    world = stuck.world
    assert (await world.call("POST", "/v1/reservations", HOLD)).status_code == 503
    stuck.go_on.set()
    answers = await asyncio.gather(*stuck.tasks)

    assert [answer.status_code for answer in answers] == [201] * BURST_LEAST
    assert (await world.call("POST", "/v1/reservations", HOLD)).status_code == 201
    assert world.api.gate.lanes["holds"].under_way == 0


async def test_a_request_whose_client_left_makes_room(stuck: Stuck) -> None:
    stuck.tasks.pop().cancel()
    await wait_until(stuck.has_room)
    stuck.go_on.set()

    assert (await stuck.world.call("POST", "/v1/reservations", HOLD)).status_code == 201


async def test_bodies_that_come_slowly_keep_nobody_out() -> None:
    world = World()
    await world.stock(quantity=1_000)
    lane, arrive, reading = world.api.gate.lanes["holds"], asyncio.Event(), 0

    async def receive() -> dict[str, Any]:
        nonlocal reading
        reading += 1
        await arrive.wait()
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def all_read() -> bool:
        return reading == BURST_LEAST

    tasks = [asyncio.create_task(world.asgi("POST", "/v1/reservations", receive)) for _ in range(BURST_LEAST)]
    await wait_until(all_read)
    assert (await world.call("POST", "/v1/reservations", HOLD)).status_code == 503
    for under_way in (BURST_LEAST, 0, 0):
        lane.look(0.1, 0.0, 0.0)
        assert lane.under_way == under_way
    assert (await world.call("POST", "/v1/reservations", HOLD)).status_code == 201

    arrive.set()
    assert await asyncio.gather(*tasks) == [400] * BURST_LEAST
    assert lane.under_way == 0


async def test_every_endpoint_that_needs_a_token_has_a_lane() -> None:
    lanes: dict[str, set[str]] = {}
    for endpoint in ENDPOINTS:
        if not endpoint.public:
            lanes.setdefault(lane_name(endpoint), set()).add(endpoint.name)

    assert lanes.keys() == set(LANES)
    assert lanes["holds"] == {"POST /v1/reservations", "POST /v1/reservations/batch"}
    verbs = ("extend", "commit", "release", "pick", "ship", "cancel", "return", "move")
    assert lanes["verbs"] == {f"POST /v1/reservations/{{id}}/{verb}" for verb in verbs}
    assert lanes["searches"] == {"GET /v1/reservations", "GET /v1/overcommitted"}
    assert lanes["reads"] >= {"GET /v1/atp", "POST /v1/atp", "GET /v1/operations/{key}", "GET /v1/reservations/{id}"}
    assert lanes["stock"] >= {"POST /v1/stock-events"}
