"""The one way of stock events into the ledger, for NATS and HTTP alike: decode, apply, quarantine what must be."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec
from msgspec import Struct

from availability.feeds import decoding
from availability.feeds.decoding import EventDefaults, Undecodable, decode_event, location_of
from ledger import (
    JOURNAL_FAILED,
    Applied,
    Apply,
    EventOutcome,
    LedgerError,
    QuarantinedEvent,
    StockEvent,
    Unavailable,
    Unknown,
)

EVENTS_PER_APPLY: Final = 64
APPLIES_IN_FLIGHT: Final = 2
"""Together they bound how long the ledger is busy with one caller's events while holds wait for it: with 60,000 deltas
of 2,000 SKUs, 3 ms a call at 32, 6 ms at 64 and 19 ms at 256, all at 17,000 to 20,000 events/s (2 cores, shared)."""

TELLING_HEADERS: Final = ("content-type", "ce-")
"""How the names of those headers of a message begin that say what its body is."""

Transport = Literal["nats", "http"]

STORE_TIMEOUT_S: Final[dict[Transport, float]] = {"http": 2.0, "nats": 30.0}
"""How long the quarantine may take: somebody waits for the answer, or the stream has the events meanwhile."""


class Applies(Protocol):
    """The one verb of the ledger that is needed here."""

    async def apply(self, operation: Apply, /) -> Applied: ...


class Keeps(Protocol):
    """The quarantine: keeps events until a person has looked. Raises one of ``JOURNAL_FAILED`` when it cannot."""

    def store(self, events: list[QuarantinedEvent], /) -> Coroutine[Any, Any, None]: ...


class Message(Struct, frozen=True):
    """A whole message, as it came."""

    body: bytes
    headers: dict[str, str] | None = None


class Envelope(Struct, frozen=True, omit_defaults=True):
    """What the quarantine keeps besides bytes, so that they can be tried again just as they came."""

    headers: dict[str, str] | None = None
    """Of a whole message: the headers that tell how to read it."""
    told: EventDefaults | None = None
    """Of one event of several in a message: what the message says for the fields that the event leaves out."""


class RawEvent(Struct, frozen=True):
    """One event as it came, with what is known of it from outside."""

    raw: bytes | msgspec.Raw
    defaults: EventDefaults | None = None
    subject: str | None = None
    subject_source: str | None = None
    """The only source that may send on ``subject``."""
    received_at_ms: int | None = None
    """When the stream got it; None = now."""
    refused: Undecodable | None = None
    """Set when the message was already found wrong: ``raw`` is then all of its body."""
    message: Message | None = None
    """The message, when it has no other event."""


class Result(Struct, frozen=True, omit_defaults=True):
    """What became of one event, in the words of DESIGN 9; ``id`` is None when it could not be read."""

    id: str | None
    outcome: EventOutcome
    reason: str | None = None

    @property
    def waits(self) -> bool:
        """Whether it waits in quarantine.

        A snapshot of a source that is not believed does not: the ledger keeps it as that source's view, and a nightly
        one of everything would bury what somebody has to look at.
        """
        return self.outcome == "quarantined" and self.reason != "not-authoritative"


class Taken(Struct, frozen=True):
    """The results, one for each event in order, and when each source's newest event happened.

    ``numbers`` are the (source, sequence) of those that have one, in their order.
    """

    results: list[Result]
    newest_ms: dict[str, int]
    numbers: list[tuple[str, int]]


async def take_all(
    ledger: Applies,
    quarantine: Keeps,
    client: str,
    events: Sequence[RawEvent],
    transport: Transport,
    *,
    now_ms: int | None = None,
) -> Taken:
    """Apply the events, each judged by itself, and answer for each.

    What could not be applied is in quarantine when this returns. A ``LedgerError`` means what it says when nothing was
    applied yet, and is ``Unknown`` otherwise; sending the same events again is always right, since each has its id.
    """
    at_ms = decoding.now_ms() if now_ms is None else now_ms
    decoded = [
        event.refused or decode_event(event.raw, event.defaults, now_ms=at_ms, expected_source=event.subject_source)
        for event in events
    ]
    good = [event for event in decoded if isinstance(event, StockEvent)]
    applied = await _apply(ledger, client, good)
    answers = iter(applied)
    results: list[Result] = []
    refused: list[QuarantinedEvent] = []
    for event, found in zip(events, decoded, strict=True):
        if isinstance(found, StockEvent):
            result, detail = next(answers), ""
        else:
            result, detail = Result(found.id, "quarantined", found.reason), found.detail
        results.append(result)
        if result.waits:
            refused.append(_quarantined(event, found, result.reason, detail, client, transport, at_ms))
    if refused:
        try:
            await _in_time(quarantine.store(refused), STORE_TIMEOUT_S[transport])
        except JOURNAL_FAILED as error:
            failure = Unavailable("the quarantine cannot keep events now")
            raise (_partly(failure) if good else failure) from error
    numbers = [
        (event.source, event.sequence) for event in decoded if event.source is not None and event.sequence is not None
    ]
    return Taken(results, _newest(good), numbers)


async def _in_time(storing: Coroutine[Any, Any, None], seconds: float) -> None:
    """Raises TimeoutError after so long, whatever is still under way.

    A database that hangs would hold even a caller who is cancelled, for as long as it takes to tell it so.
    """
    task = asyncio.create_task(storing)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
        if not done:
            raise TimeoutError
        await task
    finally:
        task.cancel()


def locations_of(raws: Iterable[bytes | msgspec.Raw]) -> set[str]:
    """Every location that the events name, for callers that may touch only some of them."""
    return {location for raw in raws if (location := location_of(raw)) is not None}


async def _apply(ledger: Applies, client: str, events: list[StockEvent]) -> list[Result]:
    """The ledger's results in order; a few calls at a time, so that it has time for others between them."""
    results: list[Result] = []
    for start in range(0, len(events), EVENTS_PER_APPLY * APPLIES_IN_FLIGHT):
        parts = list(_parts(events[start : start + EVENTS_PER_APPLY * APPLIES_IN_FLIGHT]))
        answers = await asyncio.gather(*(ledger.apply(Apply(client, part)) for part in parts), return_exceptions=True)
        for part, answer in zip(parts, answers, strict=True):
            if isinstance(answer, BaseException):
                mixed = bool(results) or any(isinstance(other, Applied) for other in answers)
                raise _partly(answer) if mixed and isinstance(answer, LedgerError) else answer
            results += [
                Result(event.id, result.outcome, result.reason)
                for event, result in zip(part, answer.results, strict=True)
            ]
    return results


def _parts(events: list[StockEvent]) -> Iterator[list[StockEvent]]:
    for start in range(0, len(events), EVENTS_PER_APPLY):
        yield events[start : start + EVENTS_PER_APPLY]


def _partly(error: LedgerError) -> Unknown:
    """Some events are applied and some are not: only "unknown" is honest for the whole."""
    return Unknown(f"some of the events may have been applied, send them again: {error}")


def _quarantined(
    event: RawEvent,
    found: StockEvent | Undecodable,
    reason: str | None,
    detail: str,
    client: str,
    transport: Transport,
    at_ms: int,
) -> QuarantinedEvent:
    """The record for the quarantine; its source is the one that was allowed to send, where that is known.

    It keeps the whole message; of a message with several events only this one, or a long list would be kept many times.
    """
    envelope = _envelope_of(event, transport)
    return QuarantinedEvent(
        source=event.subject_source or found.source or client,
        event=found.id,
        reason=reason or "unknown",
        detail=detail,
        raw=bytes(event.raw) if event.message is None else event.message.body,
        transport=transport,
        subject=event.subject,
        received_at_ms=at_ms if event.received_at_ms is None else event.received_at_ms,
        envelope=None if envelope is None else msgspec.json.encode(envelope, order="sorted").decode(),
    )


def _envelope_of(event: RawEvent, transport: Transport) -> Envelope | None:
    """What the quarantine has to keep around the event's bytes; over HTTP there is nothing around them."""
    if transport == "http":
        return None
    if event.message is None:
        return Envelope(told=event.defaults or EventDefaults())
    headers = event.message.headers or {}
    telling = {name: value for name, value in headers.items() if name.lower().startswith(TELLING_HEADERS)}
    return Envelope(headers=telling) if telling else None


def _newest(events: list[StockEvent]) -> dict[str, int]:
    newest: dict[str, int] = {}
    for event in events:
        if event.occurred_at_ms > newest.get(event.source, -1):
            newest[event.source] = event.occurred_at_ms
    return newest
