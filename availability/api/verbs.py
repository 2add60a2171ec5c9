"""The verbs on a reservation, from its hold to its return: each an operation with a key of its own (DESIGN 9).

``pick``, ``ship``, ``cancel`` and ``return`` take one form, as the contract has one row for them: each of its fields is
checked and is part of the operation's fingerprint, also where it has no effect. ``disposition`` works on ``return``
alone; ``occurred_at`` on ``ship`` and ``return``, which move stock: the others move claims, at the ledger's own time.
"""

from typing import Final, TypeVar

from msgspec import Struct

from availability.api import examples, forms
from availability.api.answer import Answer
from availability.api.edge import Edge
from availability.api.endpoint import Call, Success, endpoint
from availability.api.outcomes import REPLAY_HEADERS, refusal, reservation_answer
from availability.api.problems import Fault, invalid
from availability.api.reading import given_fields, is_reservation_id
from availability.api.times import not_a_time
from availability.feeds.decoding import to_ms
from ledger import (
    Cancel,
    Commit,
    CommitOutcome,
    Done,
    Extend,
    Move,
    MoveOutcome,
    NotFound,
    Pick,
    Release,
    Return,
    Ship,
    fingerprint,
    operation_id,
)

Form = TypeVar("Form", bound=Struct)
Named = tuple[str, str, str, str]
"""The first four fields of an operation on a reservation: its id, fingerprint, client and reservation."""

_PROBLEMS: Final = ("not-found", "wrong-state", "operations-limit", "idempotency-key-reused")
_PROBLEMS_OF_HOLDS: Final = (*_PROBLEMS, "reservation-expired")


@endpoint(
    "POST",
    "/v1/reservations/{id}/extend",
    "reservations:write",
    summary="Let a hold live so many seconds from now.",
    keyed=True,
    body=forms.ExtendForm,
    body_example={"ttl_seconds": 900},
    success=Success("The reservation", examples.RESERVATION, headers=REPLAY_HEADERS),
    problems=_PROBLEMS_OF_HOLDS,
)
async def extend(edge: Edge, call: Call[forms.ExtendForm]) -> Answer:
    """Extend."""
    named = _named("extend", call)
    if isinstance(named, Answer):
        return named
    operation = Extend(*named, ttl_ms=call.form.ttl_seconds * 1_000)
    return _done("extended", operation.fingerprint, await edge.ledger.extend(operation))


@endpoint(
    "POST",
    "/v1/reservations/{id}/commit",
    "reservations:write",
    summary="Turn held units into an order's: those named, or all of them. `reacquire` claims the units of an expired "
    "hold again, if they are still there.",
    keyed=True,
    body=forms.CommitForm,
    body_example={"order_id": "ORDER-1001"},
    success=Success("The reservation", examples.COMMITTED, headers=REPLAY_HEADERS),
    problems=(*_PROBLEMS_OF_HOLDS, "insufficient-stock", "open-reservations-limit"),
)
async def commit(edge: Edge, call: Call[forms.CommitForm]) -> Answer:
    """Commit."""
    form = call.form
    named = _named("commit", call, _line_twice(form.lines))
    if isinstance(named, Answer):
        return named
    lines = forms.units_of_lines(form.lines)
    operation = Commit(*named, order_id=form.order_id, reacquire=form.reacquire, lines=lines)
    return _done("committed", operation.fingerprint, await edge.ledger.commit(operation))


@endpoint(
    "POST",
    "/v1/reservations/{id}/release",
    "reservations:write",
    summary="Give held units back: those named, or all of them.",
    keyed=True,
    body=forms.ReleaseForm,
    body_example={"lines": [{"line": 1, "quantity": 1}]},
    body_optional=True,
    success=Success("The reservation", examples.RELEASED, headers=REPLAY_HEADERS),
    problems=_PROBLEMS_OF_HOLDS,
)
async def release(edge: Edge, call: Call[forms.ReleaseForm]) -> Answer:
    """Release."""
    named = _named("release", call, _line_twice(call.form.lines))
    if isinstance(named, Answer):
        return named
    operation = Release(*named, lines=forms.units_of_lines(call.form.lines))
    return _done("released", operation.fingerprint, await edge.ledger.release(operation))


@endpoint(
    "POST",
    "/v1/reservations/{id}/pick",
    "reservations:write",
    summary="Committed units are taken from the shelf: those named, or all of them. `disposition` and `occurred_at` "
    "are accepted and have no effect.",
    keyed=True,
    body=forms.FulfilmentForm,
    body_example={"lines": [{"line": 1, "quantity": 1}]},
    body_optional=True,
    success=Success("The reservation", examples.PICKED, headers=REPLAY_HEADERS),
    problems=_PROBLEMS,
)
async def pick(edge: Edge, call: Call[forms.FulfilmentForm]) -> Answer:
    """Pick."""
    named = _named_fulfilment("pick", edge, call)
    if isinstance(named, Answer):
        return named
    operation = Pick(*named, lines=forms.units_of_lines(call.form.lines))
    return _done("picked", operation.fingerprint, await edge.ledger.pick(operation))


@endpoint(
    "POST",
    "/v1/reservations/{id}/ship",
    "reservations:write",
    summary="Units leave the building: picked ones first, then committed ones; those named, or all of them. "
    "`disposition` is accepted and has no effect.",
    keyed=True,
    body=forms.FulfilmentForm,
    body_example={"lines": [{"line": 1, "quantity": 1}], "occurred_at": "2026-11-23T10:00:00.000Z"},
    body_optional=True,
    success=Success("The reservation", examples.SHIPPED, headers=REPLAY_HEADERS),
    problems=_PROBLEMS,
)
async def ship(edge: Edge, call: Call[forms.FulfilmentForm]) -> Answer:
    """Ship."""
    named = _named_fulfilment("ship", edge, call)
    if isinstance(named, Answer):
        return named
    lines, occurred_at_ms = forms.units_of_lines(call.form.lines), _occurred_at_ms(call.form)
    operation = Ship(*named, lines=lines, occurred_at_ms=occurred_at_ms)
    return _done("shipped", operation.fingerprint, await edge.ledger.ship(operation))


@endpoint(
    "POST",
    "/v1/reservations/{id}/cancel",
    "reservations:write",
    summary="An order's units are given back before they ship: committed ones first, then picked ones; those named, or "
    "all of them. A hold is released, not cancelled. `disposition` and `occurred_at` are accepted and have no effect.",
    keyed=True,
    body=forms.FulfilmentForm,
    body_example={"lines": [{"line": 1, "quantity": 1}]},
    body_optional=True,
    success=Success("The reservation", examples.CANCELLED, headers=REPLAY_HEADERS),
    problems=_PROBLEMS,
)
async def cancel(edge: Edge, call: Call[forms.FulfilmentForm]) -> Answer:
    """Cancel."""
    named = _named_fulfilment("cancel", edge, call)
    if isinstance(named, Answer):
        return named
    operation = Cancel(*named, lines=forms.units_of_lines(call.form.lines))
    return _done("cancelled", operation.fingerprint, await edge.ledger.cancel(operation))


@endpoint(
    "POST",
    "/v1/reservations/{id}/return",
    "reservations:write",
    summary="Shipped units come back: those named, or all of them. `disposition` says where to: `sellable` (back on "
    "hand), `damaged`, `quality_hold`, or `discard` (nowhere).",
    keyed=True,
    body=forms.FulfilmentForm,
    body_example={"lines": [{"line": 1, "quantity": 1}], "disposition": "damaged"},
    body_optional=True,
    success=Success("The reservation", examples.RETURNED, headers=REPLAY_HEADERS),
    problems=_PROBLEMS,
)
async def return_(edge: Edge, call: Call[forms.FulfilmentForm]) -> Answer:
    """Return."""
    form = call.form
    named = _named_fulfilment("return", edge, call)
    if isinstance(named, Answer):
        return named
    lines, occurred_at_ms = forms.units_of_lines(form.lines), _occurred_at_ms(form)
    operation = Return(*named, lines=lines, disposition=form.disposition, occurred_at_ms=occurred_at_ms)
    return _done("returned", operation.fingerprint, await edge.ledger.return_(operation))


@endpoint(
    "POST",
    "/v1/reservations/{id}/move",
    "reservations:write",
    summary="Claim a line's held and committed units at another location instead, all of them or none. A line of which "
    "units were picked, shipped or returned stays where it is.",
    keyed=True,
    body=forms.MoveForm,
    body_example={"line": 1, "location": "STORE-7"},
    success=Success("The reservation", examples.RESERVATION, headers=REPLAY_HEADERS),
    problems=(*_PROBLEMS, "insufficient-stock", "unknown-location"),
)
async def move(edge: Edge, call: Call[forms.MoveForm]) -> Answer:
    """Move."""
    named = _named("move", call)
    if isinstance(named, Answer):
        return named
    operation = Move(*named, line=call.form.line, location=call.form.location)
    return _done("moved", operation.fingerprint, await edge.ledger.move(operation))


def _named(verb: str, call: Call[Form], *faults: Fault | None) -> Named | Answer:
    """How the operation is named, or its refusal for one of the ``faults`` or an id that is none."""
    found = [fault for fault in faults if fault is not None]
    if found:
        return invalid(*found)
    reservation_id, client = call.path["id"], call.principal.client
    if not is_reservation_id(reservation_id):
        return refusal(NotFound())
    told = fingerprint(f"{verb} {reservation_id}", given_fields(call.form))
    return operation_id(client, call.key), told, client, reservation_id


def _named_fulfilment(verb: str, edge: Edge, call: Call[forms.FulfilmentForm]) -> Named | Answer:
    not_then = not_a_time("occurred_at", _occurred_at_ms(call.form), edge.now_ms())
    return _named(verb, call, _line_twice(call.form.lines), not_then)


def _occurred_at_ms(form: forms.FulfilmentForm) -> int | None:
    return None if form.occurred_at is None else to_ms(form.occurred_at)


def _done(outcome_word: str, told: str, outcome: CommitOutcome | MoveOutcome) -> Answer:
    if isinstance(outcome, Done):
        return reservation_answer(200, outcome_word, outcome)
    return refusal(outcome, told)


def _line_twice(lines: list[forms.UnitsForm] | None) -> Fault | None:
    index = forms.twice([line.line for line in lines or []])
    return None if index is None else Fault(f"lines[{index}].line", "is given more than once")
