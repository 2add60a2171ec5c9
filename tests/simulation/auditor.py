"""Owns the books of a run: what was promised to whom, from the journal's movements and the clients' answers alone.

It knows none of the rules by which the service decides. It sees each entry of the journal when it is written and each
answer when it comes to its client, and holds both to the promises of DESIGN 3.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from books import CLAIMS, STOCK, VERBS

from ledger.messages import JournalOperation, Look, Looked, Reservation, SafetyStock
from simulation.levels import Free, Held, Level, Levels, Part
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


def insist(promise: str, kept: bool, *what: object) -> None:  # noqa: FBT001 - it is what is insisted on
    """Raises ``Broken``; ``what`` is put into words only then."""
    if not kept:
        raise Broken(f"{promise}: {' '.join(map(str, what))}")


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
    deadlines: dict[Part, int] = field(default_factory=dict)
    """Until when a part holds what it holds: each shard has its own word on it."""
    pinned: set[Part] = field(default_factory=set)
    """Parts that an attempt over several shards has had to itself: then they may hold for longer than that."""
    holding: dict[Place, Counter[Part]] = field(default_factory=lambda: defaultdict(Counter))
    done: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Of each operation that was done: its verb, and when the first shard had it."""
    levels: dict[Place, Levels] = field(default_factory=lambda: defaultdict(Levels))
    times: Counter[tuple[int, str]] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)

    def take(self, call: Ran) -> None:
        """An entry was written."""
        entry = call.entry
        assert entry is not None
        insist("P7", entry.seq == self.times[call.shard, ""] + 1, "entry", entry.seq, "of shard", call.shard)
        self.times[call.shard, ""] = entry.seq
        for operation in entry.operations:
            part = call.shard, operation.subject
            claimed = self._move(part, operation, entry.at_ms)
            touched = {(movement.sku, movement.location) for movement in operation.movements}
            for place in claimed:
                claims = sum(self.units[place][state] for state in CLAIMS)
                insist("P1", claims <= self.units[place]["on_hand"], operation, claims, self.units[place])
            if operation.verb in VERBS:
                touched |= self._note(part, operation, entry.at_ms)
            elif operation.verb == "overcommitted":
                self.reached["overcommitted"] += 1
            elif operation.verb == "put_safety_stock":
                put = _safety_stock(operation.body)
                self.safety[put.sku, put.location] = put.quantity
                touched.add((put.sku, put.location))
            for place in touched:
                # After each operation: what looks may come between two of a batch.
                self.levels[place].put(self._level(place, part, entry.at_ms))

    def looked(self, call: Ran) -> None:
        """A call was answered: who looks at a part before he changes it has it to himself from then on."""
        for operation, outcome in zip(call.operations, call.outcomes or (), strict=False):
            if not isinstance(operation, Look) or not isinstance(outcome, Looked) or outcome.part is None:
                continue
            if operation.intent or operation.takes_over:
                self.pinned.add((call.shard, operation.reservation))
                self.reached["change of several shards by who took it over"] += operation.takes_over

    def _move(self, part: Part, operation: JournalOperation, at_ms: int) -> set[Place]:
        """Move the units; the places where some were claimed."""
        claimed = set()
        of, subject = self.reservations[operation.subject], operation.subject
        is_late = operation.verb in VERBS and at_ms >= self.deadlines.get(part, at_ms + 1)
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
            left_ms = self.deadlines.get(part, 0) - at_ms
            self.reached["commit raced expiry"] += operation.verb == "commit" and 0 < left_ms <= RACE_MS
            if source == "held":
                self.holding[place][part] -= quantity
                late_enough = is_late or operation.verb == "drop"
                insist("P5", target != "expired" or late_enough, subject, "expired before its deadline")
                in_time = not is_late or target in ("expired", "available") or operation.verb == "drop"
                in_time = in_time or part in self.pinned
                insist("P5", in_time, operation.verb, "took units of", subject, "after its deadline")
            if target == "held":
                self.holding[place][part] += quantity
            of[source] -= quantity
            of[target] += quantity
            wrong = source not in ("available", "outside", *STOCK) and of[source] < 0
            insist("P5", not wrong, quantity, "units of", subject, "ended twice:", of)
        return claimed

    def _note(self, part: Part, operation: JournalOperation, at_ms: int) -> set[Place]:
        """Remember that it was done; the places of its reservation."""
        record = _reservation(operation.body)
        span = record.span
        self.deadlines[part] = record.expires_at_ms
        if span is not None and not span.sealed:
            self.deadlines[part] = span.pinned_until_ms
        elif span is not None and span.token:
            self.pinned.add(part)
        if operation.verb == "drop":
            # A hold that was sealed on some of its shards when its claim on another one ended: it is not done.
            self.done.pop(operation.subject, None)
            self.reached["claim of several shards dropped"] += 1
        elif operation.verb not in ("expire", "reclaim", "prepare"):
            key = operation.operation_id or operation.subject
            self.times[part[0], key] += 1
            insist("P3", self.times[part[0], key] == 1 or span is not None, operation.verb, key, "was done twice")
            self.done.setdefault(key, (operation.verb, at_ms))
        return {(line.sku, line.location) for line in record.lines}

    def _level(self, place: Place, part: Part, at_ms: int) -> Level:
        units = self.units[place]
        unheld = units["on_hand"] - units["committed"] - units["picked"] - self.safety.get(place, 0)
        held = Held(part, self.holding[place][part], self.deadlines.get(part, 0))
        return Level(at_ms, unheld, (held,))

    def free(self, place: Place, since_ms: int, until_ms: int) -> set[Free]:
        """All that could be promised at the position at some instant between the two."""
        return self.levels[place].free(since_ms, until_ms, self.pinned)
