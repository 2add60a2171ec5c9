"""How often a client may ask: what a process asks the ledger for, what it spends unasked, and what clients see."""

import asyncio
from typing import Any

import pytest
from api_world import World
from ledgers import Clock
from redis import Redis
from servers import as_owner

from availability.api.answer import Answer
from availability.api.limits import ASK_S, LEASE_S, RateLimits
from availability.settings import Rate
from ledger import Admit, Admitted, Ledger, RulesLedger, Unavailable

pytestmark = pytest.mark.anyio

HOLD = b'{"lines":[{"sku":"SHOE","quantity":1,"location":"W1"}]}'


class Judge:
    """A ledger's meter that counts how often it is asked, and a clock that both of them have."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.rules = RulesLedger(now_ms=lambda: int(self.now_s * 1_000))
        self.asked: list[int] = []
        self.failure: Exception | None = None

    async def admit(self, admit: Admit) -> Admitted:
        self.asked.append(admit.count)
        if self.failure is not None:
            raise self.failure
        admitted: Admitted = await self.rules.admit(admit)
        return admitted

    def limits(self, per_second: int, burst: int, **of_clients: Rate) -> RateLimits:
        return RateLimits(self.admit, Rate(per_second, burst), of_clients, now_s=lambda: self.now_s)


async def asked(limits: RateLimits, client: str = "web") -> Any:
    """The fields or the refusal for one request."""
    taken = limits.take(client)
    return await limits.judge(client) if taken is None else taken


async def let_in(limits: RateLimits, requests: int, client: str = "web") -> int:
    """How many of so many are, one after the other."""
    return sum([not isinstance(await asked(limits, client), Answer) for _ in range(requests)])


def told(fields: Any) -> dict[str, str]:
    headers = fields.headers if isinstance(fields, Answer) else fields
    return {name.decode(): value.decode() for name, value in headers}


async def test_a_client_with_a_low_limit_is_judged_exactly() -> None:
    judge = Judge()
    limits = judge.limits(2, 3)
    assert told(await asked(limits)) == {"ratelimit-policy": '"client";q=3;w=2', "ratelimit": '"client";r=2;t=1'}
    assert told(await asked(limits))["ratelimit"] == '"client";r=1;t=1'
    assert told(await asked(limits))["ratelimit"] == '"client";r=0;t=2'
    refused = await asked(limits)

    assert isinstance(refused, Answer)
    assert refused.status == 429
    assert told(refused) == {
        "ratelimit-policy": '"client";q=3;w=2',
        "ratelimit": '"client";r=0;t=1',
        "retry-after": "1",
    }
    judge.now_s += 0.499
    assert await let_in(limits, 2) == 0
    judge.now_s += 0.001
    assert await let_in(limits, 2) == 1


async def test_who_is_refused_costs_the_ledger_nothing_until_it_may_come_again() -> None:
    judge = Judge()
    limits = judge.limits(1, 1)
    await let_in(limits, 100)
    judge.now_s += 0.9
    await let_in(limits, 100)

    assert judge.asked == [1]
    assert limits.refused() == {"rate-limited": 199}


async def test_a_busy_client_seldom_waits_and_has_no_more_than_it_may() -> None:
    judge = Judge()
    limits = judge.limits(10_000, 10_000)
    waited = 0
    for _ in range(5_000):
        judge.now_s += 0.0002
        taken = limits.take("web")
        waited += taken is None
        assert not isinstance(taken or await limits.judge("web"), Answer)
        await asyncio.sleep(0)  # what was asked ahead is answered

    assert waited <= 3
    assert len(judge.asked) < 100
    assert sum(judge.asked) < 7_000


async def test_several_processes_share_one_limit(valkey_url: str) -> None:
    """Whatever each leased ahead: together they let in the burst, and no more."""
    clock = Clock()
    ledgers = [Ledger(valkey_url, now_ms=clock) for _ in range(3)]
    rate = Rate(1_000, 2_000)
    processes = [
        RateLimits(ledger.admit, rate, {}, now_s=lambda: clock.now_ms / 1_000, ask_s=60.0) for ledger in ledgers
    ]
    try:
        first = sum(await asyncio.gather(*(let_in(limits, 1_000) for limits in processes)))
        clock.now_ms += 500
        second = sum(await asyncio.gather(*(let_in(limits, 1_000) for limits in processes)))
    finally:
        for ledger in ledgers:
            await ledger.close()

    leased = 3 * 200  # a process may have leased a tenth of the burst that another one needed
    assert 2_000 - leased <= first <= 2_000
    assert 2_500 - leased <= first + second <= 2_500


async def test_a_client_may_be_given_a_rate_of_its_own_or_none() -> None:
    judge = Judge()
    limits = judge.limits(1, 1, feed=Rate(1, 5), partner=Rate(0, 1))

    assert await let_in(limits, 10) == 1
    assert await let_in(limits, 10, "feed") == 5
    assert await let_in(limits, 10, "partner") == 10
    assert told(await asked(limits, "partner")) == {}


async def test_a_lease_that_is_not_used_is_dropped() -> None:
    judge = Judge()
    limits = judge.limits(1_000, 10_000)
    await asked(limits)
    before = len(judge.asked)
    judge.now_s += LEASE_S

    assert limits.take("web") is None
    await asked(limits)
    assert len(judge.asked) == before + 1


async def test_requests_that_wait_together_are_judged_together_and_in_order() -> None:
    judge = Judge()
    limits = judge.limits(1, 3)
    answers = await asyncio.gather(*(limits.judge("web") for _ in range(5)))

    assert [isinstance(answer, Answer) for answer in answers] == [False, False, False, True, True]


async def test_a_ledger_that_is_away_refuses_nobody() -> None:
    judge = Judge()
    judge.failure = Unavailable("away")
    limits = judge.limits(2, 2)
    assert await let_in(limits, 10) == 10

    judge.failure = None
    judge.now_s += LEASE_S
    assert await let_in(limits, 10) == 2


async def test_a_ledger_that_does_not_answer_keeps_nobody_waiting() -> None:
    async def stands_still(_admit: Admit) -> Admitted:
        await asyncio.Event().wait()
        raise AssertionError

    limits = RateLimits(stands_still, Rate(10, 10), {})
    async with asyncio.timeout(100 * ASK_S):
        assert await let_in(limits, 3) == 3
    assert limits.take("web") is not None, "whoever comes in the next second waits no more"


@pytest.fixture
def world() -> World:
    return World(set_to={"client_requests_per_second": 1, "client_requests_burst": 4})


async def test_every_answer_to_a_known_client_says_how_often_it_may_come(world: World) -> None:
    reader = world.token_for("web", scope="atp:read")
    answers = [
        await world.call("GET", "/v1/atp?sku=SHOE"),
        await world.call("GET", "/v1/atp?sku="),
        await world.call("PUT", "/v1/locations/W1", {"type": "warehouse"}, token=reader),
    ]

    assert [answer.status_code for answer in answers] == [200, 400, 403]
    left = [answer.headers["RateLimit"] for answer in answers]
    assert left == ['"client";r=3;t=1', '"client";r=2;t=2', '"client";r=1;t=3']
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"client";q=4;w=4'}


async def test_who_asks_too_often_is_refused_before_its_body_is_read(world: World) -> None:
    for _ in range(4):
        await world.call("GET", "/v1/atp?sku=SHOE")
    before = world.everything()
    answer = await world.call("POST", "/v1/reservations", raw=HOLD)

    async def unread() -> object:
        raise AssertionError("the body was read")

    assert await world.asgi("POST", "/v1/reservations", unread) == 429
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert (answer.json()["type"], answer.json()["retry"]) == ("/problems/rate-limited", "later")
    assert world.everything() == before
    assert (await world.call("GET", "/v1/atp?sku=SHOE", token=world.token_for("app"))).status_code == 200
    world.now_ms += 1_000  # by the ledger's clock
    assert 'availability_shed_total{reason="rate-limited"} 2.0' in (await world.call("GET", "/metrics", token="")).text


async def test_what_is_public_and_who_is_unknown_has_no_limit(world: World) -> None:
    for path in ["/health/live", "/health/ready", "/metrics", "/schema/openapi.json", "/.well-known/jwks.json"] * 2:
        answer = await world.call("GET", path, token="")
        assert answer.status_code == 200
        assert "RateLimit" not in answer.headers
    assert "RateLimit" not in (await world.call("GET", "/v1/atp?sku=SHOE", token="")).headers


async def test_no_limit_says_nothing() -> None:
    world = World(set_to={"client_requests_per_second": 0})
    answer = await world.call("GET", "/v1/atp?sku=SHOE")

    assert answer.status_code == 200
    assert "RateLimit" not in answer.headers


async def test_a_meter_goes_by_itself_and_leaves_no_entry(valkey_url: str) -> None:
    ledger = Ledger(valkey_url, now_ms=Clock())
    try:
        assert await ledger.admit(Admit("web", 5, 1_000, 10)) == Admitted(5, 5, 0, 5)
    finally:
        await ledger.close()
    with Redis.from_url(as_owner(valkey_url)) as client:
        assert client.keys() == [b"{s0}:rate:web"]
        assert 0 < int(str(client.pttl("{s0}:rate:web"))) <= 60_005
