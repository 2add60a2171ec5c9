"""How stock events of any order, duplication and delay end in the same numbers, in plain Python (DESIGN 6).

A bucket is its newest snapshot plus every delta that happened after it. This page keeps every event for ever; the
Lua keeps a bounded window of them (``ledger/lua/convergence.lua``), whose horizon only refuses what comes too late.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.messages import Bucket, EventOutcome, StockEvent

BUCKETS: tuple[Bucket, ...] = ("on_hand", "damaged", "quality_hold", "in_transit")


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
        later = (event for event in self._standing() if event.occurred_at_ms > as_of_ms)
        return (base.quantity if base else 0) + sum(effect(event, bucket) for event in later)

    def _standing(self) -> list[StockEvent]:
        """The events that count: not the retractions, nor what they retract, whichever came first.

        A retraction itself cannot be retracted, or it would matter which of the two comes first.
        """
        retracted = {event.reverses for event in self.events.values()}
        return [event for event in self.events.values() if event.reverses is None and event.key not in retracted]

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
        self.events[event.key] = event
        return Verdict("superseded" if superseded else "applied", None)


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
    return all(getattr(first, name) == getattr(second, name) for name in names)
