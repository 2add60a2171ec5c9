"""Owns what of a shard's journal is still to be announced: entries behind the outbox's cursor, for one announcer."""

import asyncpg

from ledger.journal import records
from ledger.journal.derived import take_cursor
from ledger.journal.postgres import let_go
from ledger.journal.records import Place
from ledger.messages import JournalEntry

OUTBOX_LOCK = 0x6F75_7462
"""The class of the advisory locks that make a shard's announcer the only one ("outb")."""


class CursorMoved(Exception):
    """Somebody has set the cursor, so that entries are announced again: make a new ``Outbox``."""


class Outbox:
    """The outbox of one shard; made by ``open``. Methods raise one of ``FAILED``, or ``CursorMoved``.

    Then make a new one.
    """

    def __init__(self, connection: asyncpg.Connection, shard: int, cursor: Place) -> None:
        self.shard = shard
        self.cursor = cursor
        self._connection = connection

    @classmethod
    async def open(cls, postgres_url: str, shard: int) -> "Outbox":
        """Wait until no other announcer has the shard, then take it."""
        connection, cursor = await take_cursor(postgres_url, "outbox_cursor", OUTBOX_LOCK, shard)
        return cls(connection, shard, cursor)

    async def close(self) -> None:
        """Let go of the shard; safe after any failure."""
        await let_go(self._connection)

    async def take(self, entries_max: int, after: Place) -> tuple[list[JournalEntry], Place]:
        """The entries behind ``after``, and the place to pass to ``done`` once they are announced.

        Unreadable entries are passed over: they are among the rejects.
        """
        rows = await self._connection.fetch(
            "select epoch, seq, body from availability.entry"
            " where shard = $1 and (epoch, seq) > ($2, $3) order by epoch, seq limit $4",
            *(self.shard, after.epoch, after.seq, entries_max),
        )
        if not rows:
            await self._move(self.cursor)
        entries: list[JournalEntry] = []
        place = after
        for row in rows:
            place = Place(row["epoch"], row["seq"])
            try:
                entries.append(records.decode(place, row["body"]))
            except records.Unreadable:
                continue
        return entries, place

    async def done(self, place: Place) -> None:
        """Everything up to ``place`` was announced and acknowledged."""
        await self._move(place)
        self.cursor = place

    async def _move(self, place: Place) -> None:
        """From where it was left; nothing is written when that is ``place``."""
        if place == self.cursor:
            sql = "select true from availability.outbox_cursor where shard = $3 and (epoch, seq) = ($1, $2)"
            is_there = await self._connection.fetchval(sql, *place, self.shard)
        else:
            is_there = await self._connection.fetchval(
                "update availability.outbox_cursor set epoch = $1, seq = $2"
                " where shard = $3 and (epoch, seq) = ($4, $5) returning true",
                *(*place, self.shard, *self.cursor),
            )
        if not is_there:
            raise CursorMoved(f"the outbox of shard {self.shard} is not at {self.cursor} any more")
