"""Owns the questions about overcommitted positions in Postgres: which there are, and whose claims are there."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

import msgspec
from asyncpg.pool import PoolConnectionProxy
from msgspec import Struct

from ledger.messages import Reservation, ReservationLine

CLAIMS_MAX = 100
"""Lines of a position that are told; how many reservations there are is told anyway."""

_DECODER = msgspec.msgpack.Decoder(Reservation)

_CLAIMS = """
select l.id, r.body from availability.claimed_line as l cross join lateral (
    select r.body from availability.reservation as r
    where r.client = l.client and r.created_at_ms = l.created_at_ms and r.id = l.id limit 1
) as r
where l.sku = $1 and l.location = $2 order by l.created_at_ms desc, l.id desc limit $3
"""
_TOTAL = "select count(*) from availability.claimed_line where sku = $1 and location = $2"
_PAGE = """
select sku, location, quantity, since_ms from availability.overcommitted
where ($1::text is null or sku = $1) and ($2::text is null or location = $2)
    and ($3::bigint is null or (since_ms, sku, location) < ($3, $4::text collate "C", $5::text collate "C"))
order by since_ms desc, sku desc, location desc limit $6
"""


class BadCursor(Exception):
    """A text that no page gave as its ``next``."""


class ClaimedLine(NamedTuple):
    """A line, counted from 1, with units that are held, committed or picked, of the reservation ``id``."""

    id: str
    reservation: Reservation
    number: int
    line: ReservationLine


class Claims(NamedTuple):
    """Whose claims are at a position: the newest lines, and how many reservations there are in all."""

    lines: list[ClaimedLine]
    reservations: int


class OvercommittedPosition(NamedTuple):
    """A position that is short of ``quantity`` units for its claims."""

    sku: str
    location: str
    quantity: int
    since_ms: int
    claims: Claims


class OvercommittedPage(Struct, frozen=True):
    """Overcommitted positions, the latest first; the rest as in ``ReservationPage``."""

    positions: list[OvercommittedPosition]
    next: str | None
    as_of_ms: int | None
    lag_ms: int | None


async def claims_at(connection: PoolConnectionProxy, sku: str, location: str) -> Claims:
    """The claims at a position, newest first, as the search has them."""
    rows = await connection.fetch(_CLAIMS, sku, location, CLAIMS_MAX)
    lines = [
        ClaimedLine(row["id"], reservation, number, line)
        for row in rows
        for reservation in (_DECODER.decode(row["body"]),)
        for number, line in enumerate(reservation.lines, 1)
        if (line.sku, line.location) == (sku, location) and (line.held or line.committed or line.picked)
    ]
    return Claims(lines[:CLAIMS_MAX], await connection.fetchval(_TOTAL, sku, location))


async def positions(
    connection: PoolConnectionProxy, sku: str | None, location: str | None, limit: int, after: str | None
) -> tuple[list[OvercommittedPosition], str | None]:
    """Up to ``limit`` of them behind the cursor ``after``, and the cursor of the rest; ``BadCursor`` if it is none."""
    before = (None, None, None) if after is None else _read_cursor(after)
    rows = await connection.fetch(_PAGE, sku, location, *before, limit + 1)
    page = [
        OvercommittedPosition(
            row["sku"],
            row["location"],
            row["quantity"],
            row["since_ms"],
            await claims_at(connection, row["sku"], row["location"]),
        )
        for row in rows[:limit]
    ]
    return page, _cursor(page[-1]) if len(rows) > limit else None


def _cursor(last: OvercommittedPosition) -> str:
    told = msgspec.json.encode((last.since_ms, last.sku, last.location))
    return urlsafe_b64encode(told).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[int, str, str]:
    try:
        told = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        since_ms, sku, location = msgspec.json.decode(told, type=tuple[int, str, str])
    except (ValueError, msgspec.DecodeError) as error:
        raise BadCursor from error
    if "\0" in sku + location or abs(since_ms) >= 2**63:
        raise BadCursor
    return since_ms, sku, location
