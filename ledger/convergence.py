"""How stock events of any order, duplication and delay end in the same numbers, in plain Python (DESIGN 6).

A bucket is its newest snapshot plus every delta that happened after it. This page keeps every event for ever; the
Lua keeps a bounded window of them (``ledger/lua/convergence.lua``), whose horizon only refuses what comes too late.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from ledger.messages import Bucket, EventOutcome, StockEvent

BUCKETS: tuple[Bucket, ...] = ("on_hand", "damaged", "quality_hold", "in_transit")
OURS = ""
"""The source of the ledger's own events; no feed has this name."""
VIEWS_MAX = 8
"""Sources whose views of one position are kept."""


class Verdict(NamedTuple):
    """``outcome`` as in EventResult; the buckets' numbers follow from ``History.numbers``."""

    outcome: EventOutcome
    reason: str | None


@dataclass
class History:
    """All events of one position that were accepted, by key."""

    events: dict[str, StockEvent] = field(default_factory=dict)

    def base(self, bucket: Bucket) -> StockEvent | None:
        """The newest snapshot of the bucket: by time, then the source's sequence, then the event's id."""
        snapshots = [event for event in self._standing() if event.kind == "snapshot" and event.bucket == bucket]
        return max(snapshots, key=_age, default=None)

    def number(self, bucket: Bucket) -> int:
        """The units in the bucket."""
        base = self.base(bucket)
        as_of_ms = base.occurred_at_ms if base else -1
        later = (event for event in self._counting() if event.occurred_at_ms > as_of_ms)
        return (base.quantity if base else 0) + sum(effect(event, bucket) for event in later)

    def _standing(self) -> list[StockEvent]:
        """The events that count: not the retractions, nor what they retract, whichever came first.

        A retraction itself cannot be retracted, or it would matter which of the two comes first.
        """
        retracted = {event.reverses for event in self.events.values()}
        return [event for event in self.events.values() if event.reverses is None and event.key not in retracted]

    def _counting(self) -> Iterator[StockEvent]:
        """What stands, each shipment once: of our own units of a line as many as were reported do not count.

        The reports count, at their time; of our own units the earliest go first. So either may come first.
        """
        standing = sorted(self._standing(), key=lambda event: (event.occurred_at_ms, event.key))
        reported = self._reported()
        for event in standing:
            if event.source == OURS:
                known = min(-event.quantity, reported[line]) if (line := shipped_line(event)) else 0
                reported[line] -= known
                yield replace(event, quantity=event.quantity + known)
            else:
                yield event

    def _reported(self) -> Counter[tuple[str, int] | None]:
        """The units that each line's reports tell of."""
        reported: Counter[tuple[str, int] | None] = Counter()
        for event in self._standing():
            if event.source != OURS and (line := shipped_line(event)):
                reported[line] -= event.quantity
        return reported

    def _reported_of_ours(self) -> int:
        """How many of our own shipped units were reported."""
        ours: Counter[tuple[str, int] | None] = Counter()
        for event in self._standing():
            if event.source == OURS and (line := shipped_line(event)):
                ours[line] -= event.quantity
        return (ours & self._reported()).total()

    def accept(self, event: StockEvent) -> Verdict:
        """Judges an event and remembers it, unless it is a duplicate or contradicts one."""
        seen = self.events.get(event.key)
        if seen is not None:
            return Verdict("duplicate", None) if _same(seen, event) else Verdict("quarantined", "conflict")
        if event.reverses is not None or any(other.reverses == event.key for other in self.events.values()):
            self.events[event.key] = event
            return Verdict("applied" if event.reverses is not None else "superseded", None)
        bases = [self.base(bucket) for bucket in (event.bucket, event.to_bucket) if bucket]
        if event.kind == "snapshot":
            superseded = bases[0] is not None and _age(bases[0]) > _age(event)
        else:
            superseded = all(base is not None and event.occurred_at_ms <= base.occurred_at_ms for base in bases)
        before = self._reported_of_ours()
        self.events[event.key] = event
        superseded = superseded and self._reported_of_ours() <= before
        return Verdict("superseded" if superseded else "applied", None)

    def knows(self, event: StockEvent) -> bool:
        """Whether it was accepted before, or retracted before it came."""
        return event.key in self.events or any(other.reverses == event.key for other in self.events.values())


@dataclass
class Views:
    """What sources other than the authority say of one position: the newest snapshot of each."""

    newest: dict[str, StockEvent] = field(default_factory=dict)

    def see(self, event: StockEvent) -> Verdict:
        """Keeps a snapshot if it is its source's newest. When there are too many, the oldest gives way."""
        known = self.newest.get(event.source)
        if known is not None and known.key == event.key:
            return Verdict("duplicate", None) if _same(known, event) else Verdict("quarantined", "conflict")
        if known is None or _age(event) > _age(known):
            self.newest[event.source] = event
        if len(self.newest) > VIEWS_MAX:
            del self.newest[min(self.newest.values(), key=_age).source]
        return Verdict("quarantined", "not-authoritative")

    def forget(self, key: str) -> None:
        """The source retracted it."""
        self.newest = {source: view for source, view in self.newest.items() if view.key != key}


def shipped_line(event: StockEvent) -> tuple[str, int] | None:
    """The reservation and the line that units of it left for; None for what cannot be told to be such a shipment."""
    is_shipment = event.kind == "delta" and event.bucket == "on_hand" and event.quantity < 0 and event.reverses is None
    if not is_shipment or event.reference_reservation is None or event.reference_line is None:
        return None
    return event.reference_reservation, event.reference_line


def effect(event: StockEvent, bucket: Bucket) -> int:
    """The units that an event adds to a bucket, apart from any snapshot."""
    if event.kind == "snapshot":
        return 0
    given = 0
    if event.bucket == bucket:
        given = -event.quantity if event.kind == "move" else event.quantity
    return given + (event.quantity if event.to_bucket == bucket else 0)


def _age(snapshot: StockEvent) -> tuple[int, int, str, str]:
    """What orders snapshots; the key, last, tells apart two sources that use the same id."""
    sequence = -1 if snapshot.sequence is None else snapshot.sequence
    return snapshot.occurred_at_ms, sequence, snapshot.id, snapshot.key


def _same(first: StockEvent, second: StockEvent) -> bool:
    names = ("kind", "bucket", "quantity", "occurred_at_ms", "sequence", "to_bucket", "reverses")
    return shipped_line(first) == shipped_line(second) and all(
        getattr(first, name) == getattr(second, name) for name in names
    )
