"""Every problem that the API can answer with (RFC 9457): its name, status, members, and whether trying again helps."""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from availability.api.answer import PROBLEM_JSON, Answer
from ledger import ReservationStatus, StockStatus

Retry = Annotated[
    Literal["never", "later", "ask"],
    Meta(
        description="`never`: this request will not be accepted as it is. `later`: it was surely not done, and may be "
        "accepted later. `ask`: it was done or not; `GET /v1/operations/{key}` tells, or send it again with its key."
    ),
]


class Problem(Struct, frozen=True, kw_only=True):
    type: Annotated[str, Meta(description="`/problems/` and the problem's name")]
    title: str
    status: int
    detail: str
    retry: Retry


class Fault(Struct, frozen=True):
    """What is wrong in a request: where, and which rule it breaks."""

    field: Annotated[str, Meta(description="a path as in `lines[0].quantity`, a header's name, or `body`")]
    rule: str


class InvalidRequest(Problem, frozen=True, kw_only=True):
    errors: list[Fault]


class KeyReusedProblem(Problem, frozen=True, kw_only=True):
    errors: list[Fault]


class ShortLineJson(Struct, frozen=True):
    """A line that could not be granted, and what was left for it."""

    line: int
    sku: str
    location: str | None
    requested: int
    available: int
    status: StockStatus


class InsufficientStock(Problem, frozen=True, kw_only=True):
    lines: list[ShortLineJson]


class UnknownSkuProblem(Problem, frozen=True, kw_only=True):
    line: int
    sku: str


class UnknownLocationProblem(Problem, frozen=True, kw_only=True):
    line: int
    location: str


class WrongStateProblem(Problem, frozen=True, kw_only=True):
    reservation_status: ReservationStatus
    allowed: Annotated[list[str], Meta(description="the verbs that the reservation would take now")]


class ReservationExpiredProblem(Problem, frozen=True, kw_only=True):
    expired_at: str


class LimitProblem(Problem, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(description="how many there may be")]
    current: Annotated[int, Meta(description="how many there are")]


class TooLarge(Problem, frozen=True, kw_only=True):
    maximum_bytes: Annotated[int, Meta(description="the most that is taken here")]


class NotReady(Problem, frozen=True, kw_only=True):
    reasons: list[str]


class Kind(Struct, frozen=True):
    """A problem as it is declared; ``example`` are the members of its example beyond the common ones."""

    status: int
    title: str
    retry: Retry
    body: Callable[..., Problem] = Problem
    example: dict[str, object] = {}


_WRONG_QUANTITY = [Fault("lines[0].quantity", "Expected `int` >= 1")]

PROBLEMS: dict[str, Kind] = {
    "invalid-request": Kind(
        400, "The request is not well formed", "never", InvalidRequest, {"errors": _WRONG_QUANTITY}
    ),
    "missing-idempotency-key": Kind(400, "The header Idempotency-Key is missing", "never"),
    "unauthenticated": Kind(401, "There is no valid token", "never"),
    "forbidden": Kind(403, "The token does not allow this", "never"),
    "not-found": Kind(404, "There is no such thing", "never"),
    "unknown-operation": Kind(404, "This operation was not done so far", "later"),
    "method-not-allowed": Kind(405, "There is something here, but not with this method", "never"),
    "request-timeout": Kind(408, "The body did not arrive in time", "later"),
    "insufficient-stock": Kind(
        409,
        "There is not enough stock",
        "later",
        InsufficientStock,
        {"lines": [ShortLineJson(1, "SHOE-42", "STORE-7", 2, 1, "low")]},
    ),
    "operations-limit": Kind(
        409,
        "The reservation has had as many operations as it may have",
        "never",
        LimitProblem,
        {"limit": 200, "current": 200},
    ),
    "open-reservations-limit": Kind(
        409,
        "The client has as many open reservations as it may have",
        "later",
        LimitProblem,
        {"limit": 1_000_000, "current": 1_000_000},
    ),
    "held-units-limit": Kind(
        409,
        "The client would hold more units than it may",
        "later",
        LimitProblem,
        {"limit": 10_000_000, "current": 9_999_999},
    ),
    "wrong-state": Kind(
        409,
        "The reservation has not the units that this takes",
        "never",
        WrongStateProblem,
        {"reservation_status": "committed", "allowed": ["pick", "ship", "cancel", "move"]},
    ),
    "reservation-expired": Kind(
        409,
        "The reservation has expired",
        "never",
        ReservationExpiredProblem,
        {"expired_at": "2026-11-23T10:10:00.000Z"},
    ),
    "too-large": Kind(413, "The body is too large", "never", TooLarge, {"maximum_bytes": 65_536}),
    "unsupported-media-type": Kind(415, "The body is not application/json", "never"),
    "idempotency-key-reused": Kind(
        422,
        "The key was used before for something else",
        "never",
        KeyReusedProblem,
        {"errors": [Fault("lines", "must be what it was when the key was first used")]},
    ),
    "unknown-sku": Kind(422, "No feed has told of this SKU", "later", UnknownSkuProblem, {"line": 1, "sku": "SHOE-42"}),
    "unknown-location": Kind(
        422, "There is no such location", "later", UnknownLocationProblem, {"line": 1, "location": "STORE-7"}
    ),
    "rate-limited": Kind(429, "This client asks more often than it may", "later"),
    "internal-error": Kind(500, "Something is broken here", "ask"),
    "overloaded": Kind(503, "There is more to do than can be done in time", "later"),
    "not-ready": Kind(
        503,
        "The service cannot decide anything safely now",
        "later",
        NotReady,
        {"reasons": ["the ledger is behind its journal"]},
    ),
    "unknown": Kind(504, "Whether this was done is not known", "ask"),
}

_encode = msgspec.json.Encoder().encode
_NOTHING_MORE: dict[str, object] = {}


def problem(
    name: str,
    detail: str,
    members: dict[str, object] = _NOTHING_MORE,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Answer:
    """The answer for the problem ``name`` of ``PROBLEMS``, with the members that it declares."""
    kind = PROBLEMS[name]
    body = kind.body(
        type=f"/problems/{name}", title=kind.title, status=kind.status, detail=detail, retry=kind.retry, **members
    )
    return Answer(kind.status, _encode(body), name, PROBLEM_JSON, headers)


def invalid(*faults: Fault) -> Answer:
    """400 with every fault that was found."""
    detail = "; ".join(f"{fault.field}: {fault.rule}" for fault in faults[:3])
    return problem("invalid-request", detail, {"errors": list(faults)})


def retry_after(milliseconds: int) -> tuple[tuple[bytes, bytes], ...]:
    """The header that says when to come again, in whole seconds and never 0."""
    return ((b"retry-after", str(max(1, -(-milliseconds // 1_000))).encode()),)
