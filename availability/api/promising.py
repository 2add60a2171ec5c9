"""What can be promised of a SKU: the arithmetic of an ATP answer over positions, as pure functions (DESIGN 7 and 9)."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from availability.shapes import LocationEntryJson, as_of_text, day_text, location_entry, time_text
from ledger import ItemPositions, Position, PositionAt, StockStatus

MILLISECONDS_A_DAY: Final = 86_400_000
NO_POSITION: Final = Position(0, 0, 0, 0, 0, 0, 0, 0, 0)
"""What a location has of a SKU that no feed ever told it of."""


class ScheduleJson(Struct, frozen=True):
    """From this day on, so many."""

    date: str
    available: int


class AtpItem(Struct, frozen=True):
    """How many of a SKU can be promised, where and when."""

    sku: str
    channel: str | None
    available: int
    status: StockStatus
    quantity: int
    promisable: bool
    promise_date: str | None
    next_expiry: str | None
    as_of: str | None
    age_ms: int | None
    stale: bool
    locations: list[LocationEntryJson]
    schedule: list[ScheduleJson]


class Asked(Struct, frozen=True):
    """One item of an ATP question; no ``locations`` = those that the ledger found."""

    sku: str
    quantity: int
    locations: list[str]
    channel: str | None


class View(Struct, frozen=True):
    """From where an answer is given: the ledger's clock, and what counts as low and as stale."""

    now_ms: int
    low_stock: int
    stale_after_ms: int


def atp_item(asked: Asked, found: ItemPositions, view: View) -> AtpItem:
    """The answer for one item. A named location without a position is shown with zeros."""
    shown = found.positions
    if asked.locations:
        entries = {entry.location: entry for entry in shown}
        shown = [entries.get(location) or PositionAt(location, NO_POSITION) for location in asked.locations]
    now_ms, stale_after_ms = view.now_ms, view.stale_after_ms
    available, as_of_ms = 0, 0
    for entry in shown:
        available += entry.left
        as_of_ms = max(as_of_ms, entry.position.as_of_ms)
    age_ms = max(0, now_ms - as_of_ms) if as_of_ms else None
    today = day_text(now_ms // MILLISECONDS_A_DAY)
    promisable = available >= asked.quantity
    # By position: with the names, it is the dearest part of the answer.
    return AtpItem(
        asked.sku,
        asked.channel,
        available,
        stock_status(available, shown, view.low_stock) if found.known else "unknown",
        asked.quantity,
        promisable,
        today if promisable else None,
        None if found.next_expiry_ms is None else time_text(found.next_expiry_ms),
        as_of_text(as_of_ms) if as_of_ms else None,
        age_ms,
        age_ms is None or age_ms > stale_after_ms,
        [location_entry(entry, now_ms, stale_after_ms) for entry in shown],
        [ScheduleJson(today, available)],
    )


def stock_status(available: int, entries: Iterable[PositionAt], low_stock: int) -> StockStatus:
    """One word for a number, the same as in a refusal for want of stock (``ledger.rules``)."""
    if available > low_stock:
        return "in_stock"
    if available > 0:
        return "low"
    return "held_out" if any(entry.position.held > 0 for entry in entries) else "sold_out"
