"""The rules of the ledger in plain Python, without I/O: the page to read first.

``Rules`` decides one operation at a time on dictionaries. It is what API tests run on (``RulesLedger``) and what the
Lua library is held to, step by step (tests/test_agreement.py).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import replace

from ledger import messages as m
from ledger.claims import BECOMES, OPERATIONS_MAX, Claim, Line, Place, Taken, verb_of
from ledger.convergence import BUCKETS, OURS, History, Views
from ledger.planning import Part, plan_of, stock_status, unknown_in
from ledger.rates import Meter, admit
from ledger.state import State

DAY_MS = 24 * 3_600_000


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


class Rules:
    """A ledger of one shard, in memory. ``decide`` is all of it: an operation and the time in, an outcome out."""

    def __init__(
        self,
        *,
        low_stock: int = 5,
        client_open_reservations_max: int = m.CLIENT_OPEN_RESERVATIONS_MAX,
        client_held_units_max: int = m.CLIENT_HELD_UNITS_MAX,
    ) -> None:
        self.low_stock = low_stock
        self.client_open_reservations_max = client_open_reservations_max
        self.client_held_units_max = client_held_units_max
        self.now_ms = self.last_ms = 0
        self.epoch, self.seq = 1, 0
        self.locations: dict[str, m.Location] = {}
        self.stock: dict[Place, Stock] = {}
        self.views: dict[Place, Views] = {}
        self.claims: dict[str, Claim] = {}
        self.done: dict[str, Done] = {}
        self.counts: dict[tuple[str, str, str, int], str] = {}
        self.safety_stock: dict[Place, int] = {}
        self.overcommitted: dict[Place, Shortage] = {}
        self.meters: dict[str, Meter] = {}

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
            case m.PutLocation():
                outcome = self._put_location(operation)
            case m.PutSafetyStock():
                outcome = self._put_safety_stock(operation)
            case m.Admit():
                meter = self.meters.get(operation.client, Meter())
                self.meters[operation.client], outcome = admit(meter, operation, self.now_ms)
            case m.Read() | m.Views() | m.Find() | m.Locations():
                outcome = self._look(operation)
        return outcome

    def _look(self, operation: m.Read | m.Views | m.Find | m.Locations) -> m.Outcome:
        match operation:
            case m.Read():
                return m.Positions(self.now_ms, [self._read(item) for item in operation.items])
            case m.Views():
                return m.ViewList(self._views_of(operation))
            case m.Find():
                return self._find(operation)
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

    def left(self, place: Place) -> int:
        """What can still be promised, once overdue holds there are ended."""
        self._settle(place)
        return max(0, self.position(place).available) if self.locations[place.location].enabled else 0

    def places(self, sku: str) -> list[Place]:
        """Where the SKU has a position and can be sold from, overdue holds there ended."""
        places = [place for place in self.stock if place.sku == sku and self.locations[place.location].enabled]
        for place in places:
            self._settle(place)
        return places

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
        if not claim.is_overdue(self.now_ms):
            return False
        claim.expire()
        self._stamp(claim)
        return True

    def _stamp(self, claim: Claim) -> None:
        self._changed = True
        claim.epoch, claim.seq = self.epoch, self.seq + 1

    def is_known(self, sku: str) -> bool:
        return any(place.sku == sku for place in self.stock)

    # --- hold ---------------------------------------------------------------------------------------------------

    def _hold(self, hold: m.Hold) -> m.Outcome:
        before = self._answered_before(hold.id, hold.fingerprint)
        if before is not None:
            return before
        unknown = unknown_in(hold, self)
        if unknown is not None:
            return unknown
        plan = plan_of(hold, self)
        if plan.short and (hold.mode == "all" or plan.grants_nothing):
            return m.Insufficient(plan.short)
        limited = self._over_limit(hold.client, plan.quantity)
        if limited is not None:
            return limited
        claim = Claim(
            hold.client,
            hold.fingerprint,
            self.now_ms,
            self.now_ms + hold.ttl_ms,
            hold.channel,
            hold.customer,
            [
                self._held_line(part, requested)
                for index, asked in enumerate(hold.lines)
                for part, requested in plan.lines_of(index, asked)
            ],
        )
        self.claims[hold.id] = claim
        self._stamp(claim)
        return self._answer(hold.id)

    def open_reservations(self, client: str) -> int:
        """The client's reservations that have claims."""
        return sum(claim.client == client and claim.is_live for claim in self.claims.values())

    def held_units(self, client: str) -> int:
        """The units that the client holds."""
        return sum(claim.units("held") for claim in self.claims.values() if claim.client == client)

    def _over_limit(self, client: str, held: int) -> m.OpenReservationsLimit | m.HeldUnitsLimit | None:
        """Why the client may not have one more reservation, with so many held units; what is overdue does not count."""
        if self._limit_for(client, held) is not None:
            self._expire()
        return self._limit_for(client, held)

    def _limit_for(self, client: str, held: int) -> m.OpenReservationsLimit | m.HeldUnitsLimit | None:
        opened, holds = self.open_reservations(client), self.held_units(client)
        if opened + 1 > self.client_open_reservations_max:
            return m.OpenReservationsLimit(self.client_open_reservations_max, opened)
        if held and holds + held > self.client_held_units_max:
            return m.HeldUnitsLimit(self.client_held_units_max, holds, held)
        return None

    def _held_line(self, part: Part, requested: int) -> Line:
        return Line(part.place, part.quantity, requested, Counter(held=part.quantity), self.now_ms // DAY_MS)

    # --- the other verbs ----------------------------------------------------------------------------------------

    def _operate(self, operation: m.Change) -> m.Outcome:
        before = self._answered_before(operation.id, operation.fingerprint)
        if before is not None:
            return before
        claim = self._claim_of(operation.reservation, operation.client)
        if claim is None:
            return m.NotFound()
        if not claim.may_operate(operation):
            return m.OperationsLimit(OPERATIONS_MAX)
        refusal = self._change(claim, operation)
        if refusal is not None:
            return refusal
        self.done[operation.id] = Done(
            verb_of(operation), operation.client, operation.fingerprint, operation.reservation
        )
        claim.operations.append(operation.id)
        self._stamp(claim)
        return self._answer(operation.reservation)

    def _change(self, claim: Claim, change: m.Change) -> m.Outcome | None:
        """Does the verb, or does nothing and says why not."""
        if isinstance(change, m.Move):
            return self._move_line(claim, change)
        taken = claim.judge(change)
        if not isinstance(taken, list):
            return taken
        if isinstance(change, m.Commit) and not claim.units("held"):
            refusal = self._reacquire(claim, taken)
            if refusal is not None:
                return refusal
        if isinstance(change, m.Extend):
            claim.expires_at_ms = self.now_ms + change.ttl_ms
            return None
        claim.move(taken, BECOMES[verb_of(change)])
        if isinstance(change, m.Commit):
            claim.order_id = change.order_id
        elif isinstance(change, m.Ship):
            self._ship(claim, change, taken)
        elif isinstance(change, m.Return):
            self._return(claim, change, taken)
        return None

    def _reacquire(self, claim: Claim, wanted: list[Taken]) -> m.Outcome | None:
        """Why the expired units cannot be claimed anew, all or none."""
        needed: Counter[Place] = Counter()
        short = []
        for index, _, quantity in wanted:
            place = claim.lines[index].place
            left = max(0, self.left(place) - needed[place])
            if left < quantity:
                short.append(self._short_line(index + 1, place, quantity, left))
            else:
                needed[place] += quantity
        if short:
            return m.Insufficient(short)
        return None if claim.is_live else self._over_limit(claim.client, 0)

    def _short_line(self, number: int, place: Place, wanted: int, left: int) -> m.ShortLine:
        return m.ShortLine(number, *place, wanted, left, stock_status(self, left, self.position(place).held))

    def _ship(self, claim: Claim, ship: m.Ship, taken: list[Taken]) -> None:
        """A shipment is a delta like any other, at the time it happened; ``taken`` has been moved already."""
        before = [line.units["shipped"] + line.units["returned"] for line in claim.lines]
        for index, _, quantity in taken:
            before[index] -= quantity
        for index, _, quantity in taken:
            line, key = index + 1, f"{ship.reservation}:{index + 1}:{before[index]}"
            before[index] += quantity
            event = self._own_delta(claim.lines[index].place, "on_hand", -quantity, ship.occurred_at_ms, key)
            event = replace(event, reference_reservation=ship.reservation, reference_line=line)
            self.stock[claim.lines[index].place].history.accept(event)

    def _return(self, claim: Claim, return_: m.Return, taken: list[Taken]) -> None:
        """So is what comes back, in the bucket that the disposition names."""
        if return_.disposition == "discard":
            return
        bucket: m.Bucket = "on_hand" if return_.disposition == "sellable" else return_.disposition
        for number, (index, _, quantity) in enumerate(taken, 1):
            place, key = claim.lines[index].place, f"{return_.id}:{number}"
            event = self._own_delta(place, bucket, quantity, return_.occurred_at_ms, key)
            self.stock[place].history.accept(event)

    def _own_delta(
        self, place: Place, bucket: m.Bucket, quantity: int, occurred_at_ms: int | None, key: str
    ) -> m.StockEvent:
        at_ms = self.now_ms if occurred_at_ms is None else occurred_at_ms
        return m.StockEvent(key, OURS, key, "delta", *place, quantity, at_ms, bucket)

    def _move_line(self, claim: Claim, move: m.Move) -> m.Outcome | None:
        if move.location not in self.locations:
            return m.UnknownLocation(move.line, move.location)
        line = claim.lines[move.line - 1] if move.line <= len(claim.lines) else None
        if line is None or not line.allows("move"):
            return claim.wrong_state()
        wanted = line.units["held"] + line.units["committed"]
        target = Place(line.place.sku, move.location)
        if target != line.place:
            left = self.left(target)
            if left < wanted:
                return m.Insufficient([self._short_line(move.line, target, wanted, left)])
            line.place = target
        return None

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

    def _answer(self, key: str, *, replayed: bool = False) -> m.Done:
        return m.Done(replayed, key, self.claims[key].record())

    def _find(self, find: m.Find) -> m.Outcome:
        done = self.done.get(find.id)
        target = done.reservation if done and done.client == find.client else find.id
        if self._claim_of(target, find.client) is None:
            return m.NotFound()
        return m.Found(done.verb if done else "hold", target, self.claims[target].record())

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
        return m.ItemPositions(self.is_known(item.sku), expiry, positions)

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
        views = self.views.setdefault(place, Views())
        sets_on_hand = event.kind == "snapshot" and event.bucket == "on_hand" and event.reverses is None
        is_believed = by_person or not sets_on_hand or _is_authority(location.authority, event.source)
        if not is_believed and not stock.history.knows(event):
            known = views.newest.get(event.source)
            verdict = views.see(event)
            self._changed |= views.newest.get(event.source) is not known
            return m.EventResult(*verdict, previous, previous)
        verdict = stock.history.accept(event)
        if verdict.outcome in ("applied", "superseded"):
            self._changed = True
            if event.reverses is not None:
                views.forget(event.reverses)
            self.stock[place] = stock
            stock.as_of_ms = max(stock.as_of_ms, event.occurred_at_ms)
        number = stock.history.number(event.bucket)
        return m.EventResult(verdict.outcome, verdict.reason, number, previous)

    def _views_of(self, asked: m.Views) -> list[m.View]:
        """What an authority said before it became one is no view any more."""
        return [
            m.View(
                place.location,
                source,
                view.quantity,
                view.occurred_at_ms,
                view.sequence,
                view.id,
                self.stock[place].history.number("on_hand") if place in self.stock else None,
            )
            for place, views in sorted(self.views.items())
            if place.sku == asked.sku and asked.location in (None, place.location)
            for source, view in sorted(views.newest.items())
            if not _is_authority(self.locations[place.location].authority, source)
        ]

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


class RulesLedger:
    """The rules behind the ledger's door: the same methods as ``Ledger``, without a server."""

    def __init__(self, now_ms: Callable[[], int], **options: int) -> None:
        """``options`` as of ``Rules``."""
        self.rules = Rules(**options)
        self._now_ms = now_ms

    @property
    def ready(self) -> bool:
        return self.state().ready

    @property
    def turn(self) -> int:
        """Nothing waits here."""
        return 0

    def state(self) -> State:
        return State(ready=True, reasons=[], queue_depth=0)

    def queue_wait_s(self) -> float:
        return 0.0

    def refused(self) -> dict[str, int]:
        return {}

    async def _decide(self, operation: m.Operation) -> Any:
        return self.rules.decide(operation, self._now_ms())

    hold = extend = commit = release = pick = ship = cancel = return_ = move = _decide
    expire = apply = count = read = views = admit = find = put_location = put_safety_stock = locations = _decide

    async def close(self) -> None:
        """Nothing to close."""
