"""The process ``serve`` on real servers: it starts before them, stops cleanly, shares its port and bears bad HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from api_world import ALL_SCOPES, AUDIENCE, ISSUER, Issuer, text_of
from servers import postgres, running
from waiting import wait_until_plain

from availability.embedded import free_port
from ledger import migrate

ISSUER_OF_TEST = Issuer()
HOLD = b'{"lines":[{"sku":"SHOE","quantity":1,"location":"W1"}]}'


def authorization() -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, "sub": "web", "scope": ALL_SCOPES}
    return f"Bearer {ISSUER_OF_TEST.sign(claims)}"


class Serving:
    """An API process on a port of its own."""

    def __init__(self, folder: Path, redis_url: str, postgres_url: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.log = folder / f"serve-{time.monotonic_ns()}.log"
        (folder / "jwks.json").write_bytes(ISSUER_OF_TEST.jwks)
        settings = {
            "api_port": self.port,
            "redis_url": redis_url,
            "postgres_url": postgres_url,
            "jwks_file": folder / "jwks.json",
            "token_issuer": ISSUER,
        }
        environment = os.environ | {f"AVAILABILITY_{name.upper()}": str(value) for name, value in settings.items()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "availability", "serve"], env=environment, stdout=log, stderr=log
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": authorization()})
        wait_until_plain(self.is_live, 20.0)

    def is_live(self) -> bool:
        try:
            return self.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return False

    def is_ready(self) -> bool:
        return self.client.get("/health/ready").status_code == 200

    def hold(self, key: str) -> httpx.Response:
        return self.client.post(
            "/v1/reservations", content=HOLD, headers={"Idempotency-Key": key, "Content-Type": "application/json"}
        )

    def stock(self) -> None:
        """A location that has counted 100."""
        self.client.put("/v1/locations/W1", json={"type": "warehouse"}).raise_for_status()
        body = {"as_of": text_of(time.time_ns() // 1_000_000), "lines": [{"sku": "SHOE", "quantity": 100}]}
        self.client.put("/v1/locations/W1/counts/C1", json=body).raise_for_status()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10.0)


@contextmanager
def serving(folder: Path, redis_url: str, postgres_url: str, port: int | None = None) -> Iterator[Serving]:
    api = Serving(folder, redis_url, postgres_url, port)
    try:
        yield api
    finally:
        api.client.close()
        api.process.terminate()
        api.process.wait(20.0)


@pytest.fixture
def api(tmp_path: Path, valkey_url: str, postgres_url: str) -> Iterator[Serving]:
    """A ready API with stock."""
    asyncio.run(migrate(postgres_url))
    with serving(tmp_path, valkey_url, postgres_url) as api:
        wait_until_plain(api.is_ready)
        api.stock()
        yield api


def test_it_listens_before_its_servers_are_there_and_says_what_is_missing(tmp_path: Path) -> None:
    nowhere = free_port()
    with serving(
        tmp_path, f"redis://:pass-word@127.0.0.1:{nowhere}/0", f"postgresql://u:pass-word@127.0.0.1:{nowhere}/x"
    ) as api:
        ready = api.client.get("/health/ready")
        hold = api.hold("k1")

        assert (ready.status_code, hold.status_code) == (503, 503)
        assert ready.json()["reasons"]
        assert hold.headers["Retry-After"]
        assert "pass-word" not in ready.text + hold.text + api.log.read_text()


def test_what_is_under_way_is_answered_before_it_stops(api: Serving) -> None:
    idle, under_way = api.connect(), api.connect()
    head = (
        f"POST /v1/reservations HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization()}\r\nIdempotency-Key: last\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(HOLD)}\r\n\r\n"
    )
    under_way.sendall(head.encode() + HOLD[:10])
    # Its head was read once a later request on another connection is answered.
    assert api.client.get("/health/ready").status_code == 200
    api.process.send_signal(signal.SIGTERM)
    wait_until_plain(lambda: _refuses(api))
    under_way.sendall(HOLD[10:])
    answer = under_way.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 201 ")
    assert api.process.wait(20.0) == 0
    idle.close()
    under_way.close()


def _refuses(api: Serving) -> bool:
    try:
        api.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_several_processes_share_a_port(api: Serving, tmp_path: Path, valkey_url: str, postgres_url: str) -> None:
    with serving(tmp_path, valkey_url, postgres_url, api.port) as second:
        api.client.close()
        api.process.send_signal(signal.SIGKILL)
        api.process.wait(20.0)
        wait_until_plain(second.is_ready)

        assert second.hold("k1").status_code == 201


def test_a_ledger_behind_its_journal_is_not_changed(api: Serving, postgres_url: str) -> None:
    """P9: also when nobody has noticed yet that it is, because no journaler runs."""
    asyncio.run(_move_cursor(postgres_url, seq=1_000))
    wait_until_plain(lambda: not api.is_ready())
    refused, read = api.hold("k1"), api.client.get("/v1/atp?sku=SHOE")
    settled = api.client.get("/v1/operations/k0")
    said = api.client.get("/health/ready").json()["reasons"]
    asyncio.run(_move_cursor(postgres_url, seq=0))
    wait_until_plain(api.is_ready)

    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/not-ready")
    (reason,) = said
    assert reason.startswith("the ledger is behind its journal (at 1-2, the journal at 1-1000): ")
    assert "put the newest data folder of its Valkey back" in reason
    assert (read.status_code, read.json()["available"], read.json()["stale"]) == (200, 100, True)
    # Not 404, "surely not done": the operation may be among what the ledger has lost (P4).
    assert settled.status_code == 503
    assert api.hold("k1").status_code == 201
    assert api.client.get("/v1/operations/k0").status_code == 404


CURSOR = """
    insert into availability.cursor (shard, epoch, seq) values (0, 1, $1)
    on conflict (shard) do update set seq = excluded.seq
"""


async def _move_cursor(postgres_url: str, seq: int) -> None:
    """As if the journal had got so far."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(CURSOR, seq)
    await connection.close()


def test_without_postgres_at_the_start_it_reads_and_changes_nothing(
    tmp_path: Path, valkey_url: str, postgres_url: str, api: Serving
) -> None:
    """P9: who was there when the ledger was compared goes on, who was not waits."""
    server, _, database = postgres_url.rpartition("/")
    with serving(tmp_path, valkey_url, f"{server}/away-{database}") as late:
        wait_until_plain(lambda: "Postgres cannot be asked" in late.client.get("/health/ready").text)
        assert late.client.get("/v1/atp?sku=SHOE").json()["available"] == 100
        refused = late.hold("k1")
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/not-ready")
        assert api.hold("k1").status_code == 201


def test_when_postgres_goes_away_later_the_sale_goes_on(tmp_path: Path, valkey_url: str) -> None:
    """P9."""
    with running(postgres, tmp_path / "postgres") as own:
        asyncio.run(migrate(own.url))
        with serving(tmp_path, valkey_url, own.url) as api:
            wait_until_plain(api.is_ready)
            api.stock()
            own.kill()
            wait_until_plain(lambda: "cannot be asked" in api.log.read_text())
            assert api.hold("k1").status_code == 201
            assert api.is_ready()


def test_events_over_http_show_in_the_figures(api: Serving) -> None:
    event: dict[str, Any] = {
        "id": "E1",
        "source": "pos-7",
        "kind": "delta",
        "sku": "SHOE",
        "location": "W1",
        "quantity": -1,
        "occurred_at": text_of(time.time_ns() // 1_000_000),
    }
    answer = api.client.post("/v1/stock-events", json={"events": [event, event | {"id": "E2", "quantity": "x"}]})

    assert [result["outcome"] for result in answer.json()["results"]] == ["applied", "quarantined"]
    expected = ('availability_feed_lag_seconds{source="pos-7"}', "availability_quarantine_size 1.0")
    wait_until_plain(lambda: all(line in api.client.get("/metrics").text for line in expected))
    assert "availability_ledger_batch_operations_count" in api.client.get("/metrics").text


HOST = b"Host: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BAD_HTTP = {
    "bytes": b"\x00\x01\xff\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "200 headers": b"GET /v1/atp HTTP/1.1\r\n" + HOST + b"X: x\r\n" * 200 + b"\r\n",
    "a header of 1 MB": b"GET /v1/atp HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "two lengths": b"POST /v1/atp HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a negative length": b"POST /v1/atp HTTP/1.1\r\n" + HOST + b"Content-Length: -4\r\n\r\n",
    "a bad path": b"GET /v1/\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a bad chunk": b"POST /v1/atp HTTP/1.1\r\n"
    + HOST
    + b"Content-Type: application/json\r\nAuthorization: {token}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "10 MB": b"POST /v1/atp HTTP/1.1\r\n"
    + HOST
    + b"Content-Type: application/json\r\nAuthorization: {token}\r\nContent-Length: 10000000\r\n\r\n"
    + b"x" * 3_000_000,
    "a websocket": b"GET /v1/atp HTTP/1.1\r\n"
    + HOST
    + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n",
}


def test_bad_http_gets_4xx_or_a_closed_connection_and_harms_nobody(api: Serving) -> None:
    for name, request in BAD_HTTP.items():
        with api.connect() as connection:
            try:
                connection.sendall(request.replace(b"{token}", authorization().encode()))
                answer = connection.recv(65_536)
            except ConnectionError:
                answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (name, answer)
        assert api.client.get("/v1/atp?sku=SHOE").status_code == 200
    assert "Traceback" not in api.log.read_text()


@pytest.mark.parametrize("lengths", [(b"Content-Length: 4\r\n", CHUNKED), (CHUNKED, b"Content-Length: 4\r\n")])
def test_a_body_of_two_lengths_ends_with_its_chunks_and_the_connection_with_it(
    api: Serving, lengths: tuple[bytes, bytes]
) -> None:
    """The HTTP server goes by the chunks, and hides the other length from us; nothing after them is a request."""
    head = b"POST /v1/reservations HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    head += b"Authorization: %b\r\nIdempotency-Key: two\r\n%b%b\r\n" % (authorization().encode(), *lengths)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HOLD), HOLD)
    received = b""
    with api.connect() as connection:
        connection.sendall(head + body + b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n")
        while part := connection.recv(65_536):
            received += part
    assert received.startswith(b"HTTP/1.1 201")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in received
