"""Owns the history of a run: what was asked, when, and what came back. It is the evidence; nothing here judges.

An *operation* is what a shopper wants done once; an *attempt* is one request for it. Times are seconds of the
monotonic clock; ``WALL_S`` puts them beside the ledger's own, which is the same machine's.
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from ledger import operation_id

WALL_S = time.time() - time.monotonic()

Verdict = Literal["ok", "refused", "not done", "unknown"]
Place = tuple[str, str]
"""SKU and location."""
NOT_SENT, LOST = 0, -1
"""In place of the status: nobody listened; no whole answer came."""


class Attempt(Struct):
    """One request; ``told`` is what the answer says that checkers use. ``answered_s`` is when it was given up, too."""

    sent_s: float
    answered_s: float = 0.0
    status: int = LOST
    replayed: bool = False
    told: Any = None

    @property
    def verdict(self) -> Verdict:
        """DESIGN P4."""
        if self.status in (NOT_SENT, 429, 503):
            return "not done"
        if self.status == LOST or self.status >= 500:
            return "unknown"
        return "ok" if self.status < 300 else "refused"

    @property
    def problem(self) -> str:
        """The name of the refusal, as in ``insufficient-stock``."""
        return str(self.told["type"]).removeprefix("/problems/") if self.verdict == "refused" else ""


class Line(NamedTuple):
    """Units of a position; ``number`` is the line's in its reservation."""

    number: int
    sku: str
    location: str
    quantity: int

    @property
    def place(self) -> Place:
        return self.sku, self.location


class Operation(Struct):
    """``verb`` on ``reservation``, of whose lines these are the asked ones; ``whole`` when it takes all it can.

    ``mark`` is in the request and comes out in the journal, whatever becomes of the key: two effects with one mark
    were one operation. A ``look`` is an ATP question, and has neither.
    """

    client: str
    key: str
    verb: str
    reservation: str
    lines: list[Line]
    whole: bool = True
    mark: str = ""
    attempts: list[Attempt] = []
    path: str = ""
    form: object = None

    @property
    def id(self) -> str:
        """How the ledger names it; of a hold it is the reservation's, too."""
        return operation_id(self.client, self.key)

    @property
    def is_write(self) -> bool:
        return self.verb != "look"

    @property
    def sent_s(self) -> float:
        return self.attempts[0].sent_s

    @property
    def acknowledged(self) -> Attempt | None:
        """The first answer that said it is done."""
        return next((attempt for attempt in self.attempts if attempt.verdict == "ok"), None)

    @property
    def may_be_done(self) -> bool:
        """Whether any attempt was not surely without effect."""
        return any(attempt.verdict in ("ok", "unknown") for attempt in self.attempts)


class Published(Struct):
    """A stock event that was handed in, by ``way``; ``outcomes`` are what HTTP answered, each time."""

    event: dict[str, Any]
    way: Literal["http", "nats", "count"]
    sent_s: float
    answered_s: float = float("inf")
    outcomes: list[str] = []

    @property
    def place(self) -> Place:
        return self.event["sku"], self.event["location"]


class Injection(Struct):
    """A fault that was injected, and the seconds from it to the next acknowledged write and to all being ready."""

    fault: str
    at_s: float
    in_flight: int = 0
    write_again_s: float | None = None
    ready_again_s: float | None = None
    met: int = 0


class History:
    """All of it. ``sometimes`` counts how often each rare state was reached."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.published: list[Published] = []
        self.injections: list[Injection] = []
        self.sometimes: Counter[str] = Counter()
        self.in_flight = 0

    def fault_before(self, at_s: float) -> str:
        """The fault that was the latest at that time."""
        latest = ""
        for injection in self.injections:
            if injection.at_s > at_s:
                break
            latest = injection.fault
        return latest


def attempts_of(operations: Iterable[Operation]) -> Counter[str]:
    """How many attempts had which verdict, of operations that write."""
    return Counter(attempt.verdict for operation in operations if operation.is_write for attempt in operation.attempts)
