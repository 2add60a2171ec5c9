"""A shard's keys as a whole, for who fills a ledger anew: its own record, the fence, emptying and counting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ledger.claims import Place as At
from ledger.deploying import load_into
from ledger.errors import Unavailable
from ledger.journal.records import Place
from ledger.keys import journal_key, shard_key, shard_tag, unescaped
from ledger.library import library
from ledger.messages import Position
from ledger.placement import Placement
from ledger.shard import PROCESS
from ledger.state import ShardRecord, shard_record

TIMEOUT_S = 30.0
PORTION = 1_000
KEYSPACE_FAILED = (RedisError, OSError, TimeoutError, Unavailable)
"""The server is away or refuses: what was under way can be begun again."""

_decode_position = msgspec.msgpack.Decoder(Position).decode


class Keyspace:
    """The keys of one shard; made by ``open``. Every method raises one of ``KEYSPACE_FAILED``."""

    def __init__(self, client: Redis, shard: int) -> None:
        self.shard = shard
        self._client = client

    @classmethod
    async def open(cls, redis_url: str, shard: int) -> Self:
        """On the server that has the shard, with the library there."""
        url = await Placement(redis_url, shard, TIMEOUT_S).url()
        await load_into(url)
        return cls.on(url, shard)

    @classmethod
    def on(cls, url: str, shard: int) -> Self:
        """On this very server, which may be a replica, and with the library as it is."""
        return cls(Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=TIMEOUT_S), shard)

    @classmethod
    @asynccontextmanager
    async def opened(cls, redis_url: str, shard: int) -> AsyncIterator[Self]:
        """For as long as the block lasts."""
        keyspace = await cls.open(redis_url, shard)
        try:
            yield keyspace
        finally:
            await keyspace.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def record(self) -> ShardRecord | None:
        """What the shard knows of itself; None where nothing was ever written."""
        packed: Any = await self._client.get(shard_key(self.shard))
        return shard_record(packed) if packed else None

    async def entry(self, place: Place) -> bytes | None:
        """The body of the entry at this place of the stream; None when the stream has none there."""
        found: Any = await self._client.xrange(journal_key(self.shard), str(place), str(place))
        return found[0][1][b"e"] if found else None

    async def fence(self, *, shards: int, epoch: int = 0, clock_ms: int = 0) -> ShardRecord:
        """Let only callers of so many ``shards`` use it from now on; the record as it was.

        A higher ``epoch`` begins its entries at 1; an older one than is in force is refused, and 0 leaves it as it is.
        The clock goes on from ``clock_ms`` at the earliest.
        """
        argument = msgspec.msgpack.encode((epoch, clock_ms, shards))
        packed: Any = await self._client.fcall(library().fence, 1, shard_key(self.shard), argument)
        return shard_record(packed)

    async def clear(self, epoch: int, *, journal: bool) -> None:
        """Remove every key but the shard's own record; the stream of its ``journal`` only if that is asked for.

        Refused unless the shard is being filled under this ``epoch``.
        """
        own = shard_key(self.shard).encode()
        kept = {own} | (set() if journal else {journal_key(self.shard).encode()})
        async for keys in self._scan("*"):
            if doomed := [key for key in keys if key not in kept]:
                await self._client.fcall(library().clear, 1 + len(doomed), own, *doomed, epoch)

    async def writers(self) -> list[str]:
        """The addresses of connections of processes that may change the ledger."""
        clients: Any = await self._client.client_list()
        return [client["addr"] for client in clients if client["name"] == PROCESS]

    async def unfinished(self, before_ms: int) -> int:
        """Reservations over several shards that the keeper is to look at before this time."""
        count: int = await self._client.zcount(f"{shard_tag(self.shard)}:spanning", "-inf", before_ms)
        return count

    async def records(self) -> int:
        """How many reservations and operations are known."""
        return len({key async for keys in self._scan("op:*") for key in keys})

    async def positions(self) -> AsyncIterator[tuple[At, Position]]:
        """Every position; one may come twice."""
        async for keys in self._scan("sku:*"):
            for key in keys:
                sku = unescaped(key.decode().split(":", 2)[2])
                fields: Any = await self._client.hgetall(key)
                for location, packed in fields.items():
                    yield At(sku, location.decode()), _decode_position(packed)

    async def _scan(self, kind: str) -> AsyncIterator[list[bytes]]:
        """The shard's keys of a kind, in portions. All of them have one slot, so they are on one server."""
        cursor = 0
        while True:
            keys: Any
            cursor, keys = await self._client.scan(cursor, match=f"{shard_tag(self.shard)}:{kind}", count=PORTION)
            if keys:
                yield keys
            if cursor == 0:
                return
