"""One table from what the ledger answers, or how it fails, to what a client is told: status, problem, retry advice."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

import ledger
from availability.api.answer import Answer, ok
from availability.api.problems import PROBLEMS, Fault, Retry, ShortLineJson, problem, retry_after
from availability.shapes import reservation_json, time_text
from ledger import (
    Admitted,
    Applied,
    Busy,
    Counted,
    Done,
    Expired,
    Finished,
    Found,
    Granted,
    HeldUnitsLimit,
    Insufficient,
    JournalFull,
    KeyReused,
    LocationList,
    LocationStored,
    Looked,
    NotFound,
    OpenReservationsLimit,
    OperationsLimit,
    Overloaded,
    Positions,
    ReservationExpired,
    Restored,
    SafetyStockStored,
    Unavailable,
    UnfinishedList,
    Unknown,
    UnknownLocation,
    UnknownSku,
    Unpinned,
    ViewList,
    WrongState,
)

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
    Granted: Row(200),  # how the ledger's server says Done of a plain hold: no call of the API has it
    Insufficient: _refused("insufficient-stock"),
    UnknownSku: _refused("unknown-sku"),
    UnknownLocation: _refused("unknown-location"),  # 404 where the location is the request's own path
    WrongState: _refused("wrong-state"),
    ReservationExpired: _refused("reservation-expired"),
    NotFound: _refused("not-found"),  # unknown-operation where an operation was asked for
    KeyReused: _refused("idempotency-key-reused"),
    OperationsLimit: _refused("operations-limit"),
    OpenReservationsLimit: _refused("open-reservations-limit"),
    HeldUnitsLimit: _refused("held-units-limit"),
    Admitted: Row(200),  # what the rate limits ask: no call of the API has it
    Applied: Row(200),
    Counted: Row(200),
    Positions: Row(200),
    ViewList: Row(200),
    Found: Row(200),
    Expired: Row(200),  # the keeper's: no call of the API has it
    Looked: Row(200),  # this one and the next three are between the ledger's own shards
    Unpinned: _refused("overloaded"),
    Finished: Row(200),
    UnfinishedList: Row(200),
    Restored: Row(200),  # between `rehome` and an empty ledger
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
    shape = reservation_json(done.id, done.shard, done.reservation)
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


def failure(error: ledger.LedgerError, *, keyed: bool, only_looks: bool = False) -> Answer:
    """The problem for a ledger that gave no answer.

    ``keyed`` when the request had an Idempotency-Key, ``only_looks`` when it would have changed nothing.
    """
    if only_looks and isinstance(error, Unknown):
        error = Unavailable(error.detail)
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


def _operations_limit(outcome: OperationsLimit, _fingerprint: str) -> Told:
    detail = f"the reservation has had {outcome.limit} operations, and takes no more"
    return detail, {"limit": outcome.limit, "current": outcome.limit}


def _open_reservations_limit(outcome: OpenReservationsLimit, _fingerprint: str) -> Told:
    detail = f"this client has {outcome.current} open reservations and may have {outcome.limit}"
    return detail, {"limit": outcome.limit, "current": outcome.current}


def _held_units_limit(outcome: HeldUnitsLimit, _fingerprint: str) -> Told:
    held, limit = outcome.current, outcome.limit
    detail = f"this client holds {held} units and may hold {limit}: {outcome.requested} more are too many"
    return detail, {"limit": limit, "current": held}


_TOLD: Final[dict[type, Callable[[Any, str], Told]]] = {
    Insufficient: _insufficient,
    UnknownSku: _unknown_sku,
    UnknownLocation: _unknown_location,
    WrongState: _wrong_state,
    ReservationExpired: _expired,
    NotFound: _not_found,
    KeyReused: _key_reused,
    OperationsLimit: _operations_limit,
    OpenReservationsLimit: _open_reservations_limit,
    HeldUnitsLimit: _held_units_limit,
}
