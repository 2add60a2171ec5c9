"""Owns the reading of a live shard as it is at one place of its journal: some keys and the shard's record, at once.

A portion is read in one transaction, which the server runs without anything in between. So what is read is exactly
what the entries up to the record's seq have left, however fast the ledger moves on. Nothing is ever written.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ledger.errors import Unavailable
from ledger.journal.records import START, Place
from ledger.keys import escaped, shard_key, shard_tag, unescaped
from ledger.placement import Placement
from ledger.state import ShardRecord, shard_record

TIMEOUT_S = 10.0
SCANNED = 2_000
"""Keys that the server looks at in one step of a scan, about."""
LIVE_FAILED = (RedisError, OSError, TimeoutError, Unavailable)
"""The server is away, loading, refuses or has the shard no more."""


class Reading(NamedTuple):
    """What some keys held at ``place``; ``found`` has each name that was asked for. ``now_ms`` is the ledger's clock.

    ``shards`` is the number that the shard's record tells, None where nothing or only an older version wrote.
    """

    place: Place
    now_ms: int
    shards: int | None
    found: dict[str, Any]


class LiveShard:
    """One shard, read only. Methods raise one of ``LIVE_FAILED``; the next call then looks for its server anew."""

    def __init__(self, redis_url: str, shard: int) -> None:
        """Connects to nothing yet."""
        self.shard = shard
        self._placement = Placement(redis_url, shard, TIMEOUT_S)
        self._tag = shard_tag(shard)
        self._found: Redis | None = None

    async def _client(self) -> Redis:
        """To the server that has the shard."""
        if self._found is None:
            url = await self._placement.url()
            self._found = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=TIMEOUT_S)
        return self._found

    async def close(self) -> None:
        """Drop the connection; another call makes a new one."""
        client, self._found = self._found, None
        if client is not None:
            await client.aclose()

    async def place(self) -> Reading:
        """How far it is now, with nothing found."""
        reading, _ = await self._at_once(lambda _asking: None)
        return reading

    async def skus(self, names: Sequence[str]) -> Reading:
        """Of each SKU its positions, packed, by location; none where it has none."""

        def ask(asking: Any) -> None:
            for name in names:
                asking.hgetall(self._key("sku", name))

        reading, answers = await self._at_once(ask)
        found = {
            name: {location.decode(): packed for location, packed in fields.items()}
            for name, fields in zip(names, answers, strict=True)
        }
        return reading._replace(found=found)

    async def records(self, ids: Sequence[str]) -> Reading:
        """Of each id its packed record, or None."""
        return await self._named("op", ids)

    async def clients(self, names: Sequence[str]) -> Reading:
        """Of each client its packed counts, or None."""
        return await self._named("client", names)

    async def hashes(self, keys: Sequence[str]) -> Reading:
        """Of each key, named as it stands there without the shard's tag, its packed fields; none where it is not."""

        def ask(asking: Any) -> None:
            for key in keys:
                asking.hgetall(f"{self._tag}:{key}")

        reading, answers = await self._at_once(ask)
        found = {
            key: {field.decode(): packed for field, packed in fields.items()}
            for key, fields in zip(keys, answers, strict=True)
        }
        return reading._replace(found=found)

    async def texts(self, keys: Sequence[str]) -> Reading:
        """Of each key, named likewise, its text, or None."""
        return await self._values(keys, [f"{self._tag}:{key}" for key in keys])

    async def names(self, kind: str) -> AsyncIterator[list[str]]:
        """The names of all keys of a kind (``sku``, ``op``, ``client``), in portions; one may come twice."""
        cursor = 0
        start = self._key(kind, "")
        skipped = len(start)
        while True:
            keys: Any
            async with self._asked() as client:
                cursor, keys = await client.scan(cursor, match=f"{start}*", count=SCANNED)
            yield [unescaped(key.decode()[skipped:]) for key in keys]
            if cursor == 0:
                return

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[Redis]:
        """The client; after a failure its connection is dropped."""
        try:
            yield await self._client()
        except LIVE_FAILED:
            await self.close()
            raise

    def _key(self, kind: str, name: str) -> str:
        return f"{self._tag}:{kind}:{escaped(name)}"

    async def _named(self, kind: str, names: Sequence[str]) -> Reading:
        return await self._values(names, [self._key(kind, name) for name in names])

    async def _values(self, names: Sequence[str], keys: list[str]) -> Reading:
        reading, (texts,) = await self._at_once(lambda asking: asking.mget(keys))
        return reading._replace(found=dict(zip(names, texts, strict=True)))

    async def _at_once(self, ask: Callable[[Any], object]) -> tuple[Reading, list[Any]]:
        """The shard's record, and the answers to what is asked, from one transaction."""
        async with self._asked() as client:
            asking = client.pipeline(transaction=True)
            asking.get(shard_key(self.shard))
            asking.time()
            ask(asking)
            packed, (seconds, microseconds), *answers = await asking.execute()
        record = shard_record(packed) if packed else ShardRecord(*START, 0)
        server_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
        place = Place(record.epoch, record.seq)
        return Reading(place, max(server_ms, record.clock_ms), record.shards, {}), answers
