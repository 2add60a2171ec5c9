"""What the handlers work with: ledger, quarantine, search and clock, and why the service is not ready."""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from availability.api.limits import RateLimits
from availability.feeds.intake import Keeps
from ledger import (
    Admit,
    Admitted,
    Applied,
    Apply,
    Cancel,
    Commit,
    CommitOutcome,
    Count,
    CountOutcome,
    Extend,
    Filters,
    Find,
    Found,
    Hold,
    HoldOutcome,
    LocationList,
    Locations,
    LocationStored,
    Move,
    MoveOutcome,
    NotFound,
    OvercommittedPage,
    Pick,
    Positions,
    PutLocation,
    PutSafetyStock,
    Read,
    Release,
    ReservationPage,
    Return,
    SafetyStockOutcome,
    Ship,
    VerbOutcome,
    ViewList,
    Views,
)


class Door(Protocol):
    """The ledger, as far as the API asks it; raises ``ledger.LedgerError`` when it gives no answer."""

    @property
    def turn(self) -> int: ...

    def hold(self, operation: Hold, /) -> Awaitable[HoldOutcome]: ...
    async def extend(self, operation: Extend, /) -> VerbOutcome: ...
    async def commit(self, operation: Commit, /) -> CommitOutcome: ...
    async def release(self, operation: Release, /) -> VerbOutcome: ...
    async def pick(self, operation: Pick, /) -> VerbOutcome: ...
    async def ship(self, operation: Ship, /) -> VerbOutcome: ...
    async def cancel(self, operation: Cancel, /) -> VerbOutcome: ...
    async def return_(self, operation: Return, /) -> VerbOutcome: ...
    async def move(self, operation: Move, /) -> MoveOutcome: ...
    async def apply(self, operation: Apply, /) -> Applied: ...
    async def count(self, operation: Count, /) -> CountOutcome: ...
    async def read(self, operation: Read, /) -> Positions: ...
    async def views(self, operation: Views, /) -> ViewList: ...
    async def admit(self, operation: Admit, /) -> Admitted: ...
    async def find(self, operation: Find, /) -> Found | NotFound: ...
    async def put_location(self, operation: PutLocation, /) -> LocationStored: ...
    async def put_safety_stock(self, operation: PutSafetyStock, /) -> SafetyStockOutcome: ...
    async def locations(self, operation: Locations, /) -> LocationList: ...


class Searches(Protocol):
    """The search for reservations; raises one of ``ledger.JOURNAL_FAILED`` when it gives no answer."""

    async def search(
        self, client: str, filters: Filters, *, limit: int = 50, after: str | None = None
    ) -> ReservationPage: ...

    async def overcommitted(
        self, *, sku: str | None = None, location: str | None = None, limit: int = 20, after: str | None = None
    ) -> OvercommittedPage: ...


def clock_ms() -> int:
    """This machine's clock. What is decided about stock goes by the ledger's."""
    return time.time_ns() // 1_000_000


class Edge:
    """Made by the composition root, once a process."""

    def __init__(
        self,
        ledger: Door,
        quarantine: Keeps,
        reservations: Searches,
        *,
        low_stock: int,
        stale_after_ms: int,
        ready: Callable[[], bool],
        reasons: Callable[[], list[str]],
        warnings: Callable[[], list[str]],
        metrics: Callable[[], bytes],
        jwks: Callable[[], bytes],
        limits: RateLimits,
        now_ms: Callable[[], int] = clock_ms,
    ) -> None:
        self.low_stock, self.stale_after_ms, self.now_ms = low_stock, stale_after_ms, now_ms
        self.ready, self.reasons, self.warnings, self.metrics, self.jwks = ready, reasons, warnings, metrics, jwks
        self.limits = limits
        self.document = b""
        self.ledger, self.quarantine, self.reservations = ledger, quarantine, reservations
        self._heard: dict[str, int] = {}

    def heard(self, newest_ms: dict[str, int]) -> None:
        """Note how new each source's news was, for whoever calls ``take_heard``."""
        for source, at_ms in newest_ms.items():
            self._heard[source] = max(at_ms, self._heard.get(source, 0))

    def take_heard(self) -> dict[str, int]:
        """The sources heard since the last call, and how new the newest event of each was."""
        heard, self._heard = self._heard, {}
        return heard
