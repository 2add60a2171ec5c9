"""Owns the quarantine: stock events that could not be applied, kept raw until somebody has dealt with them."""

from dataclasses import dataclass
from typing import Literal

import asyncpg
from msgspec import Struct

from ledger.journal.postgres import now_ms, open_pool

OWNER = "operations"
"""Who looks at an event unless somebody else is named."""

Transport = Literal["nats", "http"]
State = Literal["open", "replayed", "discarded"]


class QuarantinedEvent(Struct, frozen=True):
    """An event as it came: ``raw`` is the message's bytes, ``event`` the source's own id when it could be read.

    ``envelope`` is what the message said around ``raw``, in the words of whoever stored it, who also reads it.
    """

    source: str
    event: str | None
    reason: str
    detail: str
    raw: bytes
    transport: Transport
    subject: str | None
    received_at_ms: int
    owner: str = OWNER
    envelope: str | None = None


class QuarantineRow(Struct, frozen=True):
    """An event in quarantine; ``resolved_at_ms`` is when it was replayed or discarded."""

    id: int
    received_at_ms: int
    source: str
    event: str | None
    reason: str
    detail: str
    raw: bytes
    envelope: str | None
    transport: Transport
    subject: str | None
    owner: str
    state: State
    resolved_at_ms: int | None


@dataclass
class Quarantine:
    """The quarantine; made by ``open``. Every method raises one of ``JOURNAL_FAILED`` when Postgres is away."""

    _pool: asyncpg.Pool

    @classmethod
    async def open(cls, postgres_url: str) -> "Quarantine":
        """Connect when first asked something."""
        return cls(await open_pool(postgres_url))

    async def close(self) -> None:
        self._pool.terminate()

    async def store(self, events: list[QuarantinedEvent]) -> None:
        """Keep all of them, or raise and keep none; one that waits already, to the byte, is kept once."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.executemany(
                "insert into availability.quarantine"
                " (received_at_ms, source, event, reason, detail, raw, envelope, transport, subject, owner)"
                " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
                " on conflict (source, coalesce(event, ''), reason, md5(raw),"
                " (case when event is null then md5(coalesce(envelope, '')) else '' end))"
                " where state = 'open' do nothing",
                [
                    (
                        *(event.received_at_ms, _storable(event.source), _storable(event.event)),
                        *(_storable(event.reason), _storable(event.detail), event.raw, _storable(event.envelope)),
                        *(event.transport, _storable(event.subject), event.owner),
                    )
                    for event in events
                ],
            )

    async def newest(self, limit: int = 100, before: int | None = None) -> list[QuarantineRow]:
        """Open events, those that came last first; with ``before``, those with an id below it."""
        rows = await self._pool.fetch(
            "select * from availability.quarantine where state = 'open' and ($1::bigint is null or id < $1)"
            " order by id desc limit $2",
            *(before, limit),
        )
        return [QuarantineRow(**row) for row in rows]

    async def list(self, limit: int = 100, after: int = 0) -> list[QuarantineRow]:
        """Open events in the order in which they came, those with an id above ``after``."""
        rows = await self._pool.fetch(
            "select * from availability.quarantine where state = 'open' and id > $1 order by id limit $2",
            *(after, limit),
        )
        return [QuarantineRow(**row) for row in rows]

    async def get(self, event_id: int) -> QuarantineRow | None:
        """The event with this id, whatever its state."""
        row = await self._pool.fetchrow("select * from availability.quarantine where id = $1", event_id)
        return QuarantineRow(**row) if row else None

    async def discard(self, event_id: int) -> bool:
        """Settle an open event without applying it; false when it is not open."""
        return await self._resolve(event_id, "discarded")

    async def mark_replayed(self, event_id: int) -> bool:
        """Settle an open event that was applied after all; false when it is not open."""
        return await self._resolve(event_id, "replayed")

    async def still_refused(self, event_id: int, reason: str, detail: str) -> bool:
        """Note why an open event was refused when it was tried again; false when nothing had to be noted.

        That is when it is not open, or when the same bytes wait with this reason already.
        """
        try:
            noted = await self._pool.fetchval(
                "update availability.quarantine set reason = $1, detail = $2"
                " where id = $3 and state = 'open' returning true",
                *(_storable(reason), _storable(detail), event_id),
            )
        except asyncpg.UniqueViolationError:
            return False
        return bool(noted)

    async def size(self) -> int:
        """How many are open."""
        count: int = await self._pool.fetchval("select count(*) from availability.quarantine where state = 'open'")
        return count

    async def _resolve(self, event_id: int, state: State) -> bool:
        resolved = await self._pool.fetchval(
            "update availability.quarantine set state = $1, resolved_at_ms = $2"
            " where id = $3 and state = 'open' returning true",
            *(state, now_ms(), event_id),
        )
        return bool(resolved)


def _storable(text: str | None) -> str | None:
    """What can be told of a text that Postgres would refuse; the message itself is in ``raw``, unchanged."""
    if text is None:
        return None
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
