"""Owns what the tests of the feeds share: events to send, and a quarantine and a ledger that can be made to fail."""

import json
import time

from ledger import Applied, Apply, Location, PutLocation, QuarantinedEvent, Read, ReadItem, RulesLedger, Unavailable

NOW_MS = 1_750_000_000_000
AWKWARD = "aZ09 .:-+%{}[]\"'\\/\0\n\r\x7f\x85é€\u200b\u2028\ufeff😀"
"""Characters that something may stumble on, for tests that make texts up."""


def an_event(**fields: object) -> dict[str, object]:
    """A good snapshot with these fields instead, or, where they are None, without them."""
    event: dict[str, object] = {
        "id": "e-1",
        "source": "wms",
        "kind": "snapshot",
        "sku": "SKU-1",
        "location": "DC-1",
        "quantity": 5,
        "occurred_at": "2025-06-01T00:00:00Z",
    }
    return {name: value for name, value in (event | fields).items() if value is not None}


def encoded(event: object) -> bytes:
    return json.dumps(event).encode()


class MemoryQuarantine:
    """A quarantine in memory; while ``down`` it keeps nothing, as without Postgres."""

    def __init__(self) -> None:
        self.events: list[QuarantinedEvent] = []
        self.down = False

    async def store(self, events: list[QuarantinedEvent], /) -> None:
        if self.down:
            raise ConnectionRefusedError
        self.events += events

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events]


class MemoryStatus:
    """What was noted of each source."""

    def __init__(self) -> None:
        self.newest_ms: dict[str, int] = {}

    async def heard(self, sources: list[tuple[str, int, int]], /) -> None:
        self.newest_ms |= {source: newest_ms for source, newest_ms, _ in sources}


class OneShop:
    """The plain rules with one location DC-1; while ``down`` it refuses, and it counts what it was asked."""

    def __init__(self) -> None:
        self.rules = RulesLedger(now_ms=lambda: time.time_ns() // 1_000_000)
        self.down = False
        self.sizes: list[int] = []
        self.outcomes: list[str] = []
        self.refusals = 0

    async def open(self) -> "OneShop":
        await self.rules.put_location(PutLocation("tests", Location("DC-1")))
        return self

    async def apply(self, operation: Apply, /) -> Applied:
        if self.down:
            self.refusals += 1
            raise Unavailable("the ledger is away")
        self.sizes.append(len(operation.events))
        applied: Applied = await self.rules.apply(operation)
        self.outcomes += [result.outcome for result in applied.results]
        return applied

    async def on_hand(self, sku: str = "SKU-1") -> int:
        """At DC-1; 0 when it never heard of the SKU."""
        positions = await self.rules.read(Read([ReadItem(sku, ["DC-1"])]))
        return sum(at.position.on_hand for at in positions.items[0].positions)
