"""What stock feeds call over HTTP: events in lists, and a person's counts (DESIGN 9)."""

from msgspec import Struct

from availability.api import examples, forms
from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import LARGE_BODY_BYTES_MAX, Call, Success, endpoint
from availability.api.outcomes import refusal
from availability.api.problems import Fault, invalid, problem
from availability.api.reading import given_fields, path_name
from availability.api.times import not_a_time
from availability.api.tokens import Principal
from availability.feeds.decoding import to_ms
from availability.feeds.intake import RawEvent, Result, locations_of, take_all
from ledger import Count, Counted, EventOutcome, EventResult, Name, StockEvent, UnknownLocation, event_key, fingerprint


class EventResults(Struct, frozen=True):
    """A result for each event, in order."""

    results: list[Result]


class CountResult(Struct, frozen=True):
    """What became of a line of a count: the position's on-hand after and before it."""

    sku: str
    outcome: EventOutcome
    on_hand: int
    previous: int


class CountResults(Struct, frozen=True):
    """A result for each line, in order."""

    count_id: str
    results: list[CountResult]


@endpoint(
    "POST",
    "/v1/stock-events",
    "stock:write",
    summary="Facts about stock, each judged by itself: what cannot be applied is quarantined and stops no other. "
    "Events have ids: sending one again is harmless.",
    body=forms.EventsForm,
    body_example={"events": [examples.STOCK_EVENT]},
    body_shown=forms.EventsShown,
    body_bytes_max=LARGE_BODY_BYTES_MAX,
    success=Success(
        "What became of each",
        EventResults([Result("E-1", "applied"), Result("E-2", "quarantined", "unknown-location")]),
    ),
)
async def stock_events(edge: Edge, call: Call[forms.EventsForm]) -> Answer:
    """Take events."""
    raws = call.form.events
    if (refused := _elsewhere(call.principal, locations_of(raws))) is not None:
        return refused
    events = [RawEvent(raw) for raw in raws]
    taken = await take_all(edge.ledger, edge.quarantine, call.principal.client, events, "http", now_ms=edge.now_ms())
    edge.heard(taken.newest_ms)
    return ok(EventResults(taken.results), "taken")


@endpoint(
    "PUT",
    "/v1/locations/{location}/counts/{count_id}",
    "stock:write",
    summary="A person's count of some SKUs at a location; it is always believed. The same `count_id` again is a "
    "duplicate.",
    body=forms.CountForm,
    body_example={"as_of": "2026-11-23T06:00:00.000Z", "lines": [{"sku": "SHOE-42", "quantity": 12}]},
    body_bytes_max=LARGE_BODY_BYTES_MAX,
    success=Success("What became of each line", CountResults("MONDAY", [CountResult("SHOE-42", "applied", 12, 14)])),
    problems=("not-found", "idempotency-key-reused"),
)
async def count(edge: Edge, call: Call[forms.CountForm]) -> Answer:
    """Take a count."""
    form, client = call.form, call.principal.client
    names = path_name(call.path, "location", Name), path_name(call.path, "count_id", Name)
    faults = [name for name in names if isinstance(name, Fault)]
    as_of_ms = to_ms(form.as_of)
    faults += [fault for fault in (not_a_time("as_of", as_of_ms, edge.now_ms()), _sku_twice(form)) if fault is not None]
    if faults:
        return invalid(*faults)
    location, count_id = call.path["location"], call.path["count_id"]
    if (refused := _elsewhere(call.principal, {location})) is not None:
        return refused
    told = fingerprint(f"count {location} {count_id}", given_fields(form))
    events = [_snapshot(client, location, count_id, as_of_ms, line) for line in form.lines]
    outcome = await edge.ledger.count(Count(told, client, location, count_id, events))
    if isinstance(outcome, UnknownLocation):
        return problem("not-found", "there is no such location; PUT /v1/locations/{id} makes it")
    if not isinstance(outcome, Counted):
        return refusal(outcome, told)
    pairs = zip(form.lines, outcome.results, strict=True)
    results = CountResults(count_id, [_result(line, result) for line, result in pairs])
    return ok(results, "replayed" if outcome.replayed else "counted")


def _snapshot(client: str, location: str, count_id: str, as_of_ms: int, line: forms.CountLine) -> StockEvent:
    # NUL is in no name: no other event, and no other count, has this key.
    key = event_key(client, f"count\0{location}\0{count_id}\0{line.sku}")
    return StockEvent(key, client, f"{count_id}:{line.sku}", "snapshot", line.sku, location, line.quantity, as_of_ms)


def _result(line: forms.CountLine, result: EventResult) -> CountResult:
    return CountResult(line.sku, result.outcome, result.on_hand, result.previous)


def _sku_twice(form: forms.CountForm) -> Fault | None:
    index = forms.twice([line.sku for line in form.lines])
    return None if index is None else Fault(f"lines[{index}].sku", "is given more than once")


def _elsewhere(principal: Principal, locations: set[str]) -> Answer | None:
    """403 for the whole request when the token does not reach all of its locations."""
    if principal.locations is None or locations <= principal.locations:
        return None
    return problem("forbidden", "the request touches a location that the token is not for; nothing of it was done")
