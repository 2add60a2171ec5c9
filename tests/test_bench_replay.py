"""The bench on real processes: the replay agrees with its books, and a sale is checked; each of the checks can fail."""

import asyncio
import io
import os
import random
import signal
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner
from rich.console import Console
from running_up import Up, start

from bench import commands, replay_checks, scenario, service, target
from bench.baskets import (
    AMOUNT,
    DAY_MS,
    FUEL,
    LINES_MAX,
    SHORT_ONE_IN,
    Basket,
    Books,
    Line,
    Place,
    Short,
    opening_counts,
    reservations_of,
)
from bench.caller import Caller, Stuck, Unexpected, expect
from bench.cli import main
from bench.contract import SCOPES
from bench.flash_sale import flash_sale
from bench.http_client import HttpClient
from bench.journey import baskets_of
from bench.live import Live
from bench.replay import Replay
from bench.replay_run import run
from bench.replay_stores import Stores
from bench.run import Check, read, write
from bench.scenario import Options
from bench.service import Where
from bench.target import NoTarget

pytestmark = pytest.mark.anyio

STORES = (330, 406, 319)
FUEL_PRODUCT, MONEY_PRODUCT = 6534178, 6544236
DEPARTMENTS = {FUEL_PRODUCT: "FUEL", MONEY_PRODUCT: "MISCELLANEOUS"}
FIRST_MS = int(datetime(2017, 1, 1, 11, 53, 26, tzinfo=UTC).timestamp() * 1_000)
REJECTED_BY_API = "400 lines[].quantity: Expected `int` >= 1"


def miniature() -> list[Basket]:
    """60 baskets of 4 days in the columns of the real data, with all that is odd in it."""
    chance = random.Random(4)  # noqa: S311 - a fixed set of baskets
    rows: list[tuple[int, ...]] = []
    for number in range(60):
        store, at_ms = STORES[number % 3], FIRST_MS + number * DAY_MS // 15
        products = chance.sample([scarce(store), *range(1_000, 1_020)], chance.randint(1, 8))
        if number == 30:
            products = list(range(2_000, 2_000 + LINES_MAX + 20))
        lines = [(product, chance.choice([1, 1, 1, 2, 5])) for product in products]
        if number % 10 == 0:
            lines += [(1_100, 0), (1_101, 0)]
        if number % 7 == 0:
            lines.append((FUEL_PRODUCT, 9_000 + number))
        if number == 8:
            lines.append((MONEY_PRODUCT, 300))
        if number == 9:
            lines = [(1_200, 0)]
        rows += [(number % 5, store, 31_198_570_000 + number, product, quantity, at_ms) for product, quantity in lines]
    names = ("household_id", "store_id", "basket_id", "product_id", "quantity", "transaction_timestamp")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return list(baskets_of(columns, DEPARTMENTS))


def scarce(store: int) -> int:
    """A product of which the store opens with less than will be asked for."""
    return next(number for number in range(10**6) if zlib.crc32(f"{store}:{number}".encode()) % SHORT_ONE_IN == 0)


def basket(*lines: Line, store: int = 1) -> Basket:
    return Basket(1, store, 1, FIRST_MS, list(lines))


# --- what it knows beforehand ---------------------------------------------------------------------------------------


def test_rows_become_baskets_and_what_counts_no_units_is_refused_with_a_reason() -> None:
    baskets = miniature()
    assert len(baskets) == 60
    assert baskets[0].at_ms == FIRST_MS
    refused = Counter(line.refused for basket in baskets for line in basket.lines if line.refused)
    assert refused == {FUEL: 9, AMOUNT: 1}
    assert sum(line.quantity == 0 for basket in baskets for line in basket.asked) == 13


def test_a_basket_with_too_many_lines_becomes_several_reservations() -> None:
    lines = [Line(str(number), 1) for number in range(LINES_MAX + 1)]
    assert [len(part) for part in reservations_of(basket(*lines))] == [LINES_MAX, 1]
    assert reservations_of(basket(Line("1", 9_000, FUEL))) == []


def test_a_scarce_position_opens_with_half_of_what_is_asked_and_all_others_with_enough() -> None:
    store = STORES[0]
    few, enough = str(scarce(store)), "1000"
    opening = opening_counts([basket(Line(few, 5), Line(enough, 5), store=store)] * 2)
    assert opening[Place(store, few)] == 5
    assert 10 <= opening[Place(store, enough)] <= 14


def test_the_books_sell_all_of_a_reservation_or_nothing() -> None:
    books = Books({Place(1, "A"): 3, Place(1, "B"): 1})
    assert books.sell(1, [Line("A", 1), Line("B", 1)]) == []
    assert books.sell(1, [Line("A", 2), Line("B", 1)]) == [Short(2, 0)]
    assert books.sell(1, [Line("A", 2)]) == []
    assert books.recount(1) == {"A": 0, "B": 0}
    assert books.recount(1) == {}


# --- how it asks ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[tuple[Caller, list[str]]]:
    """A caller of a server that gives these answers, an empty one being a lost connection, and what it was asked."""
    asked: list[str] = []
    left = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked.append(head.decode().partition(" HTTP")[0])
                await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))
                answer = next(left)
                writer.write(answer)
                if not answer:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with HttpClient(f"http://127.0.0.1:{port}", "token", 1) as http:
        yield Caller(http), asked
    server.close()


def answer(status: int, body: str = "{}", more: str = "") -> bytes:
    return f"HTTP/1.1 {status} Because\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def test_what_was_surely_not_done_is_asked_again() -> None:
    """P4."""
    async with scripted(answer(503, more="Retry-After: 0\r\n"), answer(201, '{"id":"r"}')) as (caller, asked):
        verdict = await caller.ask("POST", "/v1/reservations", {}, "key")
    assert (verdict.status, verdict.body) == (201, {"id": "r"})
    assert asked == ["POST /v1/reservations"] * 2


@pytest.mark.parametrize("unknown", [b"", answer(500), answer(504)])
async def test_an_unknown_that_was_done_is_settled_by_its_key(unknown: bytes) -> None:
    """P4."""
    found = answer(200, '{"key":"key","operation":"hold","reservation":{"id":"r"}}')
    async with scripted(unknown, found) as (caller, asked):
        verdict = await caller.ask("POST", "/v1/reservations", {}, "key")
    assert (verdict.status, verdict.body) == (201, {"id": "r"})
    assert asked == ["POST /v1/reservations", "GET /v1/operations/key"]


async def test_an_unknown_that_was_not_done_is_asked_again() -> None:
    """P4."""
    refusal = answer(409, '{"type":"/problems/insufficient-stock"}')
    async with scripted(b"", answer(404), refusal) as (caller, asked):
        verdict = await caller.ask("POST", "/v1/reservations", {}, "key")
    assert verdict.problem == "insufficient-stock"
    assert asked == ["POST /v1/reservations", "GET /v1/operations/key", "POST /v1/reservations"]


async def test_a_service_that_is_not_ready_is_waited_for_and_one_that_is_none_is_not() -> None:
    said: list[str] = []
    waiting = answer(503, '{"type":"/problems/not-ready","detail":"no journal"}')
    async with scripted(waiting, waiting, answer(200)) as (caller, asked):
        await service.until_ready(caller.http, said.append)
    assert said == ["waiting, for the service is not ready: no journal"]
    assert asked == ["GET /health/ready"] * 3
    async with scripted(b"SSH-2.0\r\n\r\n") as (caller, _):
        with pytest.raises(NoTarget, match=r"no answer from .*: what answers is not this service"):
            await service.until_ready(caller.http, said.append)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (answer(403, '{"detail":"this needs the scope atp:read"}'), "the token: this needs the scope atp:read"),
        (answer(404, "<html>"), "not this service: 404 <html>"),
    ],
)
async def test_a_refused_token_and_another_service_are_told_in_words(refusal: bytes, said: str) -> None:
    async with scripted(refusal) as (caller, _):
        with pytest.raises(Unexpected, match=said):
            expect(200, await caller.ask("PUT", "/v1/locations/W1", {}))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_after_it_has_cleaned_up(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[str] = []

    async def work() -> bool:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), number)  # `timeout` sends it twice
            for _ in range(10):
                await asyncio.sleep(0.001)
            cleaned.append("all")
        return True

    with pytest.raises(SystemExit) as ended:
        commands.run(work)
    assert (ended.value.code, cleaned) == (128 + number, ["all"])
    assert capsys.readouterr().err == "interrupted\n"


async def test_it_gives_up_when_nobody_listens_for_long() -> None:
    async with scripted() as (caller, asked):
        url = caller.http.url
    async with HttpClient(url, "token", 1) as http:
        with pytest.raises(Stuck, match="GET /health/live"):
            await Caller(http, patience_s=0.2).ask("GET", "/health/live")
    assert asked == []


# --- what it finds --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with start(tmp_path_factory.mktemp("up") / "data") as running_up:
        running_up.wait_ready()
        yield running_up


@asynccontextmanager
async def replayed(up: Up, client: str) -> AsyncIterator[tuple[Replay, Callable[[], Awaitable[list[Check]]]]]:
    """The miniature, replayed, and what checks it."""
    async with target.running(up.folder) as service:
        addresses = service.addresses
    events_from = await replay_checks.first_event(addresses)
    async with replay_of(up, client, miniature()) as replay:
        await replay.open()
        await replay.sell(lambda: None)
        yield replay, lambda: replay_checks.check_all(replay, addresses, client, events_from)


@asynccontextmanager
async def replay_of(up: Up, client: str, baskets: list[Basket]) -> AsyncIterator[Replay]:
    """A replay that has not begun."""
    async with target.running(up.folder) as service:
        token, addresses = service.token(client, SCOPES), service.addresses
        async with HttpClient(addresses.api, token, 8) as http:
            yield Replay(Stores(Caller(http, patience_s=20), addresses.nats, client), baskets, 8)


@asynccontextmanager
async def a_hole_in_the_journal(up: Up) -> AsyncIterator[None]:
    """An entry is missing meanwhile."""
    connection = await asyncpg.connect(str(up.told()["postgres"]))
    await connection.execute("create temp table kept as select * from availability.entry where seq = 2")
    await connection.execute("delete from availability.entry where seq = 2")
    try:
        yield
    finally:
        await connection.execute("insert into availability.entry select * from kept")
        await connection.close()


def failed(found: list[Check]) -> list[str]:
    return [f"{check.name}: {check.said}" for check in found if not check.holds]


async def test_the_replay_agrees_with_its_books(up: Up) -> None:
    """P1, P6, P7, P8: all that the report claims."""
    async with replayed(up, "agrees") as (replay, check):
        assert failed(await check()) == []
    tally = replay.tally
    assert tally.faults == []
    assert tally.baskets == 60
    assert tally.rejected == {FUEL: 9, AMOUNT: 1, REJECTED_BY_API: 13}
    assert tally.reservations["asked"] == 60
    assert tally.reservations["refused"] > 0
    assert tally.reservations["held"] == tally.reservations["shipped"] == 60 - tally.reservations["refused"]
    assert tally.units["shipped"] == replay.books.sold.total()
    assert set(tally.counts) == {"http", "nats"}


async def test_each_check_finds_what_it_is_for(up: Up) -> None:
    """Whatever one side says otherwise than the other makes its check fail, and no other."""
    async with replayed(up, "differs") as (replay, check):
        assert failed(await check()) == []
        books, tally = replay.books, replay.tally
        place = next(place for place, sold in books.sold.items() if sold)

        tally.lines["held"] += 1
        assert [text.partition(":")[0] for text in failed(await check())] == [
            "each line read was held, refused or rejected"
        ]
        tally.lines["held"] -= 1

        tally.changes["held", "nobody"] += 1
        assert [text.partition(":")[0] for text in failed(await check())] == ["one event for each state change"]
        del tally.changes["held", "nobody"]

        async with a_hole_in_the_journal(up):
            (found,) = failed(await check())
            assert "1 gaps, 1 broken links" in found

        books.opening[place] += 1
        (found,) = failed(await check())
        assert "1 differ" in found

        replay.stores.caller.patience_s = 0.5
        await replay.stores.count("http", place.store, "later", FIRST_MS + 9 * DAY_MS, {place.sku: books.left(place)})
        (found,) = failed(await check())
        assert "1 positions without theirs" in found

        books.opening[place] -= 1
        books.sold[place] -= 1
        found = "; ".join(failed(await check()))
        assert "units shipped are the books' units sold" in found


async def test_an_answer_that_the_books_do_not_expect_is_told(up: Up) -> None:
    """A service that sells what is not there, or refuses what is, does not pass."""
    async with replay_of(up, "surprised", miniature()[:2]) as replay:
        await replay.open()
        first, second = replay.baskets
        for line in first.asked:
            replay.books.opening[Place(first.store, line.sku)] = 0
        place = Place(second.store, second.lines[0].sku)
        await replay.stores.count("http", place.store, "stolen", second.at_ms - 1, {place.sku: 0})
        await replay.sell(lambda: None)
    assert replay.tally.faults_count == 2
    of_first, of_second = sorted(replay.tally.faults)
    assert "held, the books say" in of_first
    assert "insufficient-stock" in of_second


async def test_the_report_is_printed_and_the_verdict_returned(up: Up) -> None:
    printed = io.StringIO()
    assert await run(miniature()[:5], up.folder, 4, Console(file=printed, width=120))
    assert "on hand = opening counts - shipped, per position" in printed.getvalue()
    assert "NO" not in printed.getvalue()


async def test_a_sale_at_a_rate_is_offered_counted_and_checked(up: Up, tmp_path: Path) -> None:
    options = Options(rate=80, seconds=1, warm_up=0, skus=20, hot_units=5, think_s=0.1, ttl_s=1, feed_rate=100)
    script = flash_sale(options)
    async with service.reached(Where(data_folder=up.folder), script.name, clients=2) as reached:
        with Live(5, script.name, Console(file=io.StringIO())) as live:
            found = await scenario.run(script, options, reached, live)

    write(found, tmp_path / "run.json")
    assert read(tmp_path / "run.json") == found
    kinds = {kind.name: kind for kind in found.kinds}
    assert {"hold-hot", "hold-tail", "commit", "atp"} <= kinds.keys()
    assert sum(kind.scheduled for kind in found.kinds) == found.timeline[0].offered
    assert found.steps[0].failed == 0, found.flaws
    assert kinds["hold-hot"].by_status["201"] >= 5
    assert kinds["hold-hot"].by_status["409"] > 0
    assert found.timeline[0].cpu.keys() >= {"api", "valkey", "generator-1"}
    assert sum(count for _, count in found.batches) > 0
    assert found.feed is not None
    assert found.feed.events > 50
    # A machine that does other work shows stock events late; everything else holds on any.
    broken = {check.name for check in found.checks if not check.holds}
    assert broken <= {"stock events show within 250 ms (p99)"}
    assert len(found.checks) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "70%"], "needs --of"),
        (["--rate", "70%", "--of", __file__], "holds no run of this bench"),
        (["--rate", "many"], "a number above 0 is wanted"),
        (["--rate", "0"], "a number above 0 is wanted"),
        (["--rate", "-5"], "a number above 0 is wanted"),
        (["--rate", "nan"], "a number above 0 is wanted"),
        (["--rate", "inf%"], "a number above 0 is wanted"),
        (["--steps", "1,2,x"], "rates above 0 with commas"),
        (["--steps", "100,0"], "rates above 0 with commas"),
        (["--steps", "100,200", "--rate", "100"], "leave out --rate"),
        (["--steps", "100,200", "--find-knee"], "leave out --find-knee"),
        (["--think", "nan"], "nan is not a number"),
        (["--out", "nowhere/x.json"], "there is no folder nowhere"),
        (["--commit", "0.6", "--release", "0.6"], "more than all holds"),
        (["--target", "http://127.0.0.1:1"], "--token-file"),
        (["--target", "http://127.0.0.1:1", "--feeds", "5"], "needs NATS"),
        (["--target", "http://127.0.0.1:1", "--token-file", __file__], "nobody answers at http://127.0.0.1:1: "),
        (["--target", "nonsense"], "nonsense is no URL"),
        (["--target", "http://127.0.0.1:x"], "is no URL"),
        (["--target", "https://shop.example/v1"], "is no URL"),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_the_reason(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["flash-sale", *arguments])

    assert result.exit_code == 2
    assert said in result.output
