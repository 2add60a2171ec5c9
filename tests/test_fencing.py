"""Old writers are refused by epoch: who began before a rebuild and goes on after it changes nothing (P1, P7, P9)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import pytest
from ledgers import START_MS, Clock, Shop
from msgspec.structs import replace
from redis import Redis
from redis.exceptions import ResponseError
from servers import as_owner, as_user
from test_rehome import Shops
from waiting import wait_until

from availability import access
from ledger import Ledger, Unavailable
from ledger import messages as m
from ledger.keyspace import Keyspace
from ledger.shard import Limits, Shard
from ledger.state import FILLING

pytestmark = pytest.mark.anyio


class Gate:
    """A way to the server on which calls can be kept, as by a network that stands still, and let through later."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._server: asyncio.Server | None = None
        self.is_shut = False
        self.kept: list[tuple[asyncio.StreamWriter, bytes]] = []

    async def open(self) -> str:
        """The URL of the way."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return self._parts._replace(netloc=f"{self._parts.username}:{self._parts.password}@127.0.0.1:{port}").geturl()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()

    async def let_through(self) -> None:
        """Everything that was kept, in order."""
        self.is_shut = False
        for writer, data in self.kept:
            writer.write(data)
            await writer.drain()
        self.kept.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._parts.hostname is not None
        far_reader, far_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        await asyncio.gather(self._pump(reader, far_writer, keeps=True), self._pump(far_reader, writer, keeps=False))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keeps: bool) -> None:
        try:
            while data := await reader.read(65_536):
                if keeps and self.is_shut and b"FCALL" in data:
                    self.kept.append((writer, data))
                    continue
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the other side has gone
        finally:
            writer.close()


@pytest.fixture
async def shops(valkey_url: str, postgres_url: str) -> AsyncIterator[Shops]:
    shops = Shops(valkey_url, postgres_url, Clock())
    yield shops
    await shops.close()


@pytest.fixture
async def gate(valkey_url: str) -> AsyncIterator[Gate]:
    gate = Gate(valkey_url)
    yield gate
    await gate.close()


@pytest.mark.parametrize("calls_before", [0, 1])
async def test_a_call_from_before_a_rebuild_does_nothing_after_it(shops: Shops, gate: Gate, calls_before: int) -> None:
    """Its answer is "surely not done", and what has waited behind it is decided by the new generation."""
    shop = await shops.open(1)
    await shop.open()
    await shop.stock("A", 10, at_ms=START_MS)
    await shops.close()
    old_ledger = Ledger(await gate.open(), now_ms=shops.clock, timeout_ms=60_000, queue_wait_ms_max=60_000)
    old = Shop(old_ledger, shops.clock)
    for _ in range(calls_before):
        assert isinstance(await old.hold(("A", 1)), m.Done)
    gate.is_shut = True
    under_way = asyncio.ensure_future(old.hold(("A", 2), key="under way"))
    await wait_until(_truth(lambda: len(gate.kept) == 1))
    queued = asyncio.ensure_future(old.hold(("A", 3), key="queued"))

    await shops.fill(1, "rebuild")
    await gate.let_through()

    with pytest.raises(Unavailable, match="another generation of the ledger"):
        await under_way
    done = await queued
    assert (done.reservation.epoch, done.replayed) == (2, False)
    assert (await old.position("A")).held == 3 + calls_before
    assert isinstance(await old_ledger.find(m.Find(old.key("under way"), "web")), m.NotFound)
    assert (await old.hold(("A", 2), key="under way")).reservation.epoch == 2
    await old_ledger.close()


async def test_who_filled_the_ledger_under_an_older_epoch_changes_nothing(shops: Shops, valkey_url: str) -> None:
    """Somebody else has begun to fill it anew, or has done it, while this one stood still."""
    shop = await shops.open(1)
    await shop.open()
    await shop.stock("A", 10, at_ms=START_MS)
    await shops.fill(1, "rebuild")
    client = Redis.from_url(as_owner(valkey_url))
    operator = as_user(valkey_url, access.OPERATOR)
    keyspace = await Keyspace.open(operator, 0)
    before = _everything(client)
    with pytest.raises(ResponseError, match="EPOCH"):  # it is open
        await keyspace.clear(2, journal=True)
    with pytest.raises(ResponseError, match="EPOCH"):
        await keyspace.fence(shards=1, epoch=1)
    await keyspace.fence(shards=FILLING, epoch=3)
    with pytest.raises(ResponseError, match="EPOCH"):
        await keyspace.clear(2, journal=True)
    with pytest.raises(ResponseError, match="EPOCH"):
        await keyspace.fence(shards=1, epoch=2)
    older = _filler(operator, epoch=2)
    (answer,) = await older.send([m.Restore([replace(LOCATION, id="of before")], [], [], [])])
    assert isinstance(answer, Unavailable)
    await older.close()
    assert _everything(client) == before

    await keyspace.clear(3, journal=True)
    assert client.keys() == [b"{s0}:shard"]
    newer = _filler(operator, epoch=3)
    assert isinstance((await newer.send([m.Restore([LOCATION], [], [], [])]))[0], m.Restored)
    await newer.close()
    await keyspace.close()


LOCATION = m.Location("S1")


def _filler(url: str, epoch: int) -> Shard:
    return Shard(
        *(url, 0, Limits(1, 1, 5_000, 1, 1, FILLING)),
        now_ms=None,
        observe=lambda _operations, _seconds: None,
        refusal=lambda _shard, _run: None,
        epoch=epoch,
    )


def _everything(client: Redis) -> dict[bytes, object]:
    """Every key but the shard's own."""
    return {key: client.dump(key) for key in client.scan_iter() if key != b"{s0}:shard"}


def _truth(test: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return test()

    return answer
