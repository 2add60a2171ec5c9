"""Owns the search for reservations in Postgres: by order, customer, SKU, location and status, page by page."""

import asyncio
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, NamedTuple

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy
from msgspec import Struct

from ledger.journal import overcommitted
from ledger.journal.overcommitted import BadCursor, Claims, OvercommittedPage
from ledger.journal.postgres import now_ms, open_pool
from ledger.journal.records import START, Place
from ledger.messages import Reservation, ReservationStatus

TIMEOUT_S = 5.0
CANDIDATES_MIN = 200

_DECODER = msgspec.msgpack.Decoder(Reservation)
_CURSOR: Final = re.compile(rb"([0-9]{1,15}) ([\x21-\x7e]{1,128})\Z")

# A page is found by walking an index from its newest end until it is full, never by collecting all that fit: the
# index that the first given of order, customer, line and status leads to.
_OF_RESERVATIONS: Final = """
select shard, id, created_at_ms, body from availability.reservation as r
where client = $1 and (created_at_ms, id) < ($2, $3) {narrowed}
order by created_at_ms desc, id desc limit $4
"""
_OF_SKU_AT_LOCATION: Final = """
select r.shard, l.id, l.created_at_ms, r.body from availability.reservation_line as l {its_reservation}
where l.client = $1 and (l.created_at_ms, l.id) < ($2, $3) and l.sku = {sku} and l.location = {location}
order by l.created_at_ms desc, l.id desc limit $4
"""
# Each location that has lines of the SKU is looked up in the index, and the newest of each are put in order.
_OF_SKU: Final = """
with recursive place(location) as (
    (select location from availability.reservation_line where client = $1 and sku = {sku} order by location limit 1)
    union all
    select (
        select l.location from availability.reservation_line as l
        where l.client = $1 and l.sku = {sku} and l.location > place.location order by l.location limit 1
    ) from place where place.location is not null
)
select distinct on (created_at_ms, id) shard, id, created_at_ms, body from place cross join lateral (
    select r.shard, l.id, l.created_at_ms, r.body from availability.reservation_line as l {its_reservation}
    where l.client = $1 and (l.created_at_ms, l.id) < ($2, $3) and l.sku = {sku} and l.location = place.location
    order by l.created_at_ms desc, l.id desc limit $4
) as newest
order by created_at_ms desc, id desc limit $4
"""
_OF_LOCATION: Final = """
select distinct on (l.created_at_ms, l.id) r.shard, l.id, l.created_at_ms, r.body
from availability.reservation_line as l {its_reservation}
where l.client = $1 and (l.created_at_ms, l.id) < ($2, $3) and l.location = {location}
order by l.created_at_ms desc, l.id desc limit $4
"""
# The limit keeps the planner from beginning with the reservations instead of the lines.
_ITS_RESERVATION: Final = """
cross join lateral (
    select r.shard, r.body from availability.reservation as r
    where r.client = l.client and r.created_at_ms = l.created_at_ms and r.id = l.id {narrowed} limit 1
) as r
"""

_LAG: Final = """
select cursor.epoch, cursor.seq, search.epoch as search_epoch, search.seq as search_seq, search.at_ms,
    status.checked_at_ms - status.lag_ms as complete_until_ms
from availability.cursor
left join availability.search_cursor as search using (shard)
left join availability.journal_status as status using (shard)
where shard < $1
"""


class Filters(Struct, frozen=True, kw_only=True):
    """What a reservation must be to be found; all that are given. ``sku`` and ``location`` are of one line."""

    order_id: str | None = None
    customer: str | None = None
    sku: str | None = None
    location: str | None = None
    status: ReservationStatus | None = None


class FoundReservation(NamedTuple):
    """A reservation as its last journaled operation left it."""

    id: str
    shard: int
    reservation: Reservation


class ReservationPage(Struct, frozen=True):
    """Reservations, newest first. ``next`` leads to the page behind it; None on the last.

    Everything that the ledger did until ``as_of_ms`` is in the page, ``lag_ms`` before now; both are None when no
    journaler has ever looked.
    """

    reservations: list[FoundReservation]
    next: str | None
    as_of_ms: int | None
    lag_ms: int | None


class _At(NamedTuple):
    """Where a reservation stands in the order of a search."""

    created_at_ms: int
    id: str


_NEWEST: Final = _At(2**62, "")


@dataclass
class Reservations:
    """The search; made by ``open``. Every method raises one of ``FAILED`` when Postgres is away."""

    _pool: asyncpg.Pool
    _shards: int

    @classmethod
    async def open(cls, postgres_url: str, *, shards: int = 1) -> "Reservations":
        """Connect when first asked something. ``shards`` is how many the ledger has: a page is as new as the last."""
        return cls(await open_pool(postgres_url), shards)

    async def close(self) -> None:
        self._pool.terminate()

    async def search(
        self, client: str, filters: Filters, *, limit: int = 50, after: str | None = None
    ) -> ReservationPage:
        """The newest reservations of ``client`` that fit, at most ``limit``, behind the cursor ``after``.

        Raises ``BadCursor``, and ``TimeoutError`` when it takes longer than ``TIMEOUT_S``.
        """
        before = _NEWEST if after is None else _read_cursor(after)
        async with asyncio.timeout(TIMEOUT_S), self._pool.acquire() as connection:
            # Asked first: what comes in meanwhile makes the page newer than it says, never older.
            as_of_ms = _as_of_ms(await connection.fetch(_LAG, self._shards), self._shards)
            found = await _newest(connection, client, filters, before, limit + 1)
        page = found[:limit]
        more = len(found) > limit
        return ReservationPage(
            [FoundReservation(id_, shard, reservation) for shard, id_, reservation in page],
            _cursor(_At(page[-1][2].created_at_ms, page[-1][1])) if more else None,
            as_of_ms,
            None if as_of_ms is None else max(0, now_ms() - as_of_ms),
        )

    async def overcommitted(
        self, *, sku: str | None = None, location: str | None = None, limit: int = 20, after: str | None = None
    ) -> OvercommittedPage:
        """Overcommitted positions, at most ``limit``, behind the cursor ``after``; raises what ``search`` does."""
        async with (
            asyncio.timeout(TIMEOUT_S),
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            as_of_ms = _as_of_ms(await connection.fetch(_LAG, self._shards), self._shards)
            page, more = await overcommitted.positions(connection, sku, location, limit, after)
        return OvercommittedPage(page, more, as_of_ms, None if as_of_ms is None else max(0, now_ms() - as_of_ms))

    async def claims_at(self, sku: str, location: str) -> Claims:
        """Whose claims are at a position, newest first."""
        async with asyncio.timeout(TIMEOUT_S), self._pool.acquire() as connection:
            return await overcommitted.claims_at(connection, sku, location)

    async def reached(self, shard: int) -> Place:
        """How far the journal of the shard has been made searchable."""
        row = await self._pool.fetchrow("select epoch, seq from availability.search_cursor where shard = $1", shard)
        return START if row is None else Place(row["epoch"], row["seq"])


async def _newest(
    connection: PoolConnectionProxy, client: str, filters: Filters, before: _At, wanted: int
) -> list[tuple[int, str, Reservation]]:
    """Up to ``wanted`` reservations that fit, newest first.

    An order or a customer has few reservations, so the lines of these are looked at here.
    """
    query, values = query_of(filters)
    by_line = filters.sku is not None or filters.location is not None
    limit = max(wanted, CANDIDATES_MIN) if by_line else wanted
    found: list[tuple[int, str, Reservation]] = []
    while True:
        rows = await connection.fetch(query, client, before.created_at_ms, before.id, limit, *values)
        for row in rows:
            reservation = _DECODER.decode(row["body"])
            if not by_line or _has_line(reservation, filters):
                found.append((row["shard"], row["id"], reservation))
        if len(found) >= wanted or len(rows) < limit:
            return found[:wanted]
        before = _At(rows[-1]["created_at_ms"], rows[-1]["id"])


def query_of(filters: Filters) -> tuple[str, list[str]]:
    """The query for the candidates, and its values from the fifth on."""
    values: list[str] = []

    def value(text: str) -> str:
        values.append(text)
        return f"${4 + len(values)}"

    given = {"order_id": filters.order_id, "customer": filters.customer, "status": filters.status}
    narrowed = " ".join(f"and r.{name} = {value(text)}" for name, text in given.items() if text is not None)
    if filters.order_id is not None or filters.customer is not None:
        return _OF_RESERVATIONS.format(narrowed=narrowed), values
    its_reservation = _ITS_RESERVATION.format(narrowed=narrowed)
    if filters.sku is not None and filters.location is not None:
        sku, location = value(filters.sku), value(filters.location)
        return _OF_SKU_AT_LOCATION.format(its_reservation=its_reservation, sku=sku, location=location), values
    if filters.sku is not None:
        return _OF_SKU.format(its_reservation=its_reservation, sku=value(filters.sku)), values
    if filters.location is not None:
        return _OF_LOCATION.format(its_reservation=its_reservation, location=value(filters.location)), values
    return _OF_RESERVATIONS.format(narrowed=narrowed), values


def _has_line(reservation: Reservation, filters: Filters) -> bool:
    return any(
        filters.sku in (None, line.sku) and filters.location in (None, line.location) for line in reservation.lines
    )


def _as_of_ms(rows: list[asyncpg.Record], shards: int) -> int | None:
    """Until when everything of every shard can be found; None when that is not known of one."""
    if len(rows) < shards:
        return None
    until_ms: list[int] = []
    for row in rows:
        at_ms = row["at_ms"]
        if (row["epoch"], row["seq"]) == (row["search_epoch"], row["search_seq"]):
            # All that the journal has. When it was last looked at, nothing older than this was missing from it.
            at_ms = max(at_ms, row["complete_until_ms"] or 0)
        if not at_ms:
            return None
        until_ms.append(at_ms)
    return min(until_ms)


def _cursor(at: _At) -> str:
    return urlsafe_b64encode(f"{at.created_at_ms} {at.id}".encode()).decode().rstrip("=")


def _read_cursor(text: str) -> _At:
    try:
        told = _CURSOR.match(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError as error:
        raise BadCursor from error
    if told is None:
        raise BadCursor
    return _At(int(told[1]), told[2].decode())
