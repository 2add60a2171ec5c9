"""The bench's comparisons: their arithmetic, and that no rival is fast because it oversells."""

import asyncio
import importlib
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from servers import as_owner

from bench import processes
from bench.peers import ledger_alone, load, recorded, sql, table
from bench.peers.apps import APPS
from bench.peers.table import Goal, Row, Sample, Tables
from bench.peers.uncoalesced import Uncoalesced
from ledger import Done, Insufficient

ROOT = Path(__file__).parent.parent
ASKED, UNITS = 60, 40


def row(name: str, *rates: int, cpu_s: float = 1.0, base: str | None = None) -> Row:
    samples = [Sample(rate * 2, 2.0, {"server": cpu_s}) for rate in rates]
    return Row(name, "", "holds", samples, base)


def tables(*rows: Row, goals: list[Goal]) -> Tables:
    return Tables(
        "A title", "python -m bench x", "2026-11-23T00:00:00+00:00", "abc", {"cpu": "x"}, list(rows), goals, []
    )


# --- arithmetic --------------------------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine got slower by half between the rounds; the ratio of the medians would be another."""
    ours, theirs = row("ours", 100, 50, 60), row("theirs", 50, 10, 20)

    found = table.ratio(ours, theirs)

    assert found == table.Spread(3, 2, 5)
    assert table.rates(ours) == table.Spread(60, 50, 100)


def test_cpu_is_told_by_thing_and_by_cores() -> None:
    measured = row("ours", 100, cpu_s=1.0)

    each, busy = table.cpu_us(measured, "server"), table.cores_used(measured, "server")

    assert each is not None
    assert busy is not None
    assert (each.median, busy.median) == (5_000, 0.5)
    assert table.cpu_us(measured, "nobody") is None


def test_a_row_whose_cores_were_not_busy_is_named() -> None:
    rows = [row("ours", 100, cpu_s=1.8), row("theirs", 100, cpu_s=1.0)]

    (caveat,) = table.spare(rows, "server", 1)

    assert caveat.endswith(": theirs (0.50).")
    assert table.spare(rows[:1], "server", 1) == []


def test_goals_are_judged_and_shown() -> None:
    made = tables(
        row("ours", 100, 90, 110, base="theirs"),
        row("theirs", 40, 40, 40, cpu_s=2.0),
        goals=[Goal("ours", 100), Goal("ours", 3, "theirs"), Goal("ours", 1, "not measured")],
    )

    rate, compared = table.verdicts(made)

    assert (rate.met, rate.by_cpu) == (True, None)
    assert (compared.met, compared.reached.median) == (False, 2.5)
    assert compared.by_cpu == pytest.approx(5)
    shown = table.markdown(made)
    assert "| ours ≥ 3 of theirs | 2.50 (2.25 to 2.75) | 5.00 | **missed** |" in shown
    assert "| ours | 100 holds (90 to 110) | 2.50 |" in shown


def test_the_rest_is_told_apart() -> None:
    parts = [{"journal": 0.2, "nats": 0.4, "keeper": 0.00001}, {"journal": 0.2, "nats": 0.4, "keeper": 0.00001}]
    samples = [Sample(100, 1.0, {"server": 1.0}, parts=each) for each in parts]
    shown = table.markdown(tables(Row("ours", "", "holds", samples), row("theirs", 1, 1), goals=[]))

    assert "| ours | nats 4,000.0, journal 2,000.0 |" in shown
    assert shown.count("| theirs |") == 1


def test_figures_are_kept(tmp_path: Path) -> None:
    made = [tables(row("ours", 1), goals=[Goal("ours", 1)])]
    table.write(made, tmp_path / "out.json")

    assert table.read(tmp_path / "out.json") == made
    (tmp_path / "out.json").write_text('[{"title":1}]')
    with pytest.raises(ValueError, match="no tables"):
        table.read(tmp_path / "out.json")


def test_cpu_is_read_of_all_threads_and_descendants() -> None:
    before = processes.cpu_s([os.getpid()])
    until_s = time.thread_time() + 0.02
    while time.thread_time() < until_s:
        pass
    assert processes.cpu_s([os.getpid()]) - before >= 0.02
    assert processes.cpu_s([0]) == 0
    assert os.getpid() in processes.family(os.getppid())


# --- rivals ------------------------------------------------------------------------------------------------------


@pytest.fixture
def valkey_url(valkey_url: str) -> str:
    """As a measurement comes to a server of its own: rivals bring scripts along."""
    return as_owner(valkey_url)


@pytest.mark.anyio
@pytest.mark.parametrize("app", ["raw-script", "litestar-script", "raw-update", "raw-batched"])
async def test_a_rival_over_http_grants_what_there_is_and_refuses_the_rest(
    app: str, valkey_url: str, postgres_url: str
) -> None:
    await sql.filled(postgres_url, UNITS)
    async with Redis.from_url(valkey_url) as redis:
        await redis.set(f"toy:stock:{sql.HOT}", UNITS)
    body = {"lines": [{"sku": sql.HOT, "quantity": 1, "location": "W1"}], "ttl_seconds": 600}
    async with APPS[app](valkey_url, postgres_url) as asgi:
        transport = httpx.ASGITransport(cast(Any, asgi))
        async with httpx.AsyncClient(transport=transport, base_url="http://rival") as client:
            answers = await asyncio.gather(*(client.post("/v1/reservations", json=body) for _ in range(ASKED)))

    assert Counter(answer.status_code for answer in answers) == {201: UNITS, 409: ASKED - UNITS}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == UNITS


@pytest.mark.anyio
@pytest.mark.parametrize(("way", "size"), [(sql.conditional_update, 1), (sql.skip_locked, 1), (sql.batched, 7)])
async def test_a_way_of_postgres_grants_what_there_is(way: sql.Way, size: int, postgres_url: str) -> None:
    await sql.filled(postgres_url, UNITS, rows=UNITS if way is sql.skip_locked else 0)
    connections = [await asyncpg.connect(postgres_url) for _ in range(3)]
    turns, granted = iter(range(0, ASKED, size)), 0

    async def drive(connection: asyncpg.Connection) -> None:
        nonlocal granted
        ask = await way(connection)
        for _ in turns:
            found = await ask(size)
            granted += found

    await asyncio.gather(*map(drive, connections))
    for connection in connections:
        await connection.close()

    assert granted == UNITS
    assert await sql.held(postgres_url) == (UNITS, 0)


# --- ours --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_recorded_calls_do_again_what_the_ledger_did(valkey_url: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    holds = [ledger_alone.hold(number) for number in range(ASKED)]
    short, enough = {sql.HOT: UNITS}, {sql.HOT: ASKED}
    await ledger_alone.stock(valkey_url, short, now_ms)
    calls = await recorded.record(valkey_url, holds, 8, now_ms)
    await ledger_alone.check(valkey_url, UNITS, short, now_ms)
    await ledger_alone.stock(valkey_url, enough, now_ms)

    await recorded.play(valkey_url, calls, connections=3, in_flight=2)

    assert len(calls) == -(-ASKED // 8)
    await ledger_alone.check(valkey_url, ASKED, enough, now_ms)
    with pytest.raises(table.Oversold):
        await ledger_alone.check(valkey_url, ASKED - 1, enough, now_ms)


@pytest.mark.anyio
async def test_a_call_that_is_refused_ends_the_playing(valkey_url: str) -> None:
    with pytest.raises(recorded.Refused, match="ERR"):
        await recorded.play(valkey_url, [b"NONSENSE\r\n"], connections=2, in_flight=1)


@pytest.mark.anyio
async def test_our_ledger_without_batches_is_still_right(valkey_url: str) -> None:
    await ledger_alone.stock(valkey_url, {sql.HOT: UNITS}, time.time_ns() // 1_000_000)
    ledger = Uncoalesced(valkey_url)
    outcomes = await asyncio.gather(*(ledger.hold(ledger_alone.hold(number)) for number in range(ASKED)))
    await ledger.close()

    assert Counter(map(type, outcomes)) == {Done: UNITS, Insufficient: ASKED - UNITS}


@pytest.mark.parametrize("kind", load.THINGS)
def test_requests_are_whole_and_have_keys_of_their_own(kind: load.Kind) -> None:
    order = load.Order(kind, "127.0.0.1", 80, "TOKEN", "SKU", "run", "201", 1, 1.0)
    requests = load.requests(order)

    heads, bodies = zip(*(next(requests).split(b"\r\n\r\n", 1) for _ in range(2)), strict=True)

    for head, body in zip(heads, bodies, strict=True):
        lengths = [line.split(b": ")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        assert lengths == ([] if kind in {"atp", "atp-tail"} else [b"%d" % len(body)])
        assert b"Authorization: Bearer TOKEN" in head
    if kind in {"hold", "atp-tail"}:
        assert heads[0] != heads[1]
    if kind == "atp-many":
        assert bodies[0] != bodies[1]
        assert [len(msgspec.json.decode(body)["items"]) for body in bodies] == [load.ITEMS] * 2
    if kind == "batch":
        asked = [one for body in bodies for one in msgspec.json.decode(body)["reservations"]]
        assert len({one["key"] for one in asked}) == len({one["customer"] for one in asked}) == 2 * load.RESERVATIONS


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "micro").glob("test_*.py")), ids=lambda path: path.stem)
def test_the_small_benchmarks_can_be_imported(path: Path) -> None:
    """They run by `make microbench`; here only what they import from others is held to be there."""
    module = importlib.import_module(f"bench.micro.{path.stem}")
    assert any(name.startswith("test_") for name in vars(module))
