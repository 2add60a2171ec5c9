"""A stock event's JSON (DESIGN 9) into a ``StockEvent``, and whatever is not one into an ``Undecodable``.

Nothing that a sender can write raises here: bytes that are no event come back as a value with the reason, so
that the caller can put them into quarantine and go on with the next event.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from ledger import STOCK_QUANTITY_MAX, TIME_MS_MAX, Bucket, Name, Reference, StockEvent, event_key

FUTURE_MAX_MS: Final = 300_000
"""How far ahead of our clock an event's own may be."""
SEQUENCE_MAX: Final = 2**53 - 1
EVENT_BYTES_MAX: Final = 16_384
"""No event is near this long; what is goes to quarantine unread."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DETAIL_LENGTH_MAX: Final = 300
_ID_LENGTH_MAX: Final = 128

Instant = Annotated[datetime, Meta(tz=True)]
Sequence53 = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
Quantity = Annotated[int, Meta(ge=-STOCK_QUANTITY_MAX, le=STOCK_QUANTITY_MAX)]
Text = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
LineNumber = Annotated[int, Meta(ge=1, le=1_000_000)]

UndecodableReason = Literal["invalid", "future", "unsupported", "source-mismatch", "gap"]


class EventDefaults(Struct, frozen=True, omit_defaults=True):
    """What the envelope of an event says, for the fields that the event itself leaves out."""

    id: str | None = None
    source: str | None = None
    occurred_at_ms: int | None = None
    sequence: int | None = None


_NOTHING_TOLD: Final = EventDefaults()


class Undecodable(Struct, frozen=True):
    """No event that the ledger could judge. ``id``, ``source`` and ``sequence`` are given when they could be read."""

    reason: UndecodableReason
    detail: str
    id: str | None = None
    source: str | None = None
    sequence: int | None = None


class _Reference(Struct, frozen=True, forbid_unknown_fields=True):
    reservation: Reference
    line: LineNumber | None = None


class _Event(Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["snapshot", "delta", "move", "supply"]
    sku: Name
    location: Name
    quantity: Quantity
    id: Reference | None = None
    source: Name | None = None
    bucket: Bucket = "on_hand"
    to_bucket: Bucket | None = None
    occurred_at: Instant | None = None
    sequence: Sequence53 | None = None
    reason: Text | None = None
    reference: _Reference | None = None
    reverses: Reference | None = None
    due: Text | None = None


class _Id(Struct):
    id: Reference


class _Source(Struct):
    source: Name


class _Sequence(Struct):
    sequence: Sequence53


class _Location(Struct):
    location: Name


_events: Final = msgspec.json.Decoder(_Event)
_ids: Final = msgspec.json.Decoder(_Id)
_sources: Final = msgspec.json.Decoder(_Source)
_sequences: Final = msgspec.json.Decoder(_Sequence)
_locations: Final = msgspec.json.Decoder(_Location)

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that a msgspec decoder raises for bytes that it cannot read."""


def decode_event(
    raw: bytes | msgspec.Raw, defaults: EventDefaults | None, *, now_ms: int, expected_source: str | None = None
) -> StockEvent | Undecodable:
    """Read one event at the time ``now_ms``; ``expected_source`` is the only source that it may then come from.

    A CloudEvent's own source is a URI; one that is not the expected source itself counts as a part of it
    (``wms:/dc/1``), which no sender outside ``stock.wms.>`` can claim to be.
    """
    if len(raw) > EVENT_BYTES_MAX:
        return Undecodable("invalid", f"longer than {EVENT_BYTES_MAX} bytes")
    try:
        event = _events.decode(raw)
    except UNREADABLE as error:
        return _unreadable(raw, defaults, clean(error))
    told = defaults or _NOTHING_TOLD
    identity = event.id or told.id
    source = event.source or _within(expected_source, told.source) or expected_source
    occurred_at_ms = told.occurred_at_ms if event.occurred_at is None else to_ms(event.occurred_at)
    if identity is None or source is None or occurred_at_ms is None:
        missing = "id" if identity is None else "source" if source is None else "occurred_at"
        return Undecodable("invalid", f"Object missing required field `{missing}`", identity, source)
    if len(identity) > _ID_LENGTH_MAX:
        return Undecodable("invalid", f"Expected `str` of length <= {_ID_LENGTH_MAX} - at `$.id`", None, source)
    refusal = _refusal(event, identity, source, occurred_at_ms, now_ms, expected_source)
    sequence = told.sequence if event.sequence is None else event.sequence
    if refusal is not None:
        return msgspec.structs.replace(refusal, sequence=sequence)
    assert event.kind != "supply"
    reference = event.reference
    return StockEvent(
        key=event_key(source, identity),
        source=source,
        id=identity,
        kind=event.kind,
        sku=event.sku,
        location=event.location,
        quantity=event.quantity,
        occurred_at_ms=occurred_at_ms,
        bucket=event.bucket,
        to_bucket=event.to_bucket,
        sequence=sequence,
        reason=event.reason,
        reference_reservation=None if reference is None else reference.reservation,
        reference_line=None if reference is None else reference.line,
        reverses=None if event.reverses is None else event_key(source, event.reverses),
    )


def _within(expected_source: str | None, told: str | None) -> str | None:
    if told is None or expected_source is None or told == expected_source:
        return told
    return f"{expected_source}:{told}"


def location_of(raw: bytes | msgspec.Raw) -> str | None:
    """The location that an event names, whatever else is right or wrong with it; None when it names none."""
    try:
        return _locations.decode(raw).location
    except UNREADABLE:
        return None


def now_ms() -> int:
    """This machine's clock, for telling what is too far ahead of it; the ledger has its own."""
    return time.time_ns() // 1_000_000


def to_ms(instant: datetime) -> int:
    """Whole milliseconds since 1970 UTC; below 0 before that, and beyond ``TIME_MS_MAX`` at the very end of time."""
    return (instant - _EPOCH) // _MILLISECOND


def clean(error: Exception) -> str:
    """What an error says, as short printable ASCII: it can quote the sender's own text, NUL included."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).encode("unicode_escape").decode("ascii")[:_DETAIL_LENGTH_MAX]


def _refusal(
    event: _Event, identity: str, source: str, occurred_at_ms: int, now_ms: int, expected_source: str | None
) -> Undecodable | None:
    """What is wrong with an event whose fields are each right by themselves; None = nothing."""
    if expected_source is not None and event.source not in (None, expected_source):
        return Undecodable("source-mismatch", f"the subject is of `{expected_source}`", identity, source)
    if event.kind == "supply":
        return Undecodable("unsupported", "supply is not taken yet", identity, source)
    if occurred_at_ms > now_ms + FUTURE_MAX_MS and occurred_at_ms <= TIME_MS_MAX:
        ahead_ms = occurred_at_ms - now_ms
        return Undecodable("future", f"occurred_at is {ahead_ms} ms ahead of our clock", identity, source)
    detail = _inconsistency(event, occurred_at_ms)
    return None if detail is None else Undecodable("invalid", detail, identity, source)


def _inconsistency(event: _Event, occurred_at_ms: int) -> str | None:
    if not 0 <= occurred_at_ms <= TIME_MS_MAX:
        return "Expected a year from 1970 to 9999 - at `$.occurred_at`"
    if event.kind != "delta" and event.quantity < 0:
        return f"Expected `int` >= 0 for a {event.kind} - at `$.quantity`"
    if event.due is not None:
        return "Only supply has a date - at `$.due`"
    if (event.kind == "move") != (event.to_bucket is not None):
        return "A move has a second bucket, and nothing else has - at `$.to_bucket`"
    if event.reverses is not None and event.reverses == event.id:
        return "Expected another event's id - at `$.reverses`"
    return "Expected another bucket than `$.bucket` - at `$.to_bucket`" if event.to_bucket == event.bucket else None


def _unreadable(raw: bytes | msgspec.Raw, defaults: EventDefaults | None, detail: str) -> Undecodable:
    """With the event's id and source, if these at least can be read."""
    told = defaults or _NOTHING_TOLD
    identity, source, sequence = told.id, told.source, told.sequence
    with suppress(*UNREADABLE):
        sequence = _sequences.decode(raw).sequence
    with suppress(*UNREADABLE):
        identity = _ids.decode(raw).id
    with suppress(*UNREADABLE):
        source = _sources.decode(raw).source
    return Undecodable("invalid", detail, identity, source, sequence)
