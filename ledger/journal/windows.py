"""Owns the reading of a position's window as the journal has it: what on-hand is made of (``window_packing.lua``)."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

NAMED, FOLDED = 8, 4
"""Marks of a base: it names its event; it is what was folded, and not a snapshot of the window."""
ON_HAND: Final = 0
SNAPSHOT, DELTA, MOVE = 0, 1, 2
KINDS: Final = ("snapshot", "delta", "move")
RETRACTED, REPORTED = "!", "#"


class Base(Struct, frozen=True):
    """What on-hand begins with: the newest snapshot, or what older events came to when they were folded."""

    quantity: int
    as_of_ms: int
    is_folded: bool
    event: str | None
    source: str | None


class Delta(Struct, frozen=True):
    """What an event after the base adds. ``event`` is its own id, or of our own shipments and returns their key."""

    at_ms: int
    quantity: int
    kind: str
    event: str
    source: str | None


def parts_of(window: Mapping[str, Any], sources: Mapping[str, tuple[str, str]]) -> tuple[Base | None, list[Delta]]:
    """The base of on-hand and what counts after it, the newest first; ``sources``: of events source and id by key.

    ``window`` has the unpacked fields by name.
    """
    if "" not in window:
        return None, []
    events = {key: _Event(packed) for key, packed in window.items() if key and key[0] not in (RETRACTED, REPORTED)}
    live = {key: event for key, event in events.items() if RETRACTED + key not in window and not event.reverses}
    base = _base_of(window[""], live, sources)
    as_of_ms = base.as_of_ms if base else -1
    deltas = [
        Delta(event.at_ms, event.effect, KINDS[event.kind], *_named(key, sources))
        for key, event in live.items()
        if event.at_ms > as_of_ms and event.effect
    ]
    return base, sorted(deltas, key=lambda delta: delta.at_ms, reverse=True)


class _Event:
    """An event of the window, as far as it concerns on-hand."""

    def __init__(self, packed: list[Any]) -> None:
        code, amount, self.at_ms = packed[0], packed[1], packed[2]
        self.kind, self.bucket, to = code % 3, code // 3 % 4, code // 12
        self.amount = amount
        self.sequence = packed[4] if len(packed) > 4 else -1
        self.reverses = packed[6] if len(packed) > 6 else ""
        self.effect = 0
        if self.kind != SNAPSHOT and self.bucket == ON_HAND:
            self.effect = -amount if self.kind == MOVE else amount
        if to == ON_HAND + 1:
            self.effect += amount


def _base_of(meta: list[Any], events: Mapping[str, _Event], sources: Mapping[str, tuple[str, str]]) -> Base | None:
    newest_ms = meta[1]
    at = 5
    found: dict[bool, Base] = {}
    while at < len(meta):
        number, quantity, before_ms, sequence = meta[at : at + 4]
        at += 4
        key = None
        if number >= NAMED:
            key, number = meta[at + 1] or None, number - NAMED
            at += 2
        is_folded, bucket = number >= FOLDED, number % FOLDED
        if bucket != ON_HAND:
            continue
        as_of_ms = newest_ms - before_ms
        key = key or _snapshot_of(events, as_of_ms, sequence, quantity)
        event, source = _named(key, sources) if key else (None, None)
        found[is_folded] = Base(quantity, as_of_ms, is_folded, event, source)
    return found.get(False) or found.get(True)


def _snapshot_of(events: Mapping[str, _Event], as_of_ms: int, sequence: int, quantity: int) -> str | None:
    """The key of the snapshot in the window that a base without names is of."""
    wanted = SNAPSHOT, ON_HAND, as_of_ms, sequence, quantity
    for key, event in events.items():
        if (event.kind, event.bucket, event.at_ms, event.sequence, event.amount) == wanted:
            return key
    return None


def _named(key: str, sources: Mapping[str, tuple[str, str]]) -> tuple[str, str | None]:
    """An event's own id and its source, where they are known."""
    if key in sources:
        source, id_ = sources[key]
        return id_, source
    return key, None
