"""The rules of the ledger in plain Python, without I/O: the page to read first.

``Rules`` decides one operation at a time on dictionaries. It is what API tests run on (``RulesLedger``) and what the
Lua library is held to, step by step (tests/test_agreement.py).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import cos, inf, radians
from typing import Any, NamedTuple

from ledger import messages as m
from ledger.convergence import BUCKETS, History
from ledger.state import State

DAY_MS = 24 * 3_600_000
Verb = m.Extend | m.Commit | m.Release | m.Pick | m.Ship | m.Cancel | m.Return | m.Move
TAKES = {
    "commit": ("held",),
    "extend": ("held",),
    "release": ("held",),
    "pick": ("committed",),
    "ship": ("picked", "committed"),
    "cancel": ("committed", "picked"),
    "return": ("shipped",),
    "move": ("held", "committed"),
}
"""The states whose units each verb takes."""
OPERATIONS_MAX = 200
"""Operations on one reservation: its record names them all."""
STATES = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")


class Place(NamedTuple):
    """One SKU at one location: what a position is the position of."""

    sku: str
    location: str


@dataclass
class Line:
    """A reservation's line; ``units`` counts its units by state."""

    place: Place
    quantity: int
    requested: int
    units: Counter[str]
    promise_day: int


@dataclass
class Claim:
    """A reservation as the rules keep it."""

    client: str
    fingerprint: str
    created_at_ms: int
    expires_at_ms: int
    channel: str | None
    customer: str | None
    lines: list[Line]
    order_id: str | None = None
    seq: int = 0
    operations: list[str] = field(default_factory=list)

    def units(self, state: str) -> int:
        return sum(line.units[state] for line in self.lines)

    @property
    def is_live(self) -> bool:
        return any(self.units(state) for state in ("held", "committed", "picked"))


@dataclass
class Done:
    """An operation other than a hold, remembered for its replay."""

    verb: str
    client: str
    fingerprint: str
    reservation: str


@dataclass
class Stock:
    """A position's buckets; its claims are counted from the reservations, so that they cannot drift."""

    history: History = field(default_factory=History)
    as_of_ms: int = 0


class Shortage(NamedTuple):
    """Units that a position's claims exceed what is there by, and since when they do."""

    quantity: int
    since_ms: int


Balances = dict[Place, tuple[int, int]]
"""On hand and claimed units of each position where something is claimed."""


class Part(NamedTuple):
    """A share of a line, from one place."""

    place: Place
    quantity: int


class Rules:
    """A ledger of one shard, in memory. ``decide`` is all of it: an operation and the time in, an outcome out."""

    def __init__(self, *, low_stock: int = 5) -> None:
        self.low_stock = low_stock
        self.now_ms = self.last_ms = 0
        self.seq = 0
        self.locations: dict[str, m.Location] = {}
        self.stock: dict[Place, Stock] = {}
        self.claims: dict[str, Claim] = {}
        self.done: dict[str, Done] = {}
        self.counts: dict[tuple[str, str, str, int], str] = {}
        self.safety_stock: dict[Place, int] = {}
        self.overcommitted: dict[Place, Shortage] = {}

    def decide(self, operation: m.Operation, now_ms: int) -> m.Outcome:
        """What the operation comes to at ``now_ms``, which never runs back behind the last change."""
        self.now_ms = max(self.last_ms, now_ms)
        self._changed = False
        before = self._balances()
        outcome = self._decide(operation)
        self._note_shortages(before)
        if self._changed:
            self.seq, self.last_ms = self.seq + 1, self.now_ms
        return outcome

    def _decide(self, operation: m.Operation) -> m.Outcome:
        match operation:
            case m.Hold():
                outcome = self._hold(operation)
            case m.Extend() | m.Commit() | m.Release() | m.Pick() | m.Ship() | m.Cancel() | m.Return() | m.Move():
                outcome = self._operate(operation)
            case m.Expire():
                outcome = self._expire()
            case m.Apply():
                outcome = m.Applied([self._apply(event, by_person=False) for event in operation.events])
            case m.Count():
                outcome = self._count(operation)
            case m.Read():
                outcome = m.Positions(self.now_ms, [self._read(item) for item in operation.items])
            case m.Find():
                outcome = self._find(operation)
            case m.PutLocation() | m.PutSafetyStock() | m.Locations():
                outcome = self._catalog(operation)
        return outcome

    def _catalog(self, operation: m.PutLocation | m.PutSafetyStock | m.Locations) -> m.Outcome:
        match operation:
            case m.PutLocation():
                return self._put_location(operation)
            case m.PutSafetyStock():
                return self._put_safety_stock(operation)
            case m.Locations():
                return m.LocationList([self.locations[name] for name in sorted(self.locations)])

    def _put_location(self, put_location: m.PutLocation) -> m.Outcome:
        self._changed = True
        self.locations[put_location.location.id] = put_location.location
        return m.LocationStored(put_location.location)

    def _put_safety_stock(self, put: m.PutSafetyStock) -> m.Outcome:
        for number, item in enumerate(put.items, 1):
            if item.location not in self.locations:
                return m.UnknownLocation(number, item.location)
        for item in put.items:
            place = Place(item.sku, item.location)
            self._changed = self._changed or self.safety_stock.get(place, 0) != item.quantity
            self.safety_stock[place] = item.quantity
        return m.SafetyStockStored(put.items)

    # --- overcommitted ------------------------------------------------------------------------------------------

    def _balances(self) -> Balances:
        claims: Counter[Place] = Counter()
        for claim in self.claims.values():
            for line in claim.lines:
                claims[line.place] += line.units["held"] + line.units["committed"] + line.units["picked"]
        return {place: (self.stock[place].history.number("on_hand"), units) for place, units in claims.items() if units}

    def _note_shortages(self, before: Balances) -> None:
        """Where the claims have come to exceed what is there, or no longer do, once what is overdue there is ended."""
        while True:
            after = self._balances()
            touched = [place for place in before.keys() | after.keys() if before.get(place) != after.get(place)]
            short = {place: max(0, claims - on_hand) for place, (on_hand, claims) in after.items() if place in touched}
            ended = [self._settle(place) for place, quantity in short.items() if quantity]
            if not any(ended):
                break
        for place in touched:
            known = self.overcommitted.pop(place, None)
            if quantity := short.get(place, 0):
                self.overcommitted[place] = Shortage(quantity, known.since_ms if known else self.now_ms)

    # --- positions ----------------------------------------------------------------------------------------------

    def position(self, place: Place) -> m.Position:
        """The position as it is now, overdue holds not yet ended included."""
        stock = self.stock.get(place) or Stock()
        claimed = Counter[str]()
        for claim in self.claims.values():
            for line in claim.lines:
                if line.place == place:
                    claimed.update(line.units)
        buckets = {bucket: stock.history.number(bucket) for bucket in BUCKETS}
        return m.Position(
            held=claimed["held"],
            committed=claimed["committed"],
            picked=claimed["picked"],
            safety_stock=self.safety_stock.get(place, 0),
            as_of_ms=stock.as_of_ms,
            **buckets,
        )

    def left(self, place: Place, taken: Counter[Place] | None = None) -> int:
        """What can still be promised, once overdue holds there are ended and ``taken`` is set aside."""
        self._settle(place)
        if not self.locations[place.location].enabled:
            return 0
        return max(0, self.position(place).available - (taken[place] if taken else 0))

    def _settle(self, place: Place) -> bool:
        """Units of an overdue hold are free in the very next decision on their position; says whether there was one."""
        here = [
            claim
            for claim in self.claims.values()
            if any(line.place == place and line.units["held"] for line in claim.lines)
        ]
        ended = [self._end_if_overdue(claim) for claim in here]
        return any(ended)

    def _end_if_overdue(self, claim: Claim) -> bool:
        if claim.expires_at_ms > self.now_ms or not claim.units("held"):
            return False
        for line in claim.lines:
            self._move(line, "held", "expired", line.units["held"])
        self._stamp(claim)
        return True

    def _move(self, line: Line, source: str, target: str, quantity: int) -> None:
        line.units[source] -= quantity
        line.units[target] += quantity

    def _stamp(self, claim: Claim) -> None:
        self._changed = True
        claim.seq = self.seq + 1

    def _is_known(self, sku: str) -> bool:
        return any(place.sku == sku for place in self.stock)

    def _status(self, left: int, held: int) -> m.StockStatus:
        if left > 0:
            return "low" if left <= self.low_stock else "in_stock"
        return "held_out" if held > 0 else "sold_out"

    # --- hold ---------------------------------------------------------------------------------------------------

    def _hold(self, hold: m.Hold) -> m.Outcome:
        before = self._answered_before(hold.id, hold.fingerprint)
        if before is not None:
            return before
        for number, asked in enumerate(hold.lines, 1):
            if asked.location is not None and asked.location not in self.locations:
                return m.UnknownLocation(number, asked.location)
            if not self._is_known(asked.sku):
                return m.UnknownSku(number, asked.sku)
        parts, short = self._plan(hold)
        if short and (hold.mode == "all" or not any(part.quantity for share in parts.values() for part in share)):
            return m.Insufficient(sorted(short, key=lambda line: line.line))
        claim = Claim(
            hold.client,
            hold.fingerprint,
            self.now_ms,
            self.now_ms + hold.ttl_ms,
            hold.channel,
            hold.customer,
            [line for number, asked in enumerate(hold.lines) for line in self._lines(asked, parts.get(number, []))],
        )
        self.claims[hold.id] = claim
        self._stamp(claim)
        return self._answer(hold.id)

    def _lines(self, asked: m.HoldLine, parts: list[Part]) -> Iterable[Line]:
        parts = parts or [Part(Place(asked.sku, asked.location or ""), 0)]
        missing = asked.quantity - sum(part.quantity for part in parts)
        for index, part in enumerate(parts):
            # What was asked for and not granted stays visible, on the last part.
            requested = part.quantity + (missing if index == len(parts) - 1 else 0)
            yield Line(part.place, part.quantity, requested, Counter(held=part.quantity), self.now_ms // DAY_MS)

    def _plan(self, hold: m.Hold) -> tuple[dict[int, list[Part]], list[m.ShortLine]]:
        """Which places give how much to which line (by index), and the lines that fall short. Changes nothing."""
        taken: Counter[Place] = Counter()
        parts: dict[int, list[Part]] = {}
        short: list[m.ShortLine] = []

        def grant(index: int, shares: list[Part], places: list[Place]) -> None:
            """Sets the shares aside, unless they fall short of a line that wants all or nothing."""
            asked = hold.lines[index]
            total = sum(share.quantity for share in shares)
            if total < asked.quantity:
                status = self._status(total, sum(self.position(place).held for place in places))
                short.append(m.ShortLine(index + 1, asked.sku, asked.location, asked.quantity, total, status))
            if total and (total == asked.quantity or hold.mode == "available"):
                parts[index] = shares
                taken.update({share.place: share.quantity for share in shares})

        sourced = {}
        for index, asked in enumerate(hold.lines):
            if asked.location is None:
                sourced[index] = self._candidates(asked.sku, hold)
            else:
                place = Place(asked.sku, asked.location)
                grant(index, [Part(place, min(asked.quantity, self.left(place, taken)))], [place])
        location = self._one_location(hold, sourced, taken)
        for index, places in sourced.items():
            asked = hold.lines[index]
            if location is not None:
                grant(index, [Part(Place(asked.sku, location), asked.quantity)], places)
            else:
                grant(index, self._shares(asked.quantity, places, taken, hold.max_splits), places)
        return parts, short

    def _candidates(self, sku: str, hold: m.Hold) -> list[Place]:
        """Where a line without a location may come from, best first."""
        places = [place for place in self.stock if place.sku == sku and self.locations[place.location].enabled]
        for place in places:
            self._settle(place)

        def rank(place: Place) -> tuple[float, int, str]:
            location = self.locations[place.location]
            first: float = 0
            if hold.strategy in ("most_stock", "fewest_splits"):
                first = -self.position(place).available
            elif hold.strategy == "nearest":
                first = _distance(location, hold.near)
            return first, location.priority, location.id

        return sorted(places, key=rank)

    def _one_location(self, hold: m.Hold, sourced: dict[int, list[Place]], taken: Counter[Place]) -> str | None:
        """The first location that can give every line without a location, whole."""
        for first in next(iter(sourced.values()), []):
            need: Counter[Place] = Counter()
            for index in sourced:
                need[Place(hold.lines[index].sku, first.location)] += hold.lines[index].quantity
            if all(place in self.stock and self.left(place, taken) >= quantity for place, quantity in need.items()):
                return first.location
        return None

    def _shares(self, quantity: int, places: list[Place], taken: Counter[Place], max_splits: int | None) -> list[Part]:
        """A line whole from one place if possible, else from several.

        They go as the order says, or the largest first where the limit would make the order fall short.
        """
        lefts = [Part(place, self.left(place, taken)) for place in places]
        for part in lefts:
            if part.quantity >= quantity:
                return [Part(part.place, quantity)]
        lefts = [part for part in lefts if part.quantity]
        count = len(lefts) if max_splits is None else max_splits + 1
        if sum(part.quantity for part in lefts[:count]) < quantity:
            lefts.sort(key=lambda part: -part.quantity)
        shares = []
        for part in lefts[:count]:
            share = min(quantity, part.quantity)
            quantity -= share
            if share:
                shares.append(Part(part.place, share))
        return shares

    # --- the other verbs ----------------------------------------------------------------------------------------

    def _operate(self, operation: Verb) -> m.Outcome:
        before = self._answered_before(operation.id, operation.fingerprint)
        if before is not None:
            return before
        claim = self._claim_of(operation.reservation, operation.client)
        if claim is None:
            return m.NotFound()
        if len(claim.operations) >= OPERATIONS_MAX:
            return m.LimitReached("operations on a reservation", OPERATIONS_MAX)
        refusal = self._change(claim, operation)
        if refusal is not None:
            return refusal
        verb = type(operation).__name__.lower()
        self.done[operation.id] = Done(verb, operation.client, operation.fingerprint, operation.reservation)
        claim.operations.append(operation.id)
        self._stamp(claim)
        return self._answer(operation.reservation)

    def _change(self, claim: Claim, operation: Verb) -> m.Outcome | None:
        """Does the verb, or does nothing and says why not."""
        match operation:
            case m.Extend():
                refusal = self._extend(claim, operation)
            case m.Commit():
                refusal = self._commit(claim, operation)
            case m.Release():
                refusal = self._release(claim, operation)
            case m.Pick():
                refusal = self._take(claim, operation.lines, ("committed",), "picked")
            case m.Ship():
                refusal = self._ship(claim, operation)
            case m.Cancel():
                refusal = self._take(claim, operation.lines, ("committed", "picked"), "cancelled")
            case m.Return():
                refusal = self._return(claim, operation)
            case m.Move():
                refusal = self._move_line(claim, operation)
        return refusal

    def _extend(self, claim: Claim, extend: m.Extend) -> m.Outcome | None:
        if not claim.units("held"):
            return self._nothing_to_take(claim)
        claim.expires_at_ms = self.now_ms + extend.ttl_ms
        return None

    def _commit(self, claim: Claim, commit: m.Commit) -> m.Outcome | None:
        if claim.units("held"):
            refusal = self._take(claim, commit.lines, ("held",), "committed")
        elif commit.reacquire and not claim.is_live and claim.units("expired"):
            refusal = self._reacquire(claim, commit.lines)
        else:
            refusal = self._nothing_to_take(claim)
        if refusal is None:
            claim.order_id = commit.order_id
        return refusal

    def _reacquire(self, claim: Claim, lines: list[m.UnitsOfLine] | None) -> m.Outcome | None:
        """Claims the units of an expired hold anew, all or none."""
        wanted = self._units_to_take(claim, lines, ("expired",))
        if wanted is None:
            return self._wrong_state(claim)
        taken: Counter[Place] = Counter()
        short = []
        for line, _, quantity in wanted:
            left = self.left(line.place, taken)
            if left < quantity:
                status = self._status(left, self.position(line.place).held)
                short.append(m.ShortLine(claim.lines.index(line) + 1, *line.place, quantity, left, status))
            else:
                taken[line.place] += quantity
        if short:
            return m.Insufficient(short)
        for line, _, quantity in wanted:
            self._move(line, "expired", "committed", quantity)
        return None

    def _release(self, claim: Claim, release: m.Release) -> m.Outcome | None:
        if not claim.units("held"):
            return self._nothing_to_take(claim)
        return self._take(claim, release.lines, ("held",), "released")

    def _take(
        self, claim: Claim, lines: list[m.UnitsOfLine] | None, states: tuple[str, ...], target: str
    ) -> m.Outcome | None:
        """Moves units from these states to another, if every line has as many as are asked for."""
        taken = self._units_to_take(claim, lines, states)
        if not taken:
            return self._wrong_state(claim)
        for line, state, quantity in taken:
            self._move(line, state, target, quantity)
        return None

    def _ship(self, claim: Claim, ship: m.Ship) -> m.Outcome | None:
        taken = self._units_to_take(claim, ship.lines, ("picked", "committed"))
        if not taken:
            return self._wrong_state(claim)
        for number, (line, state, quantity) in enumerate(taken, 1):
            self._move(line, state, "shipped", quantity)
            self._own_delta(line.place, "on_hand", -quantity, ship.occurred_at_ms, f"{ship.id}:{number}")
        return None

    def _return(self, claim: Claim, return_: m.Return) -> m.Outcome | None:
        taken = self._units_to_take(claim, return_.lines, ("shipped",))
        if not taken:
            return self._wrong_state(claim)
        buckets: dict[str, m.Bucket] = {"sellable": "on_hand", "damaged": "damaged", "quality_hold": "quality_hold"}
        bucket = buckets.get(return_.disposition)
        for number, (line, state, quantity) in enumerate(taken, 1):
            self._move(line, state, "returned", quantity)
            if bucket is not None:
                self._own_delta(line.place, bucket, quantity, return_.occurred_at_ms, f"{return_.id}:{number}")
        return None

    def _own_delta(self, place: Place, bucket: m.Bucket, quantity: int, occurred_at_ms: int | None, key: str) -> None:
        """What we ship and take back is a delta like any other, at the time it happened."""
        at_ms = self.now_ms if occurred_at_ms is None else occurred_at_ms
        self.stock[place].history.accept(m.StockEvent(key, "", key, "delta", *place, quantity, at_ms, bucket))

    def _move_line(self, claim: Claim, move: m.Move) -> m.Outcome | None:
        if move.location not in self.locations:
            return m.UnknownLocation(move.line, move.location)
        line = claim.lines[move.line - 1] if move.line <= len(claim.lines) else None
        # What was picked, shipped or returned was so at the old location: such a line stays there.
        if line is None or any(line.units[state] for state in ("picked", "shipped", "returned")):
            return self._wrong_state(claim)
        wanted = line.units["held"] + line.units["committed"]
        if not wanted:
            return self._wrong_state(claim)
        target = Place(line.place.sku, move.location)
        if target != line.place:
            left = self.left(target)
            if left < wanted:
                status = self._status(left, self.position(target).held)
                return m.Insufficient([m.ShortLine(move.line, *target, wanted, left, status)])
            line.place = target
        return None

    def _units_to_take(
        self, claim: Claim, wanted: list[m.UnitsOfLine] | None, states: tuple[str, ...]
    ) -> list[tuple[Line, str, int]] | None:
        """The units that ``wanted``, or without it everything, takes; None when a line has fewer."""
        taken: list[tuple[Line, str, int]] = []
        left = [Counter(line.units) for line in claim.lines]

        def take(index: int, quantity: int) -> int:
            for state in states:
                part = min(left[index][state], quantity)
                if part:
                    left[index][state] -= part
                    quantity -= part
                    taken.append((claim.lines[index], state, part))
            return quantity

        if wanted is None:
            for index, line in enumerate(claim.lines):
                take(index, line.quantity)
            return taken
        for want in wanted:
            if want.line > len(claim.lines) or take(want.line - 1, want.quantity) > 0:
                return None
        return taken

    # --- answers ------------------------------------------------------------------------------------------------

    def _answered_before(self, key: str, fingerprint: str) -> m.Outcome | None:
        """The answer to an operation whose key was used before, or None for a new key."""
        record = self.claims.get(key) or self.done.get(key)
        if record is None:
            return None
        if record.fingerprint != fingerprint:
            return m.KeyReused(record.fingerprint)
        target = record.reservation if isinstance(record, Done) else key
        self._end_if_overdue(self.claims[target])
        return self._answer(target, replayed=True)

    def _claim_of(self, key: str, client: str) -> Claim | None:
        claim = self.claims.get(key)
        if claim is None or claim.client != client:
            return None
        self._end_if_overdue(claim)
        return claim

    def _nothing_to_take(self, claim: Claim) -> m.Outcome:
        if not claim.is_live and claim.units("expired"):
            return m.ReservationExpired(claim.expires_at_ms)
        return self._wrong_state(claim)

    def _wrong_state(self, claim: Claim) -> m.WrongState:
        allowed = [verb for verb, states in TAKES.items() if any(claim.units(state) for state in states)]
        return m.WrongState(self.record(claim).status, allowed)

    def _answer(self, key: str, *, replayed: bool = False) -> m.Done:
        return m.Done(replayed, key, self.record(self.claims[key]))

    def record(self, claim: Claim) -> m.Reservation:
        return m.Reservation(
            claim.client,
            claim.fingerprint,
            claim.created_at_ms,
            claim.expires_at_ms,
            claim.order_id,
            claim.channel,
            claim.customer,
            1,
            claim.seq,
            list(claim.operations),
            [
                m.ReservationLine(
                    sku=line.place.sku,
                    location=line.place.location,
                    quantity=line.quantity,
                    requested=line.requested,
                    promise_day=line.promise_day,
                    **{state: line.units[state] for state in STATES},
                )
                for line in claim.lines
            ],
        )

    def _find(self, find: m.Find) -> m.Outcome:
        done = self.done.get(find.id)
        target = done.reservation if done and done.client == find.client else find.id
        if self._claim_of(target, find.client) is None:
            return m.NotFound()
        return m.Found(done.verb if done else "hold", target, self.record(self.claims[target]))

    def _read(self, item: m.ReadItem) -> m.ItemPositions:
        wanted = item.locations
        if wanted is None:
            at = (place.location for place in self.stock if place.sku == item.sku)
            wanted = sorted(location for location in at if self.locations[location].enabled)
        places = [place for location in wanted if (place := Place(item.sku, location)) in self.stock]
        for place in places:
            self._settle(place)
        expiry = None
        if not any(self.left(place) for place in places):
            expiry = min(
                (
                    claim.expires_at_ms
                    for claim in self.claims.values()
                    if any(line.place in places and line.units["held"] for line in claim.lines)
                ),
                default=None,
            )
        positions = [
            m.PositionAt(place.location, self.position(place), self.locations[place.location].enabled)
            for place in places
        ]
        return m.ItemPositions(self._is_known(item.sku), expiry, positions)

    def _expire(self) -> m.Expired:
        return m.Expired(sum(self._end_if_overdue(claim) for claim in self.claims.values()), more=False)

    # --- stock --------------------------------------------------------------------------------------------------

    def _apply(self, event: m.StockEvent, *, by_person: bool) -> m.EventResult:
        place = Place(event.sku, event.location)
        location = self.locations.get(event.location)
        if location is None:
            return m.EventResult("quarantined", "unknown-location", 0, 0)
        stock = self.stock.get(place) or Stock()
        previous = stock.history.number(event.bucket)
        sets_on_hand = event.kind == "snapshot" and event.bucket == "on_hand" and not by_person
        if sets_on_hand and not _is_authority(location.authority, event.source):
            return m.EventResult("quarantined", "not-authoritative", previous, previous)
        verdict = stock.history.accept(event)
        if verdict.outcome in ("applied", "superseded"):
            self._changed = True
            self.stock[place] = stock
            stock.as_of_ms = max(stock.as_of_ms, event.occurred_at_ms)
        number = stock.history.number(event.bucket)
        return m.EventResult(verdict.outcome, verdict.reason, number, previous)

    def _count(self, count: m.Count) -> m.Outcome:
        if count.location not in self.locations:
            return m.UnknownLocation(0, count.location)
        name = (count.location, count.client, count.count_id, count.portion)
        first = self.counts.get(name)
        if first is not None and first != count.fingerprint:
            return m.KeyReused(first)
        if first is not None:
            numbers = [self.position(Place(event.sku, event.location)).on_hand for event in count.events]
            return m.Counted(True, [m.EventResult("duplicate", None, number, number) for number in numbers])
        results = [self._apply(event, by_person=True) for event in count.events]
        self._changed = True
        self.counts[name] = count.fingerprint
        return m.Counted(False, results)


def _is_authority(authority: str | None, source: str) -> bool:
    """Whether a source's snapshots set on-hand: it is the authority, or a part of it, or there is none."""
    return authority is None or source == authority or source.startswith(f"{authority}:")


def _distance(location: m.Location, near: tuple[float, float] | None) -> float:
    """Equirectangular: good enough to rank the nodes of one country; unknown coordinates come last."""
    if location.lat is None or location.lon is None or near is None:
        return inf
    x = radians(location.lon - near[1]) * cos(radians((location.lat + near[0]) / 2))
    return x * x + radians(location.lat - near[0]) ** 2


class RulesLedger:
    """The rules behind the ledger's door: the same methods as ``Ledger``, without a server."""

    def __init__(self, now_ms: Callable[[], int], *, low_stock: int = 5) -> None:
        self.rules = Rules(low_stock=low_stock)
        self._now_ms = now_ms

    def state(self) -> State:
        return State(ready=True, reasons=[], queue_depth=0)

    async def _decide(self, operation: m.Operation) -> Any:
        return self.rules.decide(operation, self._now_ms())

    hold = extend = commit = release = pick = ship = cancel = return_ = move = _decide
    expire = apply = count = read = find = put_location = put_safety_stock = locations = _decide

    async def close(self) -> None:
        """Nothing to close."""
