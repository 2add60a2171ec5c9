"""Owns one run: a whole service in simulated time, from a seed. The same seed is the same run.

Real are the API (from its ASGI door to the ledger's), the intake of feeds, the keeper, the watch of the journal, the
journal's reader and writer, Valkey with the Lua library, and Postgres. Simulated are time and the network between them,
where messages are lost, doubled, late and out of order, and processes and servers die at any step.
"""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

import msgspec
from api_world import ALL_SCOPES, AUDIENCE, ISSUER, Issuer
from books import assert_books_balance
from folding import assert_folds
from redis import Redis

from ledger.convergence import OURS, History
from ledger.journal.records import START
from ledger.messages import JournalEntry, ReservationExpired, StockEvent
from simulation.auditor import RACE_MS, UNKNOWN, Books, insist
from simulation.chance import Chance
from simulation.crowd import CROWDS
from simulation.customers import CLIENTS, Customers, Operation
from simulation.journal import Portal, Postgres
from simulation.loop import START_MS, SimulatedLoop
from simulation.network import DUE_MAX, JOURNAL_TAIL, LedgerServer, Ran, Server, SimulatedShard, library
from simulation.oracle import Oracle, QuickStock
from simulation.processes import Surroundings
from simulation.service import Service
from simulation.staff import Staff

WORK_STEPS = 30
CALM_S = 8.0
CONVERGED_S = 120.0
CALLS_MAX = 20_000
"""Of the ledger, several times as many as any run has."""
SETTLED_AT_ONCE = 256
REFUSING_S = 3.0
"""Within it, every process has seen that the ledger has lost something."""
DAY_S = 86_400


@dataclass
class Servers:
    """The real servers of many runs, one after the other."""

    redis_url: str
    server: Server
    redis: Redis
    postgres: Postgres
    issuer: Issuer

    @classmethod
    @contextmanager
    def open(cls, redis_url: str, postgres_url: str) -> Iterator["Servers"]:
        portal = Portal()
        server, redis = Server(redis_url), Redis.from_url(redis_url)
        for crowd in CROWDS:
            server.load(crowd.due_max)
        postgres = Postgres(portal, postgres_url, redis_url)
        try:
            yield cls(redis_url, server, redis, postgres, Issuer())
        finally:
            postgres.close()
            redis.close()
            server.close()
            portal.close()


@dataclass
class Outcome:
    """What a run came to: ``broken`` is the promise that it broke, if it did."""

    seed: int
    broken: str | None
    requests: int
    operations: int
    """That the ledger decided, each time that it did: a hold, a verb, a look, a batch of stock events."""
    calls: int
    steps: int
    reached: Counter[str]
    history: list[str]


class Run:
    """One seed."""

    def __init__(self, servers: Servers, seed: int) -> None:
        self.servers, self.seed = servers, seed
        self.chance = Chance(seed)
        self.loop = SimulatedLoop()
        self.crowd = self.chance.of(CROWDS)
        self.shards = self.chance.of((1, 1, 2))
        self.books = Books(self.shards)
        self.calls = self.operations = 0
        self.has_lost = False
        self.entries: dict[int, list[JournalEntry]] = {}
        self.bodies: dict[int, list[bytes]] = {}
        self.history: list[str] = []
        self.customers: Customers | None = None
        limits = {
            "client_open_reservations_max": self.chance.of((100_000, 100_000, self.crowd.carts)),
            "client_held_units_max": self.chance.of((100_000, 100_000, self.crowd.carts + 3)),
        }
        self.oracle = Oracle(passes_over=self.crowd.due_max < DUE_MAX, **limits) if self.shards == 1 else None
        self.limits = {
            **limits,
            "operations_max": self.chance.of(self.crowd.operations_max),
            "backlog_entries_max": self.chance.of(self.crowd.backlog_entries_max),
        }

    def run(self) -> Outcome:
        """Does it all."""
        logging.disable(logging.CRITICAL)
        gc.disable()  # what is forgotten is forgotten at the same step each time
        self.servers.server.empty()
        self.servers.postgres.empty()
        broken = None
        with ExitStack() as stack:
            for each in self._stand_ins():
                stack.enter_context(each)
            try:
                self.loop.run_until_complete(self._story())
            except AssertionError as error:
                broken = f"{type(error).__name__}: {str(error)[:2_000]}"
            finally:
                self.loop.bury()
                gc.enable()
                logging.disable(logging.NOTSET)
        customers = self.customers
        reached = self.books.reached + self.chance.met
        if self.oracle is not None:
            reached += self.oracle.answers
        requests = customers.requests if customers else 0
        return Outcome(self.seed, broken, requests, self.operations, self.calls, self.loop.steps, reached, self.history)

    def _stand_ins(self) -> list[Any]:
        """What is not as it is in production: how a shard connects, small bounds, and all luck from the seed."""
        self.server = LedgerServer(self.servers.server, self.loop, self.chance, self._ran)
        name = lambda: SimpleNamespace(hex=f"{self.chance.random.getrandbits(128):032x}")  # noqa: E731
        return [
            patch("ledger.store.Shard", partial(SimulatedShard, self.server)),
            patch("ledger.shard.library", partial(library, self.crowd.due_max)),
            patch("ledger.rules.Stock", QuickStock),
            patch("ledger.spanning.uuid4", name),
            patch("ledger.spanning.uniform", self.chance.random.uniform),
            patch(
                "availability.api.openapi.document", lambda _endpoints: b"{}"
            ),  # which takes longer than all the rest
            patch("ledger.server_clock.monotonic_ms", lambda: self.loop.now_ms),
            patch("ledger.server_clock.clock_ms", lambda: self.loop.now_ms),
            patch("ledger.journal.stream.TAIL_ENTRIES", JOURNAL_TAIL),
        ]

    def _ran(self, call: Ran) -> None:
        """The server ran a call."""
        self.calls += 1
        kinds = Counter(type(operation).__name__ for operation in call.operations)
        told = " ".join(f"{kind}*{times}" for kind, times in kinds.items())
        # Not of the whole entry: its keys come in the order of a Lua table, which means nothing.
        done = crc32(msgspec.msgpack.encode(call.entry.operations)) if call.entry else 0
        self.history.append(f"{call.now_ms - START_MS} s{call.shard} {told} {call.seq} {done:x}")
        if self.has_lost:
            insist("P9", call.entry is None, "a ledger that is behind its journal was changed:", call)
            return
        self.operations += len(call.outcomes or ())
        self.books.reached["call of 100 operations"] += len(call.outcomes or ()) >= 100
        insist("P9", self.calls <= CALLS_MAX, "it does not come to rest:", self.history[-5:])
        if call.error is not None:
            insist("P4", not str(call.error).startswith("DECISION"), call.operations, call.error)
        for outcome in call.outcomes or ():
            self.books.reached[f"answer {type(outcome).__name__}"] += 1
            if isinstance(outcome, ReservationExpired) and call.now_ms - outcome.expired_at_ms <= RACE_MS:
                self.books.reached["too late by a hair"] += 1
        if self.oracle is not None and (wrong := self.oracle.ran(call)):
            insist("P1 P3 P5", False, wrong)
        if call.entry is not None:
            self.entries.setdefault(call.shard, []).append(call.entry)
            self.bodies.setdefault(call.shard, []).append(call.body)
            self.books.take(call)
        if self.shards > 1:
            self.books.looked(call)

    async def _story(self) -> None:
        around = Surroundings(
            self.loop, self.chance, self.server, self.servers.postgres, self.servers.issuer, self.shards, self.limits
        )
        service = Service(around)
        customers = self.customers = Customers(service, self.books, self.crowd, self._tokens())
        staff = Staff(customers)
        try:
            await staff.open()
            misfortunes = asyncio.create_task(service.misfortunes())
            async with asyncio.TaskGroup() as group:
                for _ in range(self.crowd.shoppers):
                    group.create_task(customers.shop(self.crowd.steps))
                group.create_task(staff.work(WORK_STEPS))
            self.chance.calm = True
            await misfortunes
            await self._converge(service)
            await self._judge(customers, staff)
            await self._judge_refusal(customers)
        except BaseExceptionGroup as group_of:
            raise group_of.exceptions[0] from None
        finally:
            service.end()

    def _tokens(self) -> dict[str, str]:
        expires_s = START_MS // 1_000 + DAY_S
        return {
            client: self.servers.issuer.sign(
                {"iss": ISSUER, "aud": AUDIENCE, "exp": expires_s, "sub": client, "scope": ALL_SCOPES}
            )
            for client in (*CLIENTS, "staff")
        }

    # --- the end ------------------------------------------------------------------------------------------------

    async def _converge(self, service: Service) -> None:
        """When nothing goes wrong any more, all that was begun comes to its end, and the journal has all."""
        await asyncio.sleep(CALM_S)
        try:
            async with asyncio.timeout(CONVERGED_S):
                while not (service.stream.is_empty and await self._is_journaled()):  # noqa: ASYNC110 - of simulated time
                    await asyncio.sleep(0.1)
        except TimeoutError:
            left = len(service.stream.waiting), service.stream.given_out
            insist("P8", False, f"it does not come to rest: {left} messages, journal {await self._is_journaled()}")
        written = service.journaler.written
        insist("P7", not (written.conflicts or written.gaps or written.rejects), written)

    async def _is_journaled(self) -> bool:
        if self.servers.postgres.away:
            return False
        ends = {shard: await self.servers.postgres.end(shard) for shard in self.server.places}
        return all(end.place == self.server.places[shard] for shard, end in ends.items())

    async def _judge(self, customers: Customers, staff: Staff) -> None:
        """At rest: each promise, on all there is."""
        self._judge_books()
        self._judge_journal()
        self._judge_stock(staff)
        insist("P1", self.oracle is None or not self.oracle.rules.miscounted(), "the oracle's sums")
        for operations in _batched(customers.operations.values(), SETTLED_AT_ONCE):
            await asyncio.gather(*(self._judge_operation(customers, operation) for operation in operations))

    async def _judge_operation(self, customers: Customers, operation: Operation) -> None:
        # What came twice may have been refused, and then done: who sent it once heard only one of the two.
        known = [attempt for attempt in operation.attempts if attempt.status not in UNKNOWN]
        known = [] if customers.came_twice(operation) else known
        was_done = operation.id in self.books.done
        acknowledged = any(attempt.reservation for attempt in operation.attempts)
        insist("P2", was_done or not acknowledged, operation, "was acknowledged, and is lost")
        if len(known) == len(operation.attempts) and not acknowledged:
            insist("P4", not was_done, operation, "was refused each time, and was done")
        if len(known) < len(operation.attempts) or acknowledged:
            told = await customers.settle(operation)
            insist("P2 P4", told == ("done" if was_done else "not done"), operation, "is", told)

    async def _judge_refusal(self, customers: Customers) -> None:
        """P9: a ledger that came back with less than its journal has is not changed by anybody."""
        self.has_lost = True
        customers.around.server.lose_everything()
        await asyncio.sleep(REFUSING_S)
        hold = b'{"lines":[{"sku":"A","quantity":1}]}'
        safety = b'{"items":[{"sku":"A","location":"L1","quantity":1}]}'
        answers = [
            await customers.ask(CLIENTS[0], "POST", "/v1/reservations", hold, customers.name("late")),
            await customers.ask("staff", "PUT", "/v1/safety-stock", safety),
            await customers.ask("staff", "PUT", "/v1/locations/L1", b'{"type":"store"}'),
        ]
        insist("P9", all(answer.status == 503 for answer in answers), answers)
        self.books.reached["refused after a loss"] += 1

    def _judge_books(self) -> None:
        for shard in range(self.shards):
            entries = self.entries.get(shard, [])
            assert_books_balance(self.servers.redis, shard, entries)
            assert_folds(self.servers.redis, shard, entries=entries)

    def _judge_journal(self) -> None:
        """P7: Postgres has every entry as the server wrote it, and its chain holds."""
        reader, ask = self.servers.postgres.reader, self.servers.postgres.portal.ask
        for shard, bodies in self.bodies.items():
            insist("P7", not ask(reader.verify_chain(shard)), "the chain of shard", shard)

            async def stored(shard: int = shard) -> list[JournalEntry]:
                return [entry async for entry in reader.entries(shard, START)]

            insist("P7", ask(stored()) == self.entries[shard], len(bodies), "entries of shard", shard)

    def _judge_stock(self, staff: Staff) -> None:
        """P8: on hand is what the published events come to in any order, with our own shipments and returns."""
        histories = {(sku, location): History() for sku in self.crowd.skus for location in self.crowd.locations}
        events = [*staff.published.values(), *self._own_events()]
        self.chance.random.shuffle(events)
        for event in events:
            histories[event.sku, event.location].accept(event)
        for place, history in histories.items():
            there, right = self.books.units[place]["on_hand"], history.number("on_hand")
            insist("P8", there == right, place, "has", there, "its events come to", right)

    def _own_events(self) -> Iterator[StockEvent]:
        """What the ledger shipped and took back itself."""
        number = 0
        for entry in (entry for entries in self.entries.values() for entry in entries):
            for operation in entry.operations:
                for movement in operation.movements:
                    back = operation.verb == "return" and movement.to_bucket == "on_hand"
                    if movement.to_bucket == "shipped" or back:
                        number += 1
                        quantity = movement.quantity if back else -movement.quantity
                        place = (movement.sku, movement.location)
                        yield StockEvent(f"own-{number}", OURS, str(number), "delta", *place, quantity, entry.at_ms)


def _batched(items: Iterable[Operation], size: int) -> Iterator[list[Operation]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
