"""What a shard's link makes of answers: whole, in pieces, late, unasked, refused, cut off; and over TLS."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import hiredis
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.exceptions import AuthenticationError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as ConnectionLost
from waiting import wait_until

from ledger.link import Link
from ledger.placement import connection_to

pytestmark = pytest.mark.anyio

Said = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""How the server answers a call."""


def saying(*pieces: bytes) -> Said:
    """The pieces, each a packet of its own."""

    async def say(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return say


async def nothing(_writer: asyncio.StreamWriter) -> None:
    """No answer."""


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """The beginning of an answer, and no more."""
    writer.write(b"$5\r\nhe")
    writer.close()


class StandIn:
    """A server that greets a client as Valkey does, and then answers as it was told to."""

    def __init__(self) -> None:
        self.answers: list[Said] = []
        self.asked: list[list[bytes]] = []
        self.clients = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        words = hiredis.Reader()
        while data := await reader.read(65_536):
            words.feed(data)
            while (asked := words.gets()) is not False:
                if asked[0] == b"CLIENT":
                    writer.write(b"+OK\r\n")
                else:
                    self.asked.append(asked)
                    await self.answers.pop(0)(writer)
        self.clients -= 1
        writer.close()


@asynccontextmanager
async def linked(
    *answers: Said, timeout_s: float = 10.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Link, StandIn]]:
    """A link to a stand-in that answers so, call by call."""
    stand_in = StandIn()
    stand_in.answers = list(answers)
    server = await asyncio.start_server(stand_in.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    url = (
        f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none&ssl_check_hostname=false" if tls else f"redis://127.0.0.1:{port}"
    )
    connection = connection_to(url, "tests")
    await connection.connect()  # type: ignore[no-untyped-call]
    link = Link(connection, timeout_s)
    yield link, stand_in
    await link.close()
    server.close()
    await server.wait_closed()


async def test_words_go_as_they_are_and_an_answer_may_come_in_pieces() -> None:
    async with linked(saying(b"$5\r", b"\nhel", b"lo\r\n"), saying(b"*2\r\n:1\r\n$-1\r\n")) as (link, stand_in):
        assert await link.command("FCALL", "f", 2, b"\x00\xff") == b"hello"
        assert await link.command("GET", "") == [1, None]
    assert stand_in.asked == [[b"FCALL", b"f", b"2", b"\x00\xff"], [b"GET", b""]]


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        (b"-EPOCH 3\r\n", ResponseError, "EPOCH 3"),
        (b"-MOVED 7 127.0.0.1:7001\r\n", MovedError, "7 127.0.0.1:7001"),
        (b"-NOAUTH who are you\r\n", AuthenticationError, "who are you"),
    ],
    ids=["code of ours", "moved", "no login"],
)
async def test_a_refusal_is_the_clients_own_exception(said: bytes, kind: type[RedisError], text: str) -> None:
    """What the shard makes of each depends on its class and its text."""
    async with linked(saying(said), saying(b"+OK\r\n")) as (link, _):
        with pytest.raises(kind) as refused:
            await link.command("PING")
        assert type(refused.value) is kind
        assert str(refused.value) == text
        assert await link.command("PING") == b"OK"


@pytest.mark.parametrize("said", [hang_up, saying(b"?what\r\n"), saying(b"+OK\r\n+OK\r\n")])
async def test_what_is_no_answer_loses_the_connection(said: Said) -> None:
    """P1: an answer too many must never be taken for the next call's."""
    async with linked(said, saying(b"+OK\r\n")) as (link, stand_in):
        with pytest.raises(RedisError) as lost:
            await link.command("PING")
        assert not isinstance(lost.value, ResponseError)
        with pytest.raises(RedisError):
            await link.command("PING")
        assert len(stand_in.asked) == 1


async def test_what_nobody_asked_for_loses_the_connection() -> None:
    async with linked(saying(b"+OK\r\n"), saying(b"+OK\r\n")) as (link, stand_in):
        await link.command("PING")
        link.data_received(b"+late\r\n")
        with pytest.raises(ConnectionLost, match="unasked"):
            await link.command("PING")
        assert len(stand_in.asked) == 1


async def test_a_server_that_goes_while_nothing_is_under_way() -> None:
    async def last(writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK\r\n")
        writer.close()

    async with linked(last, saying(b"+OK\r\n")) as (link, stand_in):
        await link.command("PING")

        async def gone() -> bool:
            return link._lost is not None  # noqa: SLF001 nothing else shows it before the next call

        await wait_until(gone)
        with pytest.raises(ConnectionLost, match="closed"):
            await link.command("PING")
        assert len(stand_in.asked) == 1


async def test_a_late_answer_loses_the_connection() -> None:
    async with linked(nothing, saying(b"+OK\r\n"), timeout_s=0.05) as (link, _):
        with pytest.raises(TimeoutError):
            await link.command("PING")
        with pytest.raises(TimeoutError):
            await link.command("PING")


async def test_each_call_has_a_deadline_of_its_own() -> None:
    """The timer that an earlier call has set neither ends a later one too early nor lets it wait for ever."""
    async with linked(saying(b"+OK\r\n"), nothing, timeout_s=0.5) as (link, stand_in):
        await link.command("PING")
        call = asyncio.ensure_future(link.command("PING"))

        async def asked() -> bool:
            return len(stand_in.asked) == 2

        await wait_until(asked)
        assert link._watch is not None  # noqa: SLF001 it rings now, by hand
        link._watch.cancel()  # noqa: SLF001
        link._watch_deadline()  # noqa: SLF001
        assert link._answer is not None  # noqa: SLF001 it is still waited for
        with pytest.raises(TimeoutError, match="no answer in time"):
            await asyncio.wait_for(call, 5.0)


async def test_a_cancelled_call_loses_the_connection() -> None:
    """P1: its answer must never be taken for the next call's."""
    async with linked(nothing, saying(b"+OK\r\n")) as (link, stand_in):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await link.command("PING")
        with pytest.raises(ConnectionLost, match="cancelled"):
            await link.command("PING")
        assert len(stand_in.asked) == 1


async def test_closing_closes_at_the_server_too() -> None:
    async with linked(saying(b"+OK\r\n")) as (link, stand_in):
        await link.command("PING")
        await link.close()

        async def gone() -> bool:
            return stand_in.clients == 0

        await wait_until(gone)


@pytest.mark.parametrize("how", ["never opened", "closed here", "closed there"])
async def test_a_connection_that_is_lost_already_is_refused(how: str) -> None:
    stand_in = StandIn()
    stand_in.answers = [hang_up]
    server = await asyncio.start_server(stand_in.serve, "127.0.0.1", 0)
    connection = connection_to(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    if how != "never opened":
        await connection.connect()  # type: ignore[no-untyped-call]
    if how == "closed here":
        connection._writer.transport.close()  # type: ignore[union-attr]  # noqa: SLF001 as an error of it would
    if how == "closed there":
        await connection.send_command("PING")
        reader = connection._reader  # noqa: SLF001 so that it is known that the end has come
        assert reader is not None
        await reader.read()
    with pytest.raises(ConnectionLost):
        Link(connection, 1.0)
    await connection.disconnect(nowait=True)
    server.close()
    await server.wait_closed()


async def test_over_tls(tmp_path: Path) -> None:
    async with linked(saying(b"$5\r\nhello\r\n"), hang_up, tls=certified(tmp_path)) as (link, stand_in):
        assert await link.command("GET", "x" * 100_000) == b"hello"
        assert len(stand_in.asked[0][1]) == 100_000
        with pytest.raises(ConnectionLost):
            await link.command("PING")


def certified(folder: Path) -> ssl.SSLContext:
    """A server's, with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
