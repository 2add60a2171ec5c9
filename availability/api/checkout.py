"""What checkout calls first: how many can be promised, and the holds on them (DESIGN 9)."""

from typing import Final

from msgspec import Struct

from availability.api import examples, forms
from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import LARGE_BODY_BYTES_MAX, Call, Success, endpoint
from availability.api.held import held_body
from availability.api.outcomes import REPLAY_HEADERS, refusal, reservation_answer
from availability.api.problems import Fault, invalid, problem
from availability.api.promising import Asked, AtpItem, View, atp_item
from availability.api.reading import given_fields, idempotency_key, is_reservation_id
from availability.api.times import past_day
from availability.shapes import ReservationJson, reservation_json
from ledger import (
    Done,
    Find,
    Found,
    Hold,
    HoldLine,
    HoldOutcome,
    NotFound,
    Positions,
    Read,
    ReadItem,
    fingerprint,
    operation_id,
)

_IN_THE_PAST: Final = Fault("by", "must not be in the past")


class AtpItems(Struct, frozen=True):
    """The answers, in the order of the questions."""

    items: list[AtpItem]


class OperationJson(Struct, frozen=True):
    """What was done under a key, and the reservation that it was done to, as it is now."""

    key: str
    operation: str
    reservation: ReservationJson


# --- available to promise ----------------------------------------------------------------------------------------


@endpoint(
    "GET",
    "/v1/atp",
    "atp:read",
    summary="How many of a SKU can be promised: over all enabled locations, or those named. A location that has no "
    "position of the SKU is answered with zeros.",
    query=forms.AtpQuery,
    shared=True,
    success=Success("What can be promised", examples.ATP_ITEM),
)
async def atp(edge: Edge, call: Call[forms.AtpQuery]) -> Answer:
    """One SKU."""
    asked = call.form
    if asked.by is not None and past_day(asked.by, edge.now_ms()):
        return invalid(_IN_THE_PAST)
    locations = list(dict.fromkeys(asked.location)) if len(asked.location) > 1 else asked.location
    found = await edge.ledger.read(Read([ReadItem(asked.sku, locations or None)]))
    (item,) = _items(edge, [Asked(asked.sku, asked.quantity, locations, asked.channel)], found)
    return ok(item)


@endpoint(
    "POST",
    "/v1/atp",
    "atp:read",
    summary="The same for many SKUs at once, answered in order.",
    body=forms.AtpForm,
    body_example={"items": [{"sku": "SHOE-42", "quantity": 2}, {"sku": "SHOE-43", "location": "STORE-7"}]},
    body_bytes_max=LARGE_BODY_BYTES_MAX,
    shared=True,
    success=Success("What can be promised of each", AtpItems([examples.ATP_ITEM])),
)
async def atp_many(edge: Edge, call: Call[forms.AtpForm]) -> Answer:
    """Many SKUs."""
    form = call.form
    if form.by is not None and past_day(form.by, edge.now_ms()):
        return invalid(_IN_THE_PAST)
    asked = [
        Asked(item.sku, item.quantity, [] if item.location is None else [item.location], form.channel)
        for item in form.items
    ]
    found = await edge.ledger.read(Read([ReadItem(item.sku, item.locations or None) for item in asked]))
    return ok(AtpItems(_items(edge, asked, found)))


def _items(edge: Edge, asked: list[Asked], found: Positions) -> list[AtpItem]:
    # What is read while the service is not ready is marked stale, whatever its age (P9).
    view = View(found.now_ms, edge.low_stock, edge.stale_after_ms if edge.ready() else -1)
    return [atp_item(item, positions, view) for item, positions in zip(asked, found.items, strict=True)]


# --- reservations ------------------------------------------------------------------------------------------------


@endpoint(
    "POST",
    "/v1/reservations",
    "reservations:write",
    summary="Hold units for a buyer, all lines or nothing (mode `all`), or what there is (mode `available`).",
    keyed=True,
    body=forms.HoldForm,
    body_example={"lines": [{"sku": "SHOE-42", "quantity": 2, "location": "STORE-7"}], "ttl_seconds": 600},
    success=Success("Held", examples.RESERVATION, 201, REPLAY_HEADERS),
    problems=(
        *("insufficient-stock", "open-reservations-limit", "held-units-limit"),
        *("unknown-sku", "unknown-location", "idempotency-key-reused"),
    ),
)
async def hold(edge: Edge, call: Call[forms.HoldForm]) -> Answer:
    """Hold."""
    form, client = call.form, call.principal.client
    operation = hold_operation(form, client, call.key)
    # A replay is answered as ever, even when its day has passed meanwhile.
    is_past = form.by is not None and past_day(form.by, edge.now_ms())
    if is_past and isinstance(await edge.ledger.find(Find(operation.id, client)), NotFound):
        return invalid(_IN_THE_PAST)
    return hold_answer(operation, await edge.ledger.hold(operation))


def hold_operation(form: forms.HoldForm, client: str, key: str) -> Hold:
    """What the ledger is asked to do for the client, under its key."""
    return Hold(
        id=operation_id(client, key),
        fingerprint=fingerprint("hold", given_fields(form, forms.HoldForm)),
        client=client,
        lines=[HoldLine(line.sku, line.quantity, line.location) for line in form.lines],
        ttl_ms=form.ttl_seconds * 1_000,
        mode=form.mode,
        channel=form.channel,
        customer=form.customer,
        strategy=form.strategy,
        max_splits=form.max_splits,
        near=None if form.near is None else (form.near.lat, form.near.lon),
    )


def hold_answer(operation: Hold, outcome: HoldOutcome) -> Answer:
    """What is told of its outcome."""
    if isinstance(outcome, Done):
        body = None if outcome.replayed else held_body(outcome)
        return reservation_answer(201, "held", outcome) if body is None else Answer(201, body, "held")
    return refusal(outcome, operation.fingerprint)


@endpoint(
    "GET",
    "/v1/reservations/{id}",
    "reservations:read",
    "reservations:write",
    summary="A reservation of this client, as it is now.",
    success=Success("The reservation", examples.RESERVATION),
    problems=("not-found",),
)
async def reservation(edge: Edge, call: Call[None]) -> Answer:
    """Look at one."""
    identity = call.path["id"]
    if is_reservation_id(identity):
        outcome = await edge.ledger.find(Find(identity, call.principal.client))
        if isinstance(outcome, Found) and outcome.id == identity and outcome.verb == "hold":
            return ok(reservation_json(identity, outcome.shard, outcome.reservation))
    return refusal(NotFound())


@endpoint(
    "GET",
    "/v1/operations/{key}",
    "reservations:read",
    "reservations:write",
    summary="What became of the operation that this client named `key`: after 500, 504 or a lost connection. "
    "404 = it was surely not done so far.",
    success=Success("It was done", OperationJson("cart-17-hold", "hold", examples.RESERVATION)),
    problems=("unknown-operation",),
)
async def operation(edge: Edge, call: Call[None]) -> Answer:
    """Settle an unknown."""
    key = idempotency_key(call.path["key"].encode())
    if key is None:
        return invalid(Fault("key", "must be 1..255 visible ASCII characters, percent-encoded in the path"))
    client = call.principal.client
    outcome = await edge.ledger.find(Find(operation_id(client, key), client))
    if isinstance(outcome, NotFound):
        return problem("unknown-operation", "nothing was done under this key so far; it is safe to try again with it")
    return ok(OperationJson(key, outcome.verb, reservation_json(outcome.id, outcome.shard, outcome.reservation)))
