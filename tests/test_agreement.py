"""The Lua library and the plain-Python rules never differ (P1, P3, P5, P6, P8): same steps, same answers, any program.

Few ids, so that steps collide; time moves to the edges of holds, -1/0/+1 ms.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from books import assert_books_balance, client_counts, live_shortages
from folding import assert_folds
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace
from redis import Redis
from servers import as_owner

from ledger import messages as m
from ledger.identity import event_key, operation_id
from ledger.keys import shard_of
from ledger.rules import Rules
from ledger.store import Ledger

START_MS = 1_800_000_000_000
SKUS = ["A", "B:{}%1", "never"]
LOCATIONS = ["L1", "L2:%", "L3"]
CLIENTS = ["web", "app:%"]
SHRINK = os.environ.get("AGREEMENT_SHRINK", "no") == "yes"  # minutes of shrinking would hide which test is red
EXAMPLES_IN_CI = 200
LIMITS: list[dict[str, Any]] = [{}, {"client_open_reservations_max": 1}, {"client_held_units_max": 6}]
"""What a client may have: in some programs it is little."""
EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", EXAMPLES_IN_CI))

skus = st.sampled_from([*SKUS[:2] * 6, "never"])
locations = st.sampled_from([*LOCATIONS * 5, "nowhere"])
clients = st.sampled_from(CLIENTS)
keys = st.sampled_from([f"k{number}" for number in range(24)])
fingerprints = st.sampled_from(["call:a", "call:a", "call:b"])
small = st.sampled_from([1, 1, 1, 2, 2, 3, 6])
ttls_ms = st.sampled_from([1, 2, 50, 60_000, 60_000, 60_000])
lines = st.lists(st.builds(m.HoldLine, skus, small, st.none() | locations), min_size=1, max_size=4)
units = st.none() | st.lists(st.builds(m.UnitsOfLine, st.integers(1, 3), small), min_size=1, max_size=3)
Units = list[m.UnitsOfLine] | None
dispositions: st.SearchStrategy[m.Disposition] = st.sampled_from(["sellable", "damaged", "quality_hold", "discard"])
happened_ms = st.integers(START_MS - 5, START_MS + 5)
kinds: st.SearchStrategy[Literal["snapshot", "delta", "move"]] = st.sampled_from(["snapshot", "delta", "move"])
buckets: st.SearchStrategy[m.Bucket] = st.sampled_from(["on_hand", "on_hand", "damaged"])


@st.composite
def stock_events(draw: st.DrawFn) -> m.StockEvent:
    """Few sources, ids and times, so that events repeat, contradict, tie, overtake and retract each other."""
    source, name = draw(st.sampled_from(["wms", "erp", "wms:dc1"])), draw(st.sampled_from(list("abcdefgh")))
    kind, bucket, key = draw(kinds), draw(buckets), event_key(source, name)
    other: m.Bucket = "on_hand" if bucket == "damaged" else "damaged"
    retracted = [event_key("wms", "a"), event_key("wms", "b")]
    return m.StockEvent(
        key,
        source,
        name,
        kind,
        draw(skus.filter(lambda sku: sku != "never")),
        draw(locations),
        draw(st.integers(-5, 9)) if kind == "delta" else draw(st.integers(0, 9)),
        draw(happened_ms),
        bucket,
        other if kind == "move" else None,
        draw(st.none() | st.integers(0, 2)),
        reference_reservation=draw(st.sampled_from([None, "elsewhere"])),
        reference_line=draw(st.sampled_from([None, 1])),
        reverses=None if key in retracted else draw(st.sampled_from([None] * 6 + retracted)),
    )


class Agreement(RuleBasedStateMachine):
    """Runs each step on both ledgers and compares the answers."""

    ledgers: list[Ledger]
    redis: Redis
    runner: asyncio.Runner
    clock: list[int]
    shards: int
    reached: Counter[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.clock[0] = START_MS
        self.owners: dict[str, str] = {}

    async def answer(self, operation: m.Operation) -> m.Outcome:
        """What the real ledger says."""
        names = {m.PutLocation: "put_location", m.PutSafetyStock: "put_safety_stock", m.Return: "return_"}
        method = names.get(type(operation), type(operation).__name__.lower())
        outcome: m.Outcome = await getattr(self.ledger, method)(operation)
        return outcome

    def step(self, operation: m.Operation) -> None:
        actual = self.runner.run(self.answer(operation))
        expected = self.model.decide(operation, self.clock[0])

        assert self.comparable(expected) == self.comparable(actual)
        if self.shards == 1:  # with several, each ends its own part of an overdue hold
            assert live_shortages(self.redis) == self.model.overcommitted
        self.reached[type(operation).__name__, type(actual).__name__] += 1
        self.reached["overcommitted", str(len(self.model.overcommitted))] += 1
        if isinstance(actual, m.Done):
            if len({shard_of(line.sku, self.shards) for line in actual.reservation.lines}) > 1:
                self.reached["over shards", type(operation).__name__] += not actual.replayed
            self.owners[actual.id] = actual.reservation.client

    def comparable(self, outcome: m.Outcome) -> m.Outcome:
        """With several shards, each counts its own entries, and ends its own part of an overdue hold."""
        if self.shards == 1:
            return outcome
        match outcome:
            case m.Done() | m.Found():
                return replace(outcome, shard=0, reservation=replace(outcome.reservation, seq=0))
            case m.Expired():
                return m.Expired(0, outcome.more)
        return outcome

    @initialize(counted=st.lists(st.integers(0, 12), min_size=6, max_size=6), limits=st.sampled_from([0, 0, 1, 2]))
    def open_the_shops(self, counted: list[int], limits: int) -> None:
        self.ledger, self.model = self.ledgers[limits % len(self.ledgers)], Rules(**LIMITS[limits % len(self.ledgers)])
        for index, location in enumerate(LOCATIONS):
            place = m.Location(location, priority=index % 2, lat=index * 10.0, lon=0.0)
            self.step(m.PutLocation("ops", replace(place, authority=None if index else "wms")))
            for number, sku in enumerate(SKUS[:2]):
                name = f"opening-{sku}-{location}"
                quantity = counted[index * 2 + number]
                event = m.StockEvent(
                    event_key("wms", name), "wms", name, "snapshot", sku, location, quantity, START_MS - 10
                )
                self.step(m.Apply("ops", [event]))

    @rule(location=st.sampled_from(LOCATIONS), enabled=st.booleans(), authority=st.sampled_from([None, "wms"]))
    def change_location(self, location: str, enabled: bool, authority: str | None) -> None:  # noqa: FBT001 a drawn value
        self.step(m.PutLocation("ops", m.Location(location, enabled=enabled, authority=authority)))
        self.step(m.Locations())

    @rule(items=st.lists(st.builds(m.SafetyStock, skus, locations, st.integers(0, 4)), min_size=1, max_size=3))
    def put_safety_stock(self, items: list[m.SafetyStock]) -> None:
        self.step(m.PutSafetyStock("ops", items))

    @rule(
        client=clients,
        key=keys,
        fingerprint=fingerprints,
        lines=lines,
        ttl_ms=ttls_ms,
        mode=st.sampled_from(["all", "available"]),
        strategy=st.sampled_from(["priority", "nearest", "most_stock", "fewest_splits"]),
        max_splits=st.sampled_from([None, None, 0, 1]),
    )
    def hold(self, client, key, fingerprint, lines, ttl_ms, mode, strategy, max_splits) -> None:  # type: ignore[no-untyped-def]
        near = (21.0, 0.0) if strategy == "nearest" else None
        key = operation_id(client, key)
        self.step(m.Hold(key, fingerprint, client, lines, ttl_ms, mode, "web", None, strategy, max_splits, near))

    @rule(client=clients, key=keys, location=st.sampled_from(LOCATIONS), returned=units)
    def basket(self, client: str, key: str, location: str, returned: Units) -> None:
        """The usual life of two SKUs, which are on different shards where there are several."""
        basket = operation_id(client, key)
        asked = [m.HoldLine("A", 1, location), m.HoldLine("B:{}%1", 2)]
        self.step(m.Hold(basket, "call:basket", client, asked, 60_000, "available"))
        head = ("call:basket", client, basket)

        def named(verb: str) -> tuple[str, str, str, str]:
            return (operation_id(client, f"{key}-{verb}"), *head)

        self.step(m.Extend(*named("extend"), 60_000))
        self.step(m.Move(*named("move"), 1, "L3"))
        self.step(m.Release(*named("release"), [m.UnitsOfLine(2, 1)]))
        self.step(m.Commit(*named("commit"), "order"))
        self.step(m.Cancel(*named("cancel"), returned))
        self.step(m.Pick(*named("pick")))
        self.step(m.Ship(*named("ship")))
        self.step(m.Return(*named("return"), returned))

    def head(self, data: st.DataObject) -> tuple[str, str, str, str]:
        """Any reservation, mostly by its own client, under a key that may have been used."""
        target = data.draw(st.sampled_from(sorted(self.owners)))
        client = data.draw(st.sampled_from([self.owners[target]] * 9 + CLIENTS))
        return operation_id(client, data.draw(keys)), data.draw(fingerprints), client, target

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), ttl_ms=ttls_ms)
    def extend(self, data: st.DataObject, ttl_ms: int) -> None:
        self.step(m.Extend(*self.head(data), ttl_ms))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), reacquire=st.booleans(), lines=units)
    def commit(self, data: st.DataObject, *, reacquire: bool, lines: Units) -> None:
        self.step(m.Commit(*self.head(data), "order", reacquire, lines))

    @rule(client=clients, sku=skus, first=keys, second=keys, third=keys)
    def claim_again_beside_another(self, client: str, sku: str, first: str, second: str, third: str) -> None:
        """A hold is lost, another one made, and the first one claimed again: one too many for some clients."""
        lost, other, again = (operation_id(client, key) for key in (first, second, third))
        self.step(m.Hold(lost, "call:a", client, [m.HoldLine(sku, 1)], 50))
        self.clock[0] += 50
        self.step(m.Hold(other, "call:a", client, [m.HoldLine(sku, 1)], 60_000))
        self.step(m.Commit(again, "call:a", client, lost, "order", reacquire=True))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def commit_all(self, data: st.DataObject) -> None:
        self.step(m.Commit(*self.head(data), "order"))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), lines=units)
    def release(self, data: st.DataObject, lines: Units) -> None:
        self.step(m.Release(*self.head(data), lines))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), lines=units)
    def pick(self, data: st.DataObject, lines: Units) -> None:
        self.step(m.Pick(*self.head(data), lines))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), lines=units, occurred_at_ms=st.none() | happened_ms)
    def ship(self, data: st.DataObject, lines: Units, occurred_at_ms: int | None) -> None:
        head = self.head(data)
        told_first, told_after = data.draw(st.tuples(st.booleans(), st.booleans()))
        if told_first:
            self.report(data, head[3])
        self.step(m.Ship(*head, lines, occurred_at_ms))
        if told_after:
            self.report(data, head[3])

    def report(self, data: st.DataObject, target: str) -> None:
        """The WMS tells of a shipment that was or will be ours, mostly where it is; at times it takes that back."""
        name, quantity, at_ms = data.draw(st.tuples(st.sampled_from(list("abcd")), small, happened_ms))
        number, found = data.draw(st.sampled_from(list(enumerate(self.model.claims[target].lines, 1))))
        location = data.draw(st.sampled_from([found.place.location or "L1"] * 9 + ["L1"]))
        line = {"reference_reservation": target, "reference_line": number}
        event = m.StockEvent(
            *(event_key("wms", name), "wms", name, "delta", found.place.sku, location, -quantity, at_ms),
            **line,  # type: ignore[arg-type]  # each has its own type
        )
        self.step(m.Apply("feed", [event]))
        if name in "ab" and data.draw(st.booleans()):
            key = event_key("wms", f"no {name}")
            self.step(m.Apply("feed", [replace(event, key=key, id=f"no {name}", reverses=event.key)]))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), lines=units)
    def cancel(self, data: st.DataObject, lines: Units) -> None:
        self.step(m.Cancel(*self.head(data), lines))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), lines=units, disposition=dispositions, occurred_at_ms=st.none() | happened_ms)
    def give_back(
        self, data: st.DataObject, lines: Units, disposition: m.Disposition, occurred_at_ms: int | None
    ) -> None:
        self.step(m.Return(*self.head(data), lines, disposition, occurred_at_ms))

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), line=st.integers(1, 3), location=locations)
    def move(self, data: st.DataObject, line: int, location: str) -> None:
        self.step(m.Move(*self.head(data), line, location))

    @rule(events=st.lists(stock_events(), min_size=1, max_size=5))
    def apply(self, events: list[m.StockEvent]) -> None:
        self.step(m.Apply("feed", events))

    @precondition(lambda self: self.model.claims and self.shards == 1)  # where shortages are compared
    @rule(data=st.data(), quantity=st.integers(-9, 9))
    def lose_or_find_units(self, data: st.DataObject, quantity: int) -> None:
        """Where some are or were claimed, and after whatever was counted there."""
        places = {line.place for claim in self.model.claims.values() for line in claim.lines if line.place.location}
        place = data.draw(st.sampled_from(sorted(places)))
        name = f"lost or found {self.model.seq}"
        key, at_ms = event_key("wms", name), START_MS + 6
        self.step(m.Apply("feed", [m.StockEvent(key, "wms", name, "delta", *place, quantity, at_ms)]))

    @rule(
        client=clients,
        count_id=st.sampled_from(["c1", "c2"]),
        fingerprint=fingerprints,
        location=locations,
        quantity=st.integers(0, 9),
        as_of_ms=happened_ms,
    )
    def count(self, client, count_id, fingerprint, location, quantity, as_of_ms) -> None:  # type: ignore[no-untyped-def]
        name = f"{count_id}:A"
        key = event_key(client, f"count:{location}:{count_id}:A")
        event = m.StockEvent(key, client, name, "snapshot", "A", location, quantity, as_of_ms)
        self.step(m.Count(fingerprint, client, location, count_id, [event]))

    @rule(items=st.lists(st.builds(m.ReadItem, skus, st.none() | st.lists(locations, unique=True)), max_size=3))
    def read(self, items: list[m.ReadItem]) -> None:
        self.step(m.Read(items))
        for item in items:
            self.step(m.Views(item.sku, item.locations[0] if item.locations else None))

    @rule(
        client=clients,
        count=st.integers(1, 9),
        per_second=st.sampled_from([1, 3, 7, 1_000]),
        burst=st.sampled_from([1, 5, 20]),
        milliseconds=st.sampled_from([0, 1, 142, 143, 333]),
    )
    def admit(self, client: str, count: int, per_second: int, burst: int, milliseconds: int) -> None:
        self.step(m.Admit(client, count, per_second, burst))
        self.clock[0] += milliseconds
        self.step(m.Admit(client, 1, per_second, burst))

    @rule(client=clients, key=keys)
    def find(self, client: str, key: str) -> None:
        self.step(m.Find(operation_id(client, key), client))

    @rule()
    def expire(self) -> None:
        self.step(m.Expire())

    @rule(milliseconds=st.sampled_from([0, 1, 49, 1_000]))
    def wait(self, milliseconds: int) -> None:
        self.clock[0] += milliseconds

    @precondition(lambda self: self.model.claims)
    @rule(data=st.data(), past_ms=st.sampled_from([-1, 0, 1]))
    def wait_for_a_deadline(self, data: st.DataObject, past_ms: int) -> None:
        """The edge of a hold: one millisecond before it, on it, and one after."""
        deadlines = sorted({claim.expires_at_ms for claim in self.model.claims.values()})
        self.clock[0] = max(self.clock[0], data.draw(st.sampled_from(deadlines)) + past_ms)

    @rule()
    def clock_runs_back(self) -> None:
        """The server's clock does; a shard's must not (and each shard remembers its own)."""
        if self.shards == 1:
            self.clock[0] -= 30

    def teardown(self) -> None:
        everything = [m.ReadItem(sku) for sku in SKUS]
        self.step(m.Read(everything))
        for sku in SKUS:
            self.step(m.Views(sku))
        self.assert_journaled()
        if self.shards == 1:
            counts = {name: (self.model.open_reservations(name), self.model.held_units(name)) for name in CLIENTS}
            assert client_counts(self.redis) == {name: count for name, count in counts.items() if count[0]}

    def assert_journaled(self) -> None:
        """The journal says what is there."""
        for shard in range(self.shards):
            assert_books_balance(self.redis, shard)
            assert_folds(self.redis, shard)


@pytest.fixture(params=[1, 4])
def machine(valkey_url: str, request: pytest.FixtureRequest) -> Iterator[type[Agreement]]:
    """The state machine, connected to a real server; with four shards, the two SKUs are on different ones."""
    shards: int = request.param
    assert shards == 1 or shard_of(SKUS[0], shards) != shard_of(SKUS[1], shards)
    clock = [START_MS]
    with asyncio.Runner() as runner, Redis.from_url(as_owner(valkey_url)) as client:
        limits = LIMITS if shards == 1 else LIMITS[:1]  # each shard keeps its own
        ledgers = [Ledger(valkey_url, shards=shards, now_ms=lambda: clock[0], **limit) for limit in limits]

        class Connected(Agreement):
            pass

        Connected.ledgers, Connected.redis, Connected.runner, Connected.clock = ledgers, client, runner, clock
        Connected.reached, Connected.shards = Counter(), shards
        yield Connected
        for ledger in ledgers:
            runner.run(ledger.close())


@pytest.mark.long
def test_lua_and_rules_agree_on_every_program(machine: type[Agreement]) -> None:
    """P1, P3, P5, P6, P8."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES if machine.shards == 1 else EXAMPLES // 2,
            stateful_step_count=50,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if SHRINK else [])],
            deadline=None,
            derandomize=EXAMPLES == EXAMPLES_IN_CI,  # the same programs each time, so that what they reach is no luck
            suppress_health_check=list(HealthCheck),
        ),
    )
    for verb in ("Hold", "Extend", "Commit", "Release", "Pick", "Ship", "Cancel", "Return", "Move"):
        assert machine.reached[verb, "Done"], f"no program got a {verb} done"
        assert machine.shards == 1 or machine.reached["over shards", verb], f"no {verb} over several shards"
    outcomes = {outcome for _, outcome in machine.reached}
    assert outcomes >= {"KeyReused", "Insufficient", "WrongState", "ReservationExpired", "NotFound", "UnknownSku"}
    if machine.shards == 1:
        assert machine.reached["overcommitted", "1"], "no program got a position overcommitted"
        assert outcomes >= {"OpenReservationsLimit", "HeldUnitsLimit"}
        assert machine.reached["Commit", "OpenReservationsLimit"]
