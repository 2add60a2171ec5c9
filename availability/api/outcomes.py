"""One table from what the ledger answers, or how it fails, to what a client is told: status, problem, retry advice."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

import ledger
from availability.api.answer import Answer, ok
from availability.api.problems import PROBLEMS, Fault, Retry, ShortLineJson, problem, retry_after
from availability.shapes import reservation_json, time_text
from ledger import (
    Applied,
    Busy,
    Counted,
    Done,
    Expired,
    Found,
    Insufficient,
    JournalFull,
    KeyReused,
    LimitReached,
    LocationList,
    LocationStored,
    NotFound,
    Overloaded,
    Positions,
    ReservationExpired,
    SafetyStockStored,
    Unavailable,
    Unknown,
    UnknownLocation,
    UnknownSku,
    WrongState,
)

SHARD: Final = 0
RETRY_SOON_MS: Final = 1_000
REPLAY_HEADERS: Final = ("Idempotency-Replayed",)
"""What ``reservation_answer`` may send beside the body."""
_REPLAYED: Final = ((b"idempotency-replayed", b"true"),)


class Row(Struct, frozen=True):
    """How an outcome is answered: by its own handler with ``status``, or as the problem ``name``."""

    status: int
    name: str | None = None

    @property
    def retry(self) -> Retry | None:
        """The advice that the client gets; None when it was done."""
        return None if self.name is None else PROBLEMS[self.name].retry


def _refused(name: str) -> Row:
    return Row(PROBLEMS[name].status, name)


ANSWERS: Final[dict[type, Row]] = {
    Done: Row(200),  # 201 for a hold
    Insufficient: _refused("insufficient-stock"),
    UnknownSku: _refused("unknown-sku"),
    UnknownLocation: _refused("unknown-location"),  # 404 where the location is the request's own path
    WrongState: _refused("wrong-state"),
    ReservationExpired: _refused("reservation-expired"),
    NotFound: _refused("not-found"),  # unknown-operation where an operation was asked for
    KeyReused: _refused("idempotency-key-reused"),
    LimitReached: _refused("limit-reached"),
    Applied: Row(200),
    Counted: Row(200),
    Positions: Row(200),
    Found: Row(200),
    Expired: Row(200),  # the keeper's: no call of the API has it
    LocationStored: Row(200),
    SafetyStockStored: Row(200),
    LocationList: Row(200),
    Busy: _refused("overloaded"),  # the store asks again by itself, and says Overloaded when that does not help
    JournalFull: _refused("overloaded"),
    Overloaded: _refused("overloaded"),
    Unavailable: _refused("not-ready"),
    Unknown: _refused("unknown"),
}


def reservation_answer(status: int, outcome: str, done: Done) -> Answer:
    """The reservation as it is now, told apart when the operation was done before."""
    shape = reservation_json(done.id, SHARD, done.reservation)
    if done.replayed:
        return ok(shape, "replayed", status, _REPLAYED)
    return ok(shape, outcome, status)


def is_replay(answer: Answer) -> bool:
    """Whether what it tells of was done before, by an earlier request."""
    return answer.headers == _REPLAYED


def refusal(outcome: object, fingerprint: str = "") -> Answer:
    """The problem for an outcome that is one; ``fingerprint`` is that of the request."""
    name, tell = ANSWERS[type(outcome)].name, _TOLD.get(type(outcome))
    assert name is not None, f"{type(outcome).__name__} is no refusal"
    assert tell is not None, f"{type(outcome).__name__} is refused without a word"
    detail, members = tell(outcome, fingerprint)
    return problem(name, detail, members)


def failure(error: ledger.LedgerError, *, keyed: bool) -> Answer:
    """The problem for a ledger that gave no answer; ``keyed`` when the request had an Idempotency-Key."""
    name = ANSWERS[type(error)].name
    assert name is not None
    if isinstance(error, Overloaded):
        return problem(name, error.detail, headers=retry_after(error.retry_after_ms))
    if isinstance(error, Unavailable):
        return problem(name, error.detail, {"reasons": [error.detail]}, retry_after(RETRY_SOON_MS))
    advice = "GET /v1/operations/{key} tells" if keyed else "sending it again is safe and settles it"
    return problem(name, f"the ledger's answer was lost; {advice}")


Told = tuple[str, dict[str, object]]
"""What a refusal says: its detail, and the members of its problem."""


def _insufficient(outcome: Insufficient, _fingerprint: str) -> Told:
    lines = [
        ShortLineJson(line.line, line.sku, line.location, line.requested, line.available, line.status)
        for line in outcome.lines
    ]
    return f"{len(lines)} of the lines cannot be held", {"lines": lines}


def _unknown_sku(outcome: UnknownSku, _fingerprint: str) -> Told:
    detail = f"line {outcome.line} asks for a SKU that was never counted anywhere"
    return detail, {"line": outcome.line, "sku": outcome.sku}


def _unknown_location(outcome: UnknownLocation, _fingerprint: str) -> Told:
    detail = f"line {outcome.line} names a location that is not in the catalog"
    return detail, {"line": outcome.line, "location": outcome.location}


def _wrong_state(outcome: WrongState, _fingerprint: str) -> Told:
    allowed = ", ".join(outcome.allowed) or "nothing"
    detail = f"the reservation is {outcome.status}; allowed now: {allowed}"
    return detail, {"reservation_status": outcome.status, "allowed": outcome.allowed}


def _expired(outcome: ReservationExpired, _fingerprint: str) -> Told:
    at = time_text(outcome.expired_at_ms)
    return f"the reservation expired at {at}", {"expired_at": at}


def _not_found(_outcome: NotFound, _fingerprint: str) -> Told:
    return "there is no such reservation of this client", {}


def _key_reused(outcome: KeyReused, fingerprint: str) -> Told:
    field = ledger.differing_field(outcome.fingerprint, fingerprint)
    fault = Fault(field, "must be what it was when the key was first used")
    return f"the key was used before with another {field}", {"errors": [fault]}


def _limit_reached(outcome: LimitReached, _fingerprint: str) -> Told:
    detail = f"there are {outcome.maximum} {outcome.limit} already, and no more are taken"
    return detail, {"limit": outcome.limit, "maximum": outcome.maximum}


_TOLD: Final[dict[type, Callable[[Any, str], Told]]] = {
    Insufficient: _insufficient,
    UnknownSku: _unknown_sku,
    UnknownLocation: _unknown_location,
    WrongState: _wrong_state,
    ReservationExpired: _expired,
    NotFound: _not_found,
    KeyReused: _key_reused,
    LimitReached: _limit_reached,
}
