"""Owns the books of a run: what was promised to whom, from the journal's movements and the clients' answers alone.

It knows none of the rules by which the service decides. It sees each entry of the journal when it is written and each
answer when it comes to its client, and holds both to the promises of DESIGN 3.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from books import CLAIMS, STOCK, VERBS

from ledger.messages import JournalOperation, Reservation, SafetyStock
from simulation.network import Ran

Place = tuple[str, str]
UNKNOWN: Final = (None, 500, 504)
"""What a client hears of an operation that may have been done: nothing, or that nobody knows."""
RACE_MS: Final = 8
"""A commit so near to the end of its hold came in the nick of time, or just too late."""
_reservation: Final = msgspec.msgpack.Decoder(Reservation).decode

_safety_stock: Final = msgspec.msgpack.Decoder(SafetyStock).decode


class Broken(AssertionError):
    """A promise is broken."""


def insist(promise: str, kept: bool, what: object) -> None:  # noqa: FBT001 - it is what is insisted on
    if not kept:
        raise Broken(f"{promise}: {what}")


class Level(NamedTuple):
    """What a position had from ``at_ms`` on: units but for what is held, and of each hold its deadline and units."""

    at_ms: int
    unheld: int
    held: tuple[tuple[int, int], ...]

    def free(self, at_ms: int) -> int:
        """What could be promised then; an overdue hold is in nobody's way."""
        return self.unheld - sum(quantity for deadline_ms, quantity in self.held if deadline_ms > at_ms)


@dataclass
class Attempt:
    """A request with a key, and what became of it."""

    body: bytes
    sent_ms: int
    status: int | None = None
    answered: bool = False
    replayed: bool = False
    reservation: dict[str, Any] | None = None


@dataclass
class Books:
    """The units of each position and reservation as the journal's movements make them."""

    shards: int
    units: dict[Place, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    safety: dict[Place, int] = field(default_factory=dict)
    reservations: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    deadlines: dict[str, int] = field(default_factory=dict)
    holding: dict[Place, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    done: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Of each operation that was done: its verb, and when the first shard had it."""
    levels: dict[Place, list[Level]] = field(default_factory=lambda: defaultdict(list))
    times: Counter[tuple[int, str]] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)

    def take(self, call: Ran) -> None:
        """An entry was written."""
        entry = call.entry
        assert entry is not None
        insist("P7", entry.seq == self.times[call.shard, ""] + 1, f"entry {entry.seq} of shard {call.shard}")
        self.times[call.shard, ""] = entry.seq
        for operation in entry.operations:
            claimed = self._move(operation, entry.at_ms)
            touched = {(movement.sku, movement.location) for movement in operation.movements}
            for place in claimed:
                claims = sum(self.units[place][state] for state in CLAIMS)
                insist("P1", claims <= self.units[place]["on_hand"], (operation, claims, dict(self.units[place])))
            if operation.verb in VERBS:
                touched |= self._note(call.shard, operation, entry.at_ms)
            elif operation.verb == "overcommitted":
                self.reached["overcommitted"] += 1
            elif operation.verb == "put_safety_stock":
                put = _safety_stock(operation.body)
                self.safety[put.sku, put.location] = put.quantity
                touched.add((put.sku, put.location))
            for place in touched:
                # After each operation: what looks may come between two of a batch.
                self.levels[place].append(self._level(place, entry.at_ms))

    def _move(self, operation: JournalOperation, at_ms: int) -> set[Place]:
        """Move the units; the places where some were claimed."""
        claimed = set()
        of, subject = self.reservations[operation.subject], operation.subject
        is_late = operation.verb in VERBS and at_ms >= self.deadlines.get(subject, at_ms + 1)
        for movement in operation.movements:
            place, quantity = (movement.sku, movement.location), movement.quantity
            source, target, book = movement.from_bucket, movement.to_bucket, self.units[place]
            if source in CLAIMS + STOCK:
                book[source] -= quantity
            if target in CLAIMS + STOCK:
                book[target] += quantity
            if target == "shipped":
                book["on_hand"] -= quantity
            if operation.verb not in VERBS:
                continue
            if source in ("available", "expired") and target in CLAIMS:
                claimed.add(place)
                self.reached["committed with reacquire"] += source == "expired"
            left_ms = self.deadlines.get(subject, 0) - at_ms
            self.reached["commit raced expiry"] += operation.verb == "commit" and 0 < left_ms <= RACE_MS
            if source == "held":
                self.holding[place][subject] -= quantity
                late_enough = is_late or operation.verb == "drop" or self.shards > 1
                insist("P5", target != "expired" or late_enough, f"{subject} expired before its deadline")
                in_time = not is_late or target in ("expired", "available") or self.shards > 1
                insist("P5", in_time, f"{operation.verb} took units of {subject} after its deadline")
            if target == "held":
                self.holding[place][subject] += quantity
            of[source] -= quantity
            of[target] += quantity
            wrong = source not in ("available", "outside", *STOCK) and of[source] < 0
            insist("P5", not wrong, f"{quantity} units of {subject} ended twice: {dict(of)}")
        return claimed

    def _note(self, shard: int, operation: JournalOperation, at_ms: int) -> set[Place]:
        """Remember that it was done; the places of its reservation."""
        record = _reservation(operation.body)
        span = record.span
        self.deadlines[operation.subject] = max(record.expires_at_ms, span.pinned_until_ms if span else 0)
        if operation.verb == "drop":
            # A hold that was sealed on some of its shards when its claim on another one ended: it is not done.
            self.done.pop(operation.subject, None)
        elif operation.verb not in ("expire", "reclaim", "prepare"):
            key = operation.operation_id or operation.subject
            self.times[shard, key] += 1
            insist("P3", self.times[shard, key] == 1 or span is not None, f"{operation.verb} {key} was done twice")
            self.done.setdefault(key, (operation.verb, at_ms))
        return {(line.sku, line.location) for line in record.lines}

    def _level(self, place: Place, at_ms: int) -> Level:
        units = self.units[place]
        held = tuple((self.deadlines[of], quantity) for of, quantity in self.holding[place].items() if quantity)
        unheld = units["on_hand"] - units["committed"] - units["picked"] - self.safety.get(place, 0)
        return Level(at_ms, unheld, held)

    def free(self, place: Place, since_ms: int, until_ms: int) -> set[int]:
        """All that could be promised at the position at some instant between the two."""
        levels = self.levels[place]
        first = max((index for index, level in enumerate(levels) if level.at_ms < since_ms), default=0)
        found = set()
        for level, after in zip(levels[first:], [*levels[first + 1 :], None], strict=True):
            end_ms = until_ms if after is None else min(until_ms, after.at_ms)
            if level.at_ms <= until_ms:
                deadlines = (deadline_ms for deadline_ms, _ in level.held if since_ms <= deadline_ms <= end_ms)
                found |= {level.free(at_ms) for at_ms in (max(level.at_ms, since_ms), end_ms, *deadlines)}
        return found
