"""Looks that are the same: asked of the ledger once, and nobody is told anything older than his request."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from api_world import World
from waiting import wait_until

from ledger import Overloaded, Positions, Read

pytestmark = pytest.mark.anyio


class Counter:
    """A ledger whose batches leave when told to."""

    def __init__(self, world: World) -> None:
        self.reads: list[Read] = []
        self.turn = 0
        self.failure: Exception | None = None
        self._rules = world.ledger
        self._leave = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rules, name)

    async def has(self, reads: int) -> bool:
        return len(self.reads) == reads

    def leave(self) -> None:
        self.turn += 1
        self._leave.set()
        self._leave = asyncio.Event()

    async def read(self, operation: Read) -> Positions:
        self.reads.append(operation)
        await self._leave.wait()
        if self.failure is not None:
            raise self.failure
        found: Positions = await self._rules.read(operation)
        return found


async def worlds() -> tuple[World, Counter]:
    stocked = World()
    await stocked.stock()
    counter = Counter(stocked)
    world = World(counter)
    world.issuer, world.token = stocked.issuer, stocked.token
    world.api.tokens.keys.load(stocked.issuer.jwks)
    return world, counter


def asks(world: World, path: str = "/v1/atp?sku=SHOE", **more: Any) -> "asyncio.Task[httpx.Response]":
    async def call() -> httpx.Response:
        return await world.call("POST" if "body" in more else "GET", path, **more)

    return asyncio.create_task(call())


async def answered(counter: Counter, reads: int, *asking: Awaitable[httpx.Response]) -> list[httpx.Response]:
    """The answers, after so many reads were asked and have left together."""
    await wait_until(lambda: counter.has(reads))
    for _ in range(20):  # for those that join, which nothing shows
        await asyncio.sleep(0)
    counter.leave()
    return list(await asyncio.gather(*asking))


async def test_the_same_question_is_asked_once_and_each_gets_the_answer() -> None:
    world, counter = await worlds()
    body = {"items": [{"sku": "SHOE"}]}

    gets = await answered(counter, 1, *(asks(world) for _ in range(3)))
    posts = await answered(counter, 2, *(asks(world, "/v1/atp", body=body) for _ in range(3)))

    assert [answer.json()["available"] for answer in gets] == [10] * 3
    assert [answer.json()["items"][0]["available"] for answer in posts] == [10] * 3
    assert len(counter.reads) == 2


async def test_another_question_is_another_read() -> None:
    world, counter = await worlds()
    paths = ("/v1/atp?sku=SHOE", "/v1/atp?sku=SHOE&quantity=11", "/v1/atp?sku=SHOE&location=W1")

    answers = await answered(counter, 3, *(asks(world, path) for path in paths))

    assert [answer.json()["promisable"] for answer in answers] == [True, False, True]


async def test_what_has_left_for_the_ledger_is_not_joined() -> None:
    """So whoever has his hold sees it in what he asks next, also while others' questions are under way."""
    world, counter = await worlds()
    before = asks(world)
    await wait_until(lambda: counter.has(1))
    counter.turn += 1

    after = asks(world)
    await answered(counter, 2, before, after)

    assert len(counter.reads) == 2


async def test_a_failure_is_told_to_each_and_not_kept() -> None:
    world, counter = await worlds()
    counter.failure = Overloaded("too many operations wait for the ledger")
    failed = await answered(counter, 1, *(asks(world) for _ in range(3)))
    counter.failure = None
    (done,) = await answered(counter, 2, asks(world))

    assert [answer.status_code for answer in failed] == [503] * 3
    assert done.status_code == 200
    assert len(counter.reads) == 2


async def test_nobody_waits_for_one_who_left() -> None:
    world, counter = await worlds()
    first, second = asks(world), asks(world)
    await wait_until(lambda: counter.has(1))
    for _ in range(20):
        await asyncio.sleep(0)
    first.cancel()

    answer = await second
    assert answer.status_code == 503
