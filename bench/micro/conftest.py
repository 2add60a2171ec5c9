"""Owns what the small benchmarks stand on: one event loop, and real servers, started once."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

import pytest
import uvloop

from bench import servers
from bench.micro.shop import Shop
from ledger import migrate

Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Result]], Result]


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="session")
def stack(runner: asyncio.Runner) -> Iterator[Callable[[AbstractAsyncContextManager[Any]], Any]]:
    """Enters what lives as long as the session."""
    stack = AsyncExitStack()
    yield lambda context: runner.run(stack.enter_async_context(context))
    runner.run(stack.aclose())


@pytest.fixture(scope="session")
def valkey_url(stack: Callable[[AbstractAsyncContextManager[Any]], Any]) -> str:
    url: str = stack(servers.valkey()).url
    return url


@pytest.fixture(scope="session")
def postgres_url(stack: Callable[[AbstractAsyncContextManager[Any]], Any], runner: asyncio.Runner) -> str:
    """With the journal's schema."""
    url: str = stack(servers.postgres(tuning=servers.FOR_RIVALS)).url
    runner.run(migrate(url))
    return url


@pytest.fixture
def shop(runner: asyncio.Runner, valkey_url: str) -> Iterator[Shop]:
    """An empty ledger with one location and plenty of some SKUs."""
    shop = Shop(valkey_url)
    runner.run(shop.open())
    yield shop
    runner.run(shop.close())
