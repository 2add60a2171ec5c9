"""Each link is encrypted and its server verified when its URL says so, and never falls back to plain text (P10)."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import nats.errors
import pytest
from certificates import Authority, tls_before
from servers import RunningServer, as_user, nats_server, running

from availability import access
from availability.api.keyring import read_document
from availability.embedded import Server
from availability.feeds.connecting import connect
from availability.settings import Settings, SettingsError, load
from ledger import JOURNAL_FAILED, Expire, Expired, Ledger, Unavailable, migrate
from ledger.journal.stream import STREAM_FAILED, JournalStream

pytestmark = pytest.mark.anyio


@pytest.fixture
def right(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "right")


@pytest.fixture
def wrong(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "wrong")


def settings(authority: Authority, **more: str) -> Settings:
    """As a process reads them."""
    variables = {f"AVAILABILITY_{name.upper()}": value for name, value in more.items()}
    return load(None, {"AVAILABILITY_TLS_CA_FILE": str(authority.ca), **variables})


def port_of(url: str) -> int:
    return int(url.rpartition("@")[2].partition(":")[2].partition("/")[0])


async def expired(url: str) -> Expired:
    ledger = Ledger(url)
    try:
        return await ledger.expire(Expire())
    finally:
        await ledger.close()


async def test_the_ledger(valkey_url: str, right: Authority, wrong: Authority) -> None:
    """The library's calls go over a transport that our own protocol has taken over, TLS or not."""
    plain, journal = port_of(valkey_url), as_user(valkey_url, access.JOURNAL)
    async with tls_before(plain, right.context()) as port, tls_before(plain, right.context("127.0.0.2")) as other:

        def to(to_port: int, url: str = valkey_url) -> str:
            return url.replace("redis://", "rediss://").replace(str(plain), str(to_port))

        believed = settings(right, redis_url=to(port)).redis_url
        assert isinstance(await expired(believed), Expired)
        stream = JournalStream(settings(right, redis_url=to(port, journal)).redis_url, 0)
        assert await stream.read(1) == []
        await stream.close()
        for url in (
            settings(wrong, redis_url=to(port)).redis_url,
            settings(right, redis_url=to(other)).redis_url,
            settings(right, redis_url=to(plain)).redis_url,
            to(port),
            valkey_url.replace(str(plain), str(port)),
        ):
            with pytest.raises(Unavailable):
                await expired(url)
        deaf = JournalStream(settings(wrong, redis_url=to(port, journal)).redis_url, 0)
        with pytest.raises(STREAM_FAILED):
            await deaf.read(1)
        await deaf.close()


async def test_the_journal(postgres_url: str, right: Authority, wrong: Authority) -> None:
    plain = port_of(postgres_url)
    async with (
        tls_before(plain, right.context(), postgres=True) as port,
        tls_before(plain, right.context("127.0.0.2"), postgres=True) as other,
    ):

        def to(to_port: int, query: str = "?sslmode=verify-full") -> str:
            return postgres_url.replace(str(plain), str(to_port)) + query

        assert await migrate(settings(right, postgres_url=to(port)).postgres_url)
        for url in (
            settings(wrong, postgres_url=to(port)).postgres_url,
            settings(right, postgres_url=to(other)).postgres_url,
            settings(right, postgres_url=to(plain)).postgres_url,
            to(port, ""),
            to(port, "?sslmode=prefer"),
        ):
            with pytest.raises(JOURNAL_FAILED):
                await migrate(url)


@pytest.fixture
def shown(tmp_path: Path) -> list[dict[str, str]]:
    """What we show to a server that asks who we are: what it lets in, what somebody else signed, and nothing."""
    files = [Authority(tmp_path, name).issue("127.0.0.1") for name in ("clients", "strangers")]
    return [*({"tls_cert_file": str(certificate), "tls_key_file": str(key)} for certificate, key in files), {}]


@pytest.fixture
def clients(tmp_path: Path, shown: list[dict[str, str]]) -> Path:
    """The certificate of who signed the first of ``shown``."""
    assert shown
    return tmp_path / "clients.pem"


async def test_our_own_certificate_is_shown_to_the_ledger_and_the_journal(
    valkey_url: str, postgres_url: str, right: Authority, clients: Path, shown: list[dict[str, str]]
) -> None:
    redis, journal = port_of(valkey_url), port_of(postgres_url)
    context = right.context(clients=clients)
    async with tls_before(redis, context) as redis_port, tls_before(journal, context, postgres=True) as journal_port:
        redis_url = valkey_url.replace("redis://", "rediss://").replace(str(redis), str(redis_port))
        journal_url = postgres_url.replace(str(journal), str(journal_port)) + "?sslmode=verify-full"
        let_in, *others = (settings(right, redis_url=redis_url, postgres_url=journal_url, **each) for each in shown)
        assert isinstance(await expired(let_in.redis_url), Expired)
        assert await migrate(let_in.postgres_url)
        for other in others:
            with pytest.raises(Unavailable):
                await expired(other.redis_url)
            with pytest.raises(JOURNAL_FAILED):
                await migrate(other.postgres_url)


def test_our_own_certificate_is_shown_to_nats(
    tmp_path: Path, right: Authority, clients: Path, shown: list[dict[str, str]]
) -> None:
    certificate, key = right.issue("127.0.0.1")

    def make(folder: Path) -> Server:
        server = nats_server(folder)
        with (folder / "nats.conf").open("a") as config:
            config.write(
                f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{clients}", verify: true }}\n'
            )
        return server

    with running(make, tmp_path / "nats") as secure:
        url = as_user(secure.url, access.INGEST).replace("nats://", "tls://")
        assert [asyncio.run(connects(settings(right, nats_url=url, **each).nats_url)) for each in shown] == [
            True,
            False,
            False,
        ]


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca"])
def test_settings_that_could_fall_back_are_refused(mode: str) -> None:
    with pytest.raises(SettingsError, match=f"postgres_url: sslmode={mode}"):
        load(None, {"AVAILABILITY_POSTGRES_URL": f"postgresql://u:hidden@h/d?sslmode={mode}"})


def test_nats(nats_server_of_session: RunningServer, tmp_path: Path, right: Authority, wrong: Authority) -> None:
    certificate, key = right.issue("127.0.0.1")

    def make(folder: Path) -> object:
        server = nats_server(folder)
        with (folder / "nats.conf").open("a") as config:
            config.write(f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n')
        return server

    with running(make, tmp_path / "nats") as secure:  # type: ignore[arg-type]
        url = as_user(secure.url, access.INGEST).replace("nats://", "tls://")
        assert asyncio.run(connects(settings(right, nats_url=url).nats_url))
        assert not asyncio.run(connects(settings(wrong, nats_url=url).nats_url))
        assert not asyncio.run(connects(settings(right, nats_url=url.replace("127.0.0.1", "localhost")).nats_url))
    plain = as_user(nats_server_of_session.url, access.INGEST).replace("nats://", "tls://")
    assert not asyncio.run(connects(settings(right, nats_url=plain).nats_url))


async def connects(url: str) -> bool:
    async def quietly(_error: Exception) -> None:
        """Whether it connects is the answer."""

    try:
        async with asyncio.timeout(5):
            client = await connect(url, allow_reconnect=False, error_cb=quietly)
    except (OSError, nats.errors.Error):
        return False
    await client.close()
    return True


@contextmanager
def keys_served(authority: Authority) -> Iterator[str]:
    """The https address of a key set."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": []}).encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Keys)
    server.socket = authority.context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/jwks.json"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_keys_of_tokens(right: Authority, wrong: Authority) -> None:
    with keys_served(right) as url:
        assert read_document("", url, str(right.ca)) == b'{"keys": []}'
        for ca_file in (str(wrong.ca), ""):
            with pytest.raises(URLError, match="certificate"):
                read_document("", url, ca_file)
