"""Owns the JSON shapes that both HTTP answers and events show: a reservation, a position (DESIGN 9 and 10)."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from msgspec import Struct, structs

from ledger import ClaimedLine, Claims, Position, PositionAt, Reservation, ReservationLine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)


class LineJson(Struct, frozen=True):
    """A line of a reservation; the counts from ``held`` on add up to ``quantity``."""

    line: int
    sku: str
    quantity: int
    location: str
    promise_date: str
    requested: int
    held: int
    committed: int
    picked: int
    shipped: int
    released: int
    expired: int
    cancelled: int
    returned: int


class ReceiptJson(Struct, frozen=True):
    """Where the last operation on a reservation stands in the journal, and how safely."""

    shard: int
    epoch: int
    seq: int
    durability: str = "fsync"


class ReservationJson(Struct, frozen=True):
    """A reservation as clients see it."""

    id: str
    status: str
    expires_at: str
    order_id: str | None
    channel: str | None
    customer: str | None
    lines: list[LineJson]
    receipt: ReceiptJson


class LocationEntryJson(Struct, frozen=True):
    """One SKU at one location, as in the ``locations`` of an ATP answer; ``available`` is never below 0."""

    location: str
    available: int
    on_hand: int
    held: int
    committed: int
    picked: int
    safety_stock: int
    damaged: int
    quality_hold: int
    in_transit: int
    as_of: str | None
    age_ms: int | None
    stale: bool


class PositionJson(LocationEntryJson, frozen=True):
    """A position by itself: its entry in an ATP answer, and whose it is."""

    sku: str


class ClaimJson(Struct, frozen=True):
    """A line that claims units of an overcommitted position, and the reservation that it is of."""

    id: str
    client: str
    order_id: str | None
    status: str
    line: int
    held: int
    committed: int
    picked: int
    created_at: str


def claims_json(claims: Claims) -> list[ClaimJson]:
    """The claims as HTTP answers and events show them, newest first."""
    return [_claim_json(claimed) for claimed in claims.lines]


def _claim_json(claimed: ClaimedLine) -> ClaimJson:
    reservation, line = claimed.reservation, claimed.line
    return ClaimJson(
        id=claimed.id,
        client=reservation.client,
        order_id=reservation.order_id,
        status=reservation.status,
        line=claimed.number,
        held=line.held,
        committed=line.committed,
        picked=line.picked,
        created_at=time_text(reservation.created_at_ms),
    )


NO_TIME = "{} is no time: write it like 2026-11-24T12:00:00Z"


def ms_of_text(text: str) -> int:
    """A time with its zone, as people write it, in milliseconds; ``ValueError`` for anything else."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(text)
    return round((at - _EPOCH).total_seconds() * 1_000)


def time_text(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, as in ``2026-11-23T10:00:00.000Z``; ``at_ms`` from 0 to TIME_MS_MAX."""
    seconds, milliseconds = divmod(at_ms, 1_000)
    return f"{_second_text(seconds)}.{milliseconds:03}Z"


# What is told at once is mostly of the same seconds and days.
@lru_cache(4_096)
def _second_text(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds").removesuffix("+00:00")


as_of_text = lru_cache(16_384)(time_text)
"""The same for times that are told again and again: a position's, until the next event reaches it."""


@lru_cache(1_024)
def day_text(day: int) -> str:
    """``YYYY-MM-DD`` of a day counted since 1970."""
    return (_EPOCH_DAY + timedelta(days=day)).isoformat()


def reservation_json(reservation_id: str, shard: int, reservation: Reservation) -> ReservationJson:
    """The reservation as HTTP answers and events show it."""
    # By position: with the names, it is the dearest part of the answer to a hold.
    return ReservationJson(
        reservation_id,
        reservation.status,
        time_text(reservation.expires_at_ms),
        reservation.order_id,
        reservation.channel,
        reservation.customer,
        [_line_json(number, line) for number, line in zip(reservation.numbers, reservation.lines, strict=True)],
        ReceiptJson(shard, reservation.epoch, reservation.seq),
    )


def location_entry(entry: PositionAt, now_ms: int, stale_after_ms: int) -> LocationEntryJson:
    """The position as seen at ``now_ms``; one that no stock event ever reached is stale."""
    position = entry.position
    as_of_ms = position.as_of_ms
    age_ms = max(0, now_ms - as_of_ms) if as_of_ms > 0 else None
    return LocationEntryJson(
        entry.location,
        entry.left,
        position.on_hand,
        position.held,
        position.committed,
        position.picked,
        position.safety_stock,
        position.damaged,
        position.quality_hold,
        position.in_transit,
        as_of_text(as_of_ms) if as_of_ms > 0 else None,
        age_ms,
        age_ms is None or age_ms > stale_after_ms,
    )


def position_json(sku: str, location: str, position: Position, *, now_ms: int, stale_after_ms: int) -> PositionJson:
    """The position as the event ``availability.stock.changed`` shows it."""
    entry = location_entry(PositionAt(location, position), now_ms, stale_after_ms)
    return PositionJson(**structs.asdict(entry), sku=sku)


def _line_json(number: int, line: ReservationLine) -> LineJson:
    return LineJson(
        number,
        line.sku,
        line.quantity,
        line.location,
        day_text(line.promise_day),
        line.requested,
        line.held,
        line.committed,
        line.picked,
        line.shipped,
        line.released,
        line.expired,
        line.cancelled,
        line.returned,
    )
