"""What clients may send: one struct a body or query, each field bounded. Nothing unknown is let through."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from availability.feeds.decoding import SEQUENCE_MAX, Instant, Text
from ledger import (
    LINES_MAX,
    QUANTITY_MAX,
    STOCK_QUANTITY_MAX,
    Bucket,
    Disposition,
    Location,
    Mode,
    Name,
    Reference,
    ReservationStatus,
    Strategy,
    UnitsOfLine,
)

ITEMS_MAX = 500
RESERVATIONS_MAX = 256
SAFETY_STOCK_ITEMS_MAX = 500
EVENTS_MAX = 1_000
COUNT_LINES_MAX = 10_000
LOCATIONS_MAX = 200
PAGE_MAX = 100
PAGE = 50
OVERCOMMITTED_PAGE_MAX = 50
OVERCOMMITTED_PAGE = 20
TTL_SECONDS_MAX = 86_400
TTL_SECONDS = 600

Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
CountedQuantity = Annotated[int, Meta(ge=0, le=STOCK_QUANTITY_MAX)]
TtlSeconds = Annotated[int, Meta(ge=1, le=TTL_SECONDS_MAX)]
LineNumber = Annotated[int, Meta(ge=1, le=1_000_000)]
Key = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[!-~]+\Z")]
"""An Idempotency-Key as JSON has it: without the quotes that the header may have."""
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Title = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+\Z")]


class Form(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A body or a part of one. Defaults are left out when it is written, so that ``null`` and nothing are the same."""


class AtpQuery(Form, frozen=True):
    sku: Name
    location: Annotated[list[Name], Meta(max_length=LOCATIONS_MAX)] = []
    channel: Name | None = None
    quantity: Quantity = 1
    by: date | None = None


class AtpItemForm(Form, frozen=True):
    sku: Name
    location: Name | None = None
    quantity: Quantity = 1


class AtpForm(Form, frozen=True):
    items: Annotated[list[AtpItemForm], Meta(min_length=1, max_length=ITEMS_MAX)]
    channel: Name | None = None
    by: date | None = None


class HoldLineForm(Form, frozen=True):
    sku: Name
    quantity: Quantity
    location: Name | None = None


class Near(Form, frozen=True):
    lat: Latitude
    lon: Longitude


class HoldForm(Form, frozen=True):
    lines: Annotated[list[HoldLineForm], Meta(min_length=1, max_length=LINES_MAX)]
    channel: Name | None = None
    customer: Reference | None = None
    ttl_seconds: TtlSeconds = TTL_SECONDS
    mode: Mode = "all"
    strategy: Strategy = "priority"
    max_splits: Annotated[int, Meta(ge=0, le=LINES_MAX)] | None = None
    by: date | None = None
    near: Near | None = None


class SearchQuery(Form, frozen=True):
    order_id: Reference | None = None
    customer: Reference | None = None
    sku: Name | None = None
    location: Name | None = None
    status: ReservationStatus | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE
    after: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class OvercommittedQuery(Form, frozen=True):
    sku: Name | None = None
    location: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=OVERCOMMITTED_PAGE_MAX)] = OVERCOMMITTED_PAGE
    after: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class ViewsQuery(Form, frozen=True):
    sku: Name
    location: Name | None = None


class BatchItemForm(HoldForm, frozen=True, kw_only=True):
    """A hold that carries its key with it."""

    key: Key


class BatchShown(Form, frozen=True):
    """What the document says of ``BatchForm``."""

    reservations: Annotated[list[BatchItemForm], Meta(min_length=1, max_length=RESERVATIONS_MAX)]


class BatchForm(Form, frozen=True):
    """Each item is read by itself, so that a bad one stops no other."""

    reservations: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=RESERVATIONS_MAX)]


class UnitsForm(Form, frozen=True):
    line: LineNumber
    quantity: Quantity


UnitsForms = Annotated[list[UnitsForm], Meta(min_length=1, max_length=LINES_MAX)]


class ExtendForm(Form, frozen=True):
    ttl_seconds: TtlSeconds


class CommitForm(Form, frozen=True):
    order_id: Reference
    reacquire: bool = False
    lines: UnitsForms | None = None


class ReleaseForm(Form, frozen=True):
    lines: UnitsForms | None = None


class FulfilmentForm(Form, frozen=True):
    """Of pick, ship, cancel and return alike; ``availability.api.verbs`` says which field has an effect where."""

    lines: UnitsForms | None = None
    disposition: Disposition = "sellable"
    occurred_at: Instant | None = None


class MoveForm(Form, frozen=True):
    line: LineNumber
    location: Name


class EventReference(Form, frozen=True):
    """The line of a reservation that an event tells of."""

    reservation: Reference
    line: LineNumber | None = None


class StockEventForm(Form, frozen=True):
    """A stock event as the document shows it; ``availability.feeds.decoding`` reads it, here as from NATS."""

    id: Reference
    source: Name
    kind: Literal["snapshot", "delta", "move", "supply"]
    sku: Name
    location: Name
    quantity: Annotated[int, Meta(ge=-STOCK_QUANTITY_MAX, le=STOCK_QUANTITY_MAX)]
    occurred_at: Instant
    bucket: Bucket = "on_hand"
    to_bucket: Bucket | None = None
    sequence: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] | None = None
    reason: Text | None = None
    reference: EventReference | None = None
    reverses: Reference | None = None
    due: Text | None = None


class EventsShown(Form, frozen=True):
    """What the document says of ``EventsForm``."""

    events: Annotated[list[StockEventForm], Meta(min_length=1, max_length=EVENTS_MAX)]


class EventsForm(Form, frozen=True):
    """Each event is read by itself, so that a bad one stops no other."""

    events: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=EVENTS_MAX)]


class CountLine(Form, frozen=True):
    sku: Name
    quantity: CountedQuantity


class CountForm(Form, frozen=True):
    as_of: Instant
    lines: Annotated[list[CountLine], Meta(min_length=1, max_length=COUNT_LINES_MAX)]


class LocationForm(Form, frozen=True):
    type: Literal["warehouse", "store", "dropship"]
    name: Title | None = None
    authority: Name | None = None
    lat: Latitude | None = None
    lon: Longitude | None = None
    priority: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    enabled: bool = True

    def __post_init__(self) -> None:
        if (self.lat is None) != (self.lon is None):
            raise ValueError("lat and lon come together or not at all")

    def location(self, location: str) -> Location:
        """As the ledger keeps it."""
        return Location(location, self.name, self.type, self.authority, self.lat, self.lon, self.priority, self.enabled)


class SafetyStockItemForm(Form, frozen=True):
    sku: Name
    location: Name
    quantity: CountedQuantity


class SafetyStockForm(Form, frozen=True):
    items: Annotated[list[SafetyStockItemForm], Meta(min_length=1, max_length=SAFETY_STOCK_ITEMS_MAX)]


def units_of_lines(lines: list[UnitsForm] | None) -> list[UnitsOfLine] | None:
    """As the ledger takes them."""
    return None if lines is None else [UnitsOfLine(line.line, line.quantity) for line in lines]


def twice(values: Sequence[object]) -> int | None:
    """The index of the first value that was there before."""
    seen: set[object] = set()
    for index, value in enumerate(values):
        if value in seen:
            return index
        seen.add(value)
    return None
