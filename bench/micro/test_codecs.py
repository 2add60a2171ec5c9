"""What a request is turned into and back: the body, the key, the token, the wire, the answer; and a feed's event."""

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from availability import issuer
from availability.api import forms
from availability.api.outcomes import reservation_answer
from availability.api.reading import read_body
from availability.api.tokens import Keys, Principal, Tokens
from availability.app import Api
from availability.feeds.decoding import decode_event
from availability.settings import Settings
from bench.micro.shop import BATCH, CLIENT, HOT, PLACE, Shop
from ledger import (
    Done,
    Hold,
    HoldOutcome,
    Operation,
    Reservation,
    ReservationLine,
    RulesLedger,
    StockEvent,
    fingerprint,
    operation_id,
)

BODY = msgspec.json.encode({"lines": [{"sku": HOT, "quantity": 1, "location": PLACE}], "ttl_seconds": 900})
EVENT = msgspec.json.encode(
    {
        "id": "sale-1",
        "source": "pos",
        "kind": "delta",
        "sku": HOT,
        "location": PLACE,
        "quantity": -1,
        "occurred_at": "2026-11-23T12:00:00.000Z",
        "sequence": 17,
        "reason": "sale",
    }
)
LINE = ReservationLine(HOT, PLACE, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 20_775)
AUDIENCE = "availability"
EVENT_MS = 1_795_435_201_000
NOW_MS = 1_795_429_200_000
RESERVATION = Reservation(CLIENT, "call", NOW_MS, NOW_MS + 900_000, None, None, None, 1, 17, [], [LINE])
DONE = Done(replayed=False, id=operation_id(CLIENT, "key"), reservation=RESERVATION)


class AtOnce(RulesLedger):
    """Grants every hold without looking."""

    async def hold(self, operation: Operation) -> HoldOutcome:
        assert isinstance(operation, Hold)
        return msgspec.structs.replace(DONE, id=operation.id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an issuer's keys."""
    issuer.create_keys(tmp_path)
    return tmp_path


@pytest.fixture
def token(folder: Path) -> bytes:
    scopes = ["reservations:write"]
    return b"Bearer " + issuer.sign(folder, client=CLIENT, scopes=scopes, audience=AUDIENCE).encode()


def test_hold_body_to_form(benchmark: BenchmarkFixture) -> None:
    assert isinstance(benchmark(read_body, msgspec.json.Decoder(forms.HoldForm), BODY), forms.HoldForm)


def test_token_first_time(benchmark: BenchmarkFixture, folder: Path, token: bytes) -> None:
    tokens = Tokens(Keys(), issuer.ISSUER, AUDIENCE)
    tokens.keys.load(issuer.jwks_file(folder).read_bytes())

    def verify() -> object:
        tokens.forget()
        return tokens.authenticate(token)

    assert isinstance(benchmark(verify), Principal)


def test_token_again(benchmark: BenchmarkFixture, folder: Path, token: bytes) -> None:
    tokens = Tokens(Keys(), issuer.ISSUER, AUDIENCE)
    tokens.keys.load(issuer.jwks_file(folder).read_bytes())
    assert isinstance(benchmark(tokens.authenticate, token), Principal)


def test_hold_request(benchmark: BenchmarkFixture, runner: asyncio.Runner, folder: Path, token: bytes) -> None:
    """A request through the whole application, between the HTTP server and a ledger that grants at once; 64 a round."""
    api = Api(Settings(token_issuer=issuer.ISSUER), AtOnce(lambda: NOW_MS), cast(Any, None), cast(Any, None))
    api.tokens.keys.load(issuer.jwks_file(folder).read_bytes())
    path, fixed = "/v1/reservations", [(b"host", b"localhost"), (b"content-type", b"application/json")]
    length = (b"content-length", b"%d" % len(BODY))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "state": {},
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "headers": [*fixed, length, (b"authorization", token), (b"idempotency-key", b"cart-17-hold")],
    }
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    async def ask() -> None:
        for _ in range(BATCH):
            await api.asgi(cast(Any, dict(scope)), receive, send)

    benchmark.extra_info["operations"] = BATCH
    benchmark(lambda: runner.run(ask()))
    assert set(statuses) == {201}


def test_key_to_id(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(operation_id, CLIENT, "cart-17-hold")) == 24


def test_fingerprint(benchmark: BenchmarkFixture) -> None:
    fields = {"lines": msgspec.json.decode(BODY, type=forms.HoldForm).lines, "ttl_seconds": 900}
    assert benchmark(fingerprint, "hold", fields)


def test_hold_to_wire(benchmark: BenchmarkFixture) -> None:
    shop = Shop("redis://nowhere")
    holds = shop.holds(HOT)
    assert benchmark(msgspec.msgpack.Encoder().encode, holds)


def test_reservation_to_answer(benchmark: BenchmarkFixture) -> None:
    assert benchmark(reservation_answer, 201, "held", DONE).status == 201


def test_event_of_a_feed(benchmark: BenchmarkFixture) -> None:
    assert isinstance(benchmark(decode_event, EVENT, None, now_ms=EVENT_MS), StockEvent)
