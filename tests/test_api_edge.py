"""How the API behaves where the ledger, the server or the request is not as it should be; health and figures."""

import asyncio
from collections.abc import Callable
from typing import Any, get_args

import pytest
from api_world import World
from msgspec.structs import replace

from availability.api import answering
from availability.api.outcomes import ANSWERS
from availability.api.problems import PROBLEMS
from availability.telemetry import Telemetry
from ledger import (
    LedgerError,
    Outcome,
    Overloaded,
    ShardStatus,
    SourceStatus,
    State,
    Status,
    Unavailable,
    Unknown,
)

pytestmark = pytest.mark.anyio

HOLD = {"lines": [{"sku": "SHOE", "quantity": 1, "location": "W1"}]}


@pytest.fixture
async def world() -> World:
    world = World()
    await world.stock()
    return world


def test_every_outcome_and_failure_has_its_row() -> None:
    assert set(get_args(Outcome)) | set(LedgerError.__subclasses__()) == set(ANSWERS)
    for row in ANSWERS.values():
        assert row.name is None or (row.status, row.retry) == (PROBLEMS[row.name].status, PROBLEMS[row.name].retry)
        assert (row.retry is None) == (row.status == 200)


def test_what_may_have_been_done_is_500_or_504_and_everything_else_was_surely_not() -> None:
    for kind in PROBLEMS.values():
        assert (kind.retry == "ask") == (kind.status in (500, 504))
        assert kind.status in (500, 504, 503) or 400 <= kind.status < 500


FAILURES: list[tuple[Callable[[], Exception], int, str, str | None]] = [
    (lambda: Overloaded("the queue is full", 1_500), 503, "overloaded", "2"),
    (lambda: Overloaded("the queue is full", 1), 503, "overloaded", "1"),
    (lambda: Unavailable("there is no ledger"), 503, "not-ready", "1"),
    (lambda: Unknown("the reply was lost"), 504, "unknown", None),
    (lambda: ValueError("secret of redis://:pw@host"), 500, "internal-error", None),
    (lambda: RecursionError("secret"), 500, "internal-error", None),
]
CALLS = [
    ("hold", "POST", "/v1/reservations", HOLD),
    ("read", "GET", "/v1/atp?sku=SHOE", None),
    ("find", "GET", "/v1/operations/k", None),
    ("locations", "GET", "/v1/locations", None),
    ("apply", "POST", "/v1/stock-events", {"events": [{"id": "E1", "source": "wms", "kind": "delta", "sku": "SHOE",
        "location": "W1", "quantity": 1, "occurred_at": "2026-11-23T10:00:00Z"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "method", "path", "body"), CALLS)
@pytest.mark.parametrize(("make", "status", "name", "retry_after"), FAILURES)
async def test_a_ledger_without_an_answer_is_told_honestly(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    method: str,
    path: str,
    body: Any,
    make: Callable[[], Exception],
    status: int,
    name: str,
    retry_after: str | None,
) -> None:
    async def fail(_operation: object) -> None:
        raise make()

    monkeypatch.setattr(world.ledger, verb, fail)
    if method == "GET" and name == "unknown":  # what only looks was not done, for sure
        status, name, retry_after = 503, "not-ready", "1"

    answer = await world.call(method, path, body)

    assert (status, f"/problems/{name}") == (answer.status_code, answer.json()["type"])
    assert retry_after == answer.headers.get("Retry-After")
    assert ("/v1/operations/" in answer.json()["detail"]) == (verb == "hold" and status >= 500 and status != 503)
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1", 404, "not-found"),
        ("GET", "/v1/atp/", 404, "not-found"),
        ("GET", "//v1/atp", 404, "not-found"),
        ("GET", "/V1/atp", 404, "not-found"),
        ("GET", "/v1/%61tp", 404, "not-found"),
        ("GET", "/v1/reservations/a/b/c", 404, "not-found"),
        ("GET", "/v1/reservations/batch", 405, "method-not-allowed"),
        ("PUT", "/v1/reservations", 405, "method-not-allowed"),
        ("DELETE", "/v1/reservations/x", 405, "method-not-allowed"),
        ("PATCH", "/v1/atp", 405, "method-not-allowed"),
        ("POST", "/health/live", 405, "method-not-allowed"),
        ("BREW", "/metrics", 405, "method-not-allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem_too(world: World, method: str, path: str, status: int, name: str) -> None:
    override = {"X-HTTP-Method-Override": "GET", "X-Original-URL": "/metrics"}
    answer = await world.raw_path(method, path, list(override.items()))

    assert (status, f"/problems/{name}") == (answer.status_code, answer.json()["type"])
    assert (status == 405) == ("Allow" in answer.headers)


async def test_paths_are_taken_as_they_are(world: World) -> None:
    for path in ("/v1/../metrics", "/./metrics", "/metrics/../metrics", "metrics", "*"):
        status = await world.asgi("GET", path, receive=asyncio.Event().wait)
        assert status == 404


async def test_a_host_header_decides_nothing(world: World) -> None:
    made = [("Authorization", f"Bearer {world.token}"), ("Host", "evil.example")]
    malformed = [("Authorization", f"Bearer {world.token}"), ("Host", "a b/<>")]

    assert (await world.request("GET", "/v1/atp?sku=SHOE", None, made)).status_code == 200
    answer = await world.request("GET", "/v1/atp?sku=SHOE", None, malformed)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")


async def test_no_answer_is_to_be_stored_or_sniffed(world: World) -> None:
    for path in ("/v1/atp?sku=SHOE", "/v1/atp", "/nothing"):
        answer = await world.call("GET", path)
        told = answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]
        assert told == ("no-store", "nosniff")


async def test_a_body_that_does_not_come_is_not_waited_for_forever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "BODY_TIMEOUT_S", 0.01)
    never = asyncio.Event()

    status = await world.asgi("POST", "/v1/atp", receive=never.wait)

    assert status == 408


async def test_for_a_client_that_left_half_way_nothing_is_done(world: World) -> None:
    before = world.everything()

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    status = await world.asgi("POST", "/v1/reservations", receive=gone)

    assert status == 400
    assert before == world.everything()
    assert 'outcome="gone",route="POST /v1/reservations"} 1.0' in world.api.telemetry.page().decode()


# --- health and figures ------------------------------------------------------------------------------------------


async def test_it_is_live_whatever_it_stands_on_and_ready_only_when_it_may_decide(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = await world.call("GET", "/health/ready")
    monkeypatch.setattr(world.ledger, "state", lambda: State(False, ["appendfsync is everysec"], 7))
    world.api.stopping = True
    not_ready = await world.call("GET", "/health/ready")
    live = await world.call("GET", "/health/live")

    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    reasons = ["appendfsync is everysec", "the process is stopping"]
    assert (503, reasons) == (not_ready.status_code, not_ready.json()["reasons"])
    assert not_ready.headers["Retry-After"]
    assert live.status_code == 200


async def test_what_is_read_while_it_is_not_ready_is_marked_stale(world: World) -> None:
    fresh = await world.call("GET", "/v1/atp?sku=SHOE")
    world.api.stopping = True
    stale = await world.call("GET", "/v1/atp?sku=SHOE")

    assert [answer.json()["stale"] for answer in (fresh, stale)] == [False, True]


async def test_a_ledger_that_refuses_changes_is_read_and_not_changed(world: World) -> None:
    """P9."""
    path = f"/v1/reservations/{(await world.hold())['id']}"
    world.refuse_changes("the ledger is behind its journal")
    before = world.everything()
    count = {"as_of": "2026-11-23T10:00:00Z", "lines": [{"sku": "SHOE", "quantity": 1}]}

    changing = [
        await world.call("POST", "/v1/reservations", HOLD),
        await world.call("POST", f"{path}/extend", {"ttl_seconds": 1}),
        await world.call("POST", f"{path}/commit", {"order_id": "O"}),
        await world.call("POST", f"{path}/release", {}),
        *[await world.call("POST", f"{path}/{verb}", {}) for verb in ("pick", "ship", "cancel", "return")],
        await world.call("POST", f"{path}/move", {"line": 1, "location": "W1"}),
        await world.call("POST", "/v1/stock-events", CALLS[-1][3]),
        await world.call("PUT", "/v1/locations/W1/counts/C1", count),
        await world.call("PUT", "/v1/locations/W1", {"type": "store"}),
    ]
    looking = [
        await world.call("GET", "/v1/atp?sku=SHOE"),
        await world.call("GET", path),
        await world.call("GET", "/v1/locations"),
    ]

    assert {(503, "/problems/not-ready", "the ledger is behind its journal")} == {
        (answer.status_code, answer.json()["type"], *answer.json()["reasons"]) for answer in changing
    }
    assert {200} == {answer.status_code for answer in looking}
    assert before == world.everything()


async def test_a_journal_that_has_stopped_is_told_while_it_goes_on(world: World) -> None:
    """P9: holds are refused when the stream is full; commits and releases are not, so balancers must go on."""
    shard = ShardStatus(0, 1, 10, 199_999, 1_500, False, 250, 1, 10, stopped_at="1-11")
    for backlog_entries, consequence in ((199_999, "from 200,000 on new holds"), (200_000, "wait, and new holds")):
        world.api.heard_of(Status([replace(shard, backlog_entries=backlog_entries)], [], 0, 0, 0))
        ready = await world.call("GET", "/health/ready", token="")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        [warning] = ready.json()["warnings"]
        assert "the journal of shard 0 has stopped at entry 1-11" in warning
        assert consequence in warning
    world.api.heard_of(Status([replace(shard, stopped_at=None)], [], 0, 0, 0))
    assert (await world.call("GET", "/health/ready", token="")).json() == {"status": "ready"}


async def test_figures_tell_requests_calls_queue_journal_feeds_and_quarantine(world: World) -> None:
    await world.hold()
    await world.call("POST", "/v1/reservations", {"lines": [{"sku": "SHOE", "quantity": 99, "location": "W1"}]})
    await world.call("GET", "/nothing/" + "x" * 99)
    world.api.telemetry.ledger_call(12, 0.002)
    shard = ShardStatus(0, 1, 10, 4, 1_500, False, 250, 1, 10)
    source = SourceStatus("wms", world.now_ms - 2_000, world.now_ms)
    world.api.telemetry.status(Status([shard], [source], 3, 0, 2), world.now_ms)

    answer = await world.call("GET", "/metrics", token="")
    page = answer.text.splitlines()

    for line in [
        'availability_requests_total{outcome="held",route="POST /v1/reservations"} 1.0',
        'availability_requests_total{outcome="insufficient-stock",route="POST /v1/reservations"} 1.0',
        'availability_requests_total{outcome="not-found",route="unmatched"} 1.0',
        "availability_overcommitted_positions 2.0",
        'availability_request_seconds_count{route="POST /v1/reservations"} 2.0',
        "availability_ledger_batch_operations_sum 12.0",
        "availability_ledger_call_seconds_sum 0.002",
        "availability_ledger_queue_depth 0.0",
        'availability_journal_lag_seconds{shard="0"} 1.5',
        'availability_journal_backlog_entries{shard="0"} 4.0',
        'availability_feed_lag_seconds{source="wms"} 2.0',
        "availability_quarantine_size 3.0",
    ]:
        assert line in page


async def test_sources_without_number_make_figures_with_number() -> None:
    """Their names come from outside: of those beyond a hundred, the one that is silent for longest is shown."""
    telemetry = Telemetry()
    sources = [SourceStatus(f"s-{number:04}", 5_000_000 - number, 0) for number in range(1_000)]
    telemetry.status(Status([], sources, 0, 0, 0), 5_000_000)
    lines = [
        line for line in telemetry.page().decode().splitlines() if line.startswith("availability_feed_lag_seconds{")
    ]

    assert len(lines) == 101
    assert 'availability_feed_lag_seconds{source="(others)"} 0.999' in lines


async def test_what_http_feeds_brought_is_noted_for_their_lag(world: World) -> None:
    await world.call("POST", "/v1/stock-events", CALLS[-1][3])

    assert world.api.edge.take_heard() == {"wms": 1_795_428_000_000}
    assert world.api.edge.take_heard() == {}


async def test_the_issuers_keys_are_shown(world: World) -> None:
    answer = await world.call("GET", "/.well-known/jwks.json", token="")

    assert {"keys": [world.issuer.jwk]} == answer.json()
