"""Owns the reading of one shard's stream in Valkey: in order, from any place, and its trimming behind a place."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ledger.errors import Unavailable
from ledger.journal import records
from ledger.journal.records import START, Place, RawEntry, Unreadable
from ledger.keys import journal_key
from ledger.placement import Placement

FIELD = b"e"
TAIL_ENTRIES = 1_000
"""Entries that stay in the stream behind the journal's cursor: what a new connection compares with the journal."""
BLOCK_MS = 500
SOCKET_TIMEOUT_S = 10.0
BATCH_BYTES = 4_000_000
BATCH_ENTRIES_MIN, BATCH_ENTRIES_MAX = 16, 4_096

STREAM_FAILED = (RedisError, OSError, TimeoutError, Unavailable)
"""The server is away, loading, refuses or has the shard no more; ask again later, with a new ``JournalStream``."""


@dataclass(frozen=True)
class StreamStatus:
    """What of the stream the journal has not got: how many entries, and the age of the oldest."""

    backlog_entries: int
    lag_ms: int
    ledger_behind: bool
    """The stream has never reached the journal's cursor: the ledger has lost entries."""
    is_stopped: bool = False
    """Nothing is journaled, because of a conflict that is not settled."""


class JournalStream:
    """The stream of one shard, read from ``position`` on. Methods raise one of ``STREAM_FAILED``."""

    def __init__(self, redis_url: str, shard: int) -> None:
        self.position = START
        self._key = journal_key(shard)
        self._batch_entries = BATCH_ENTRIES_MIN
        self._placement = Placement(redis_url, shard, SOCKET_TIMEOUT_S)
        self._found: Redis | None = None

    async def _client(self) -> Redis:
        """To the server that has the shard, looked for once."""
        if self._found is None:
            self._found = Redis.from_url(
                await self._placement.url(),
                retry=Retry(NoBackoff(), 0),
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=SOCKET_TIMEOUT_S,
            )
        return self._found

    async def close(self) -> None:
        if self._found is not None:
            await self._found.aclose()

    def rewind(self, cursor: Place) -> None:
        """Read on from a tail before the journal's cursor: what lies between is to be compared with the journal."""
        self.position = Place(cursor.epoch, max(0, cursor.seq - TAIL_ENTRIES))

    async def read(self, block_ms: int = BLOCK_MS) -> list[RawEntry]:
        """The next entries, about ``BATCH_BYTES`` of them at most; none when none came within ``block_ms``."""
        client = await self._client()
        answer: Any = await client.xread({self._key: str(self.position)}, count=self._batch_entries, block=block_ms)
        if not answer:
            return []
        [(_, items)] = answer
        entries = [_entry(item) for item in items]
        self.position = entries[-1].place
        size = sum(len(entry.body) for entry in entries) // len(entries) + 1
        self._batch_entries = min(max(BATCH_BYTES // size, BATCH_ENTRIES_MIN), BATCH_ENTRIES_MAX)
        return entries

    async def trim(self, cursor: Place) -> None:
        """Forget what lies more than a tail behind ``cursor``, which must be committed."""
        if cursor.seq > TAIL_ENTRIES:
            oldest_kept = Place(cursor.epoch, cursor.seq - TAIL_ENTRIES + 1)
            client = await self._client()
            await client.xtrim(self._key, minid=str(oldest_kept), approximate=True)

    async def status(self, cursor: Place) -> StreamStatus:
        """What the journal, which has come to ``cursor``, has not got yet."""
        client = await self._client()
        last: Any = await client.xrevrange(self._key, count=1)
        missing: Any = await client.xrange(self._key, min=f"({cursor}", count=1)
        newest = _entry(last[0]).place if last else START
        if not missing:
            return StreamStatus(0, 0, ledger_behind=newest < cursor)
        seconds, microseconds = await client.time()
        ledger_now_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
        try:
            at_ms = records.decode(*_entry(missing[0])).at_ms
        except Unreadable:
            at_ms = ledger_now_ms
        return StreamStatus(
            backlog_entries=max(1, newest.seq - cursor.seq if newest.epoch == cursor.epoch else newest.seq),
            lag_ms=max(0, ledger_now_ms - at_ms),
            ledger_behind=False,
        )


def _entry(item: tuple[bytes, dict[bytes, bytes]]) -> RawEntry:
    """An item of the stream as redis-py gives it; its own types name every protocol and decoding at once."""
    item_id, fields = item
    epoch, _, seq = item_id.partition(b"-")
    return RawEntry(Place(int(epoch), int(seq)), fields.get(FIELD, b""))
