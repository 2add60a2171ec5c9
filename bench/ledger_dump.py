"""Owns a ledger's content as digests, by key: what two ledgers are compared by, byte for byte, in little memory.

Not in it: what the receipts are (the entry that put a reservation back is another one), what passes in seconds, what
follows from the rest, and what ended more than a day before the ledger's clock, which no rebuild puts back.
"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from msgspec.structs import replace
from redis.asyncio import Redis

from ledger import Position, Reservation
from ledger.journal.fold import FORGOTTEN_AFTER_MS

PORTION: Final = 1_000
HASHES: Final = ("sku", "locations", "feed", "view", "overcommitted", "safety_stock")
VALUES: Final = ("client", "count")
LEFT_OUT: Final = ("lock", "spanning", "deadlines", "held", "journal", "shard", "rate")

_decode = msgspec.msgpack.decode
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Dump(NamedTuple):
    """A digest for each key, and how many keys of each kind there are; ``forgotten`` reservations ended long ago."""

    digests: dict[bytes, bytes]
    kinds: Counter[str]
    forgotten: int


async def dump(redis_url: str, ended_at_ms: dict[int, int]) -> Dump:
    """The first shard of a ledger; ``ended_at_ms`` has the time of each entry by its seq."""
    async with Redis.from_url(redis_url) as redis:
        return await _Dumping(redis, ended_at_ms).run()


async def times_of_entries(connection: asyncpg.Connection, epoch: int) -> dict[int, int]:
    """When each entry of the first shard's epoch was made, by its seq."""
    rows = await connection.fetch(
        "select seq, at_ms from availability.entry where shard = 0 and epoch = $1", epoch, timeout=300
    )
    return {row["seq"]: row["at_ms"] for row in rows}


class _Dumping:
    def __init__(self, redis: Redis, ended_at_ms: dict[int, int]) -> None:
        self._redis = redis
        self._ended_at_ms = ended_at_ms
        self._clock_ms = max(ended_at_ms.values())
        self._known: set[str] = set()
        self._forgotten = 0
        self._digests: dict[bytes, bytes] = {}
        self._kinds = Counter[str]()

    async def run(self) -> Dump:
        async for keys in self._scan():
            for kind in HASHES:
                for key in (key for key in keys if _kind(key) == kind):
                    fields: Any = await self._redis.hgetall(key)
                    self._note(key, kind, _fields(fields, Position if kind == "sku" else Any))
            for key in (key for key in keys if _kind(key) in VALUES):
                packed: Any = await self._redis.get(key)
                self._note(key, _kind(key), packed)
            strange = {_kind(key) for key in keys} - {*HASHES, *VALUES, *LEFT_OUT, "op"}
            assert not strange, strange
            await self._reservations([key for key in keys if _kind(key) == "op"])
        async for keys in self._scan("op:"):  # once it is known which reservations there are
            await self._operations(keys)
        return Dump(self._digests, self._kinds, self._forgotten)

    async def _scan(self, prefix: str = "") -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            keys: Any
            cursor, keys = await self._redis.scan(cursor, match=f"{{s0}}:{prefix}*", count=PORTION)
            if keys:
                yield keys
            if cursor == 0:
                return

    async def _reservations(self, keys: list[bytes]) -> None:
        for key, packed in await self._records(keys):
            if not _is_reservation(packed):
                continue
            reservation = _decode(packed, type=Reservation)
            is_live = reservation.status in ("held", "committed")
            ended_at_ms = self._clock_ms if is_live else self._ended_at_ms.get(reservation.seq, self._clock_ms)
            if ended_at_ms <= self._clock_ms - FORGOTTEN_AFTER_MS:
                self._forgotten += 1
                continue
            self._known.add(key.decode().rpartition(":")[2])
            self._note(key, "reservation", _encode(replace(reservation, epoch=0, seq=0)))

    async def _operations(self, keys: list[bytes]) -> None:
        for key, packed in await self._records(keys):
            if not _is_reservation(packed):
                _, _, _, reservation = record = _decode(packed)
                if reservation in self._known:
                    self._note(key, "operation", _encode(record))

    async def _records(self, keys: list[bytes]) -> list[tuple[bytes, bytes]]:
        found: Any = await self._redis.mget(keys) if keys else []
        return [(key, packed) for key, packed in zip(keys, found, strict=True) if packed is not None]

    def _note(self, key: bytes, kind: str, content: bytes | None) -> None:
        if content:
            self._kinds[kind] += key not in self._digests  # a scan may tell a key twice
            self._digests[key] = hashlib.blake2b(content, digest_size=16).digest()


def _kind(key: bytes) -> str:
    return key.split(b":", 2)[1].decode()


def _is_reservation(packed: bytes) -> bool:
    return packed[1:6] == b"\xa4hold" or packed[3:8] == b"\xa4hold"


def _fields(fields: dict[bytes, bytes], as_type: Any) -> bytes:
    """A hash's fields in one form: the script may pack what was put back otherwise."""
    if not fields:
        return b""
    return _encode({name.decode(): _decode(value, type=as_type) for name, value in fields.items()})
