"""The ledger's verbs on a real Valkey, through the door: a round is one call, of 64 operations unless it says so."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.shop import BATCH, CLIENT, EVENTS, GONE, HOT, PLACE, SKUS, Shop
from ledger import (
    Applied,
    Apply,
    Commit,
    Count,
    Counted,
    Done,
    Extend,
    Find,
    Found,
    Insufficient,
    Positions,
    Read,
    ReadItem,
    Release,
    Ship,
    fingerprint,
)

ROUNDS = 50
WARM = 3


def measure(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    shop: Shop,
    verb: str,
    make: Callable[[], list[Any]],
    expected: type,
    operations: int = BATCH,
) -> None:
    """Time the verb on what ``make`` makes anew for each round."""

    def setup() -> tuple[tuple[list[Any]], dict[str, Any]]:
        return (make(),), {}

    def run(made: list[Any]) -> list[Any]:
        return runner.run(shop.all(verb, made))

    benchmark.extra_info["operations"] = operations
    outcomes = cast(Any, benchmark).pedantic(run, setup=setup, rounds=ROUNDS, warmup_rounds=WARM)
    assert {type(outcome) for outcome in outcomes} == {expected}


@pytest.mark.parametrize(
    ("skus", "expected"),
    [([HOT], Done), (SKUS[:5], Done), ([GONE], Insufficient)],
    ids=["1-line", "5-lines", "refused"],
)
def test_hold(benchmark: BenchmarkFixture, runner: asyncio.Runner, shop: Shop, skus: list[str], expected: type) -> None:
    measure(benchmark, runner, shop, "hold", lambda: shop.holds(*skus), expected)


@pytest.mark.parametrize("verb", ["commit", "release", "extend", "ship"])
def test_change_of_a_reservation(benchmark: BenchmarkFixture, runner: asyncio.Runner, shop: Shop, verb: str) -> None:
    def changes() -> list[Any]:
        held = runner.run(shop.held())
        told = fingerprint(verb, {})
        if verb == "ship":
            commits = [Commit(shop.id(), told, CLIENT, each, "ORDER-1") for each in held]
            runner.run(shop.all("commit", commits))
        made: dict[str, Callable[[str], Any]] = {
            "commit": lambda each: Commit(shop.id(), told, CLIENT, each, "ORDER-1"),
            "release": lambda each: Release(shop.id(), told, CLIENT, each),
            "extend": lambda each: Extend(shop.id(), told, CLIENT, each, 60_000),
            "ship": lambda each: Ship(shop.id(), told, CLIENT, each),
        }
        return [made[verb](each) for each in held]

    measure(benchmark, runner, shop, verb, changes, Done)


def test_find(benchmark: BenchmarkFixture, runner: asyncio.Runner, shop: Shop) -> None:
    finds = [Find(each, CLIENT) for each in runner.run(shop.held())]
    measure(benchmark, runner, shop, "find", lambda: finds, Found)


@pytest.mark.parametrize("items", [1, EVENTS])
def test_read(benchmark: BenchmarkFixture, runner: asyncio.Runner, shop: Shop, items: int) -> None:
    """As many requests, each of one item; or one request of many."""
    one = [Read([ReadItem(HOT, [PLACE])])] * BATCH
    many = [Read([ReadItem(sku, [PLACE]) for sku in SKUS])]
    operations = BATCH if items == 1 else items
    measure(benchmark, runner, shop, "read", lambda: one if items == 1 else many, Positions, operations)


def test_apply(benchmark: BenchmarkFixture, runner: asyncio.Runner, shop: Shop) -> None:
    """256 events at as many positions."""

    def make() -> list[Apply]:
        return [Apply(CLIENT, [shop.event(sku, 1) for sku in SKUS])]

    measure(benchmark, runner, shop, "apply", make, Applied, EVENTS)


def test_count(benchmark: BenchmarkFixture, runner: asyncio.Runner, shop: Shop) -> None:
    """256 lines."""

    def make() -> list[Count]:
        events = [shop.event(sku, 1_000, kind="snapshot") for sku in SKUS]
        return [Count(fingerprint("count", {}), CLIENT, PLACE, shop.id(), events)]

    measure(benchmark, runner, shop, "count", make, Counted, EVENTS)
