"""Owns the replay: baskets in time order, each held, committed and shipped at its store, and the stores' counts.

Baskets of a store are held one after the other, so that who gets the last unit is not a matter of luck and ``Books``
can tell it beforehand; everything else overlaps. A store recounts what moved when its day is over. Its count leaves
once the service knows all that the store shipped until then, as a person with a clipboard would see to; it may arrive
any time later.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.baskets import DAY_MS, Basket, Books, Line, Place, Short, opening_counts, reservations_of
from bench.caller import Unexpected, Verdict
from bench.contract import time_text
from bench.replay_stores import Stores, Way

FAULTS_KEPT = 20
_LINE_FIELD = re.compile(r"lines\[(\d+)\]\.(\w+)\Z")


class Sale(NamedTuple):
    """A reservation to be made, and what the books say to it: no short lines = it must be held."""

    basket: Basket
    number: int
    lines: list[Line]
    short: list[Short]

    @property
    def name(self) -> str:
        return f"{self.basket.number}-{self.number}"


class Recount(NamedTuple):
    way: Way
    day: int
    quantities: dict[str, int]


@dataclass
class Tally:
    """What was done, by what the service answered. ``reservations``, ``lines`` and ``units`` by outcome."""

    baskets: int = 0
    baskets_of_nothing: int = 0
    """Those without a line of which there can be units."""
    lines_read: int = 0
    reservations: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    """Lines, by the reason."""
    counts: Counter[str] = field(default_factory=Counter)
    counted_lines: Counter[str] = field(default_factory=Counter)
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Each state change that was acknowledged: the event's word and the reservation."""
    faults: list[str] = field(default_factory=list)
    """Answers other than the books say."""
    faults_count: int = 0

    def note(self, outcome: str, lines: Sequence[Line]) -> None:
        self.reservations[outcome] += 1
        self.lines[outcome] += len(lines)
        self.units[outcome] += sum(line.quantity for line in lines)

    def fault(self, text: str) -> None:
        self.faults_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(text)


class Replay:
    """One run over some baskets; ``open`` and then ``sell``."""

    def __init__(self, stores: Stores, baskets: Sequence[Basket], concurrency: int) -> None:
        self.stores = stores
        self.baskets = baskets
        self.books = Books(opening_counts(baskets))
        self.tally = Tally()
        self.counted_at_ms: dict[Place, int] = {}
        """When each position was last counted."""
        self._numbers = {store: number for number, store in enumerate(sorted({basket.store for basket in baskets}))}
        self._first_day = min(basket.day for basket in baskets)
        self._room = asyncio.Semaphore(concurrency)
        self._lanes: dict[int, asyncio.Queue[Sale | Recount | None]] = {
            store: asyncio.Queue() for store in self._numbers
        }
        self._group = asyncio.TaskGroup()

    async def open(self) -> None:
        """Create the stores and tell what they have: every other one by NATS. Returns when the service knows."""
        opening: dict[int, dict[str, int]] = {store: {} for store in self._numbers}
        for place, quantity in self.books.opening.items():
            opening[place.store][place.sku] = quantity
        async with asyncio.TaskGroup() as group:
            for store, quantities in opening.items():
                group.create_task(self._open_store(store, quantities))
        self.counted_at_ms = dict.fromkeys(self.books.opening, self._first_day * DAY_MS - 1)
        if late := await self.stores.wait_counted(self.counted_at_ms):
            raise Unexpected(f"{len(late)} opening counts did not arrive, that of {late[0]} among them")

    async def sell(self, progress: Callable[[], None]) -> None:
        """Replay all baskets; ``progress`` is called after each. Counts by NATS may still be under way after it."""
        async with self._group:
            for store in self._numbers:
                self._group.create_task(self._serve(store))
            day = self._first_day
            for basket in self.baskets:
                while day < basket.day:
                    self._end_day(day)
                    day += 1
                await self._let_in(basket)
                progress()
            self._end_day(day)
            for lane in self._lanes.values():
                lane.put_nowait(None)

    def _way(self, store: int, day: int) -> Way:
        """By turns, over the stores and over a store's days."""
        return "http" if (self._numbers[store] + day - self._first_day) % 2 == 0 else "nats"

    async def _open_store(self, store: int, quantities: dict[str, int]) -> None:
        await self.stores.open(store)
        if quantities:
            day = self._first_day - 1
            await self._count(store, Recount(self._way(store, day), day, quantities))

    async def _count(self, store: int, recount: Recount) -> None:
        """Send a count of the end of a day."""
        as_of_ms = (recount.day + 1) * DAY_MS - 1
        await self.stores.count(recount.way, store, f"day-{recount.day}", as_of_ms, recount.quantities)
        self.tally.counts[recount.way] += 1
        self.tally.counted_lines[recount.way] += len(recount.quantities)

    async def _let_in(self, basket: Basket) -> None:
        """Send a basket to its store as soon as there is room."""
        self.tally.baskets += 1
        self.tally.baskets_of_nothing += not any(line.quantity > 0 for line in basket.asked)
        self.tally.lines_read += len(basket.lines)
        self.tally.rejected.update(line.refused for line in basket.lines if line.refused is not None)
        for number, lines in enumerate(reservations_of(basket), 1):
            await self._room.acquire()
            short = self.books.sell(basket.store, [line for line in lines if line.quantity > 0])
            self._lanes[basket.store].put_nowait(Sale(basket, number, lines, short))

    def _end_day(self, day: int) -> None:
        """Let each store that had buyers recount what they wanted."""
        for store in sorted(self.books.moved):
            quantities = self.books.recount(store)
            if quantities:
                self._lanes[store].put_nowait(Recount(self._way(store, day), day, quantities))
                self.counted_at_ms.update((Place(store, sku), (day + 1) * DAY_MS - 1) for sku in quantities)

    async def _serve(self, store: int) -> None:
        """One store: hold baskets in order, ship them meanwhile, and count when all of a day is shipped."""
        shipping: set[asyncio.Task[None]] = set()
        while (job := await self._lanes[store].get()) is not None:
            if isinstance(job, Recount):
                if shipping:
                    await asyncio.wait(shipping)
                self._group.create_task(self._count(store, job))
                continue
            reservation = await self._hold(job)
            if reservation is None:
                self._room.release()
                continue
            task = self._group.create_task(self._commit_and_ship(job, reservation))
            shipping.add(task)
            task.add_done_callback(shipping.discard)

    async def _hold(self, sale: Sale) -> dict[str, Any] | None:
        """The reservation, or None when there was nothing to hold or not enough of it."""
        wanted = list(sale.lines)
        while wanted:
            verdict = await self._ask_to_hold(sale, wanted)
            if verdict.status != 400:
                return self._judge_hold(sale, wanted, verdict)
            # A refusal changed nothing, so the key is free to ask again without the line that was wrong.
            error = verdict.body["errors"][0]
            if (found := _LINE_FIELD.match(error["field"])) is None:
                self.tally.fault(f"basket {sale.name}: {verdict.body}")
                return None
            line = wanted.pop(int(found[1]))
            self.tally.rejected[f"400 lines[].{found[2]}: {error['rule']}"] += 1
            if line.quantity > 0:
                self.tally.fault(f"basket {sale.name}: a good line was refused: {line} {error}")
        if sale.short:
            self.tally.fault(f"basket {sale.name}: nothing left to hold, the books say {sale.short}")
        return None

    async def _ask_to_hold(self, sale: Sale, wanted: list[Line]) -> Verdict:
        location = self.stores.location(sale.basket.store)
        form = {
            "lines": [{"sku": line.sku, "quantity": line.quantity, "location": location} for line in wanted],
            "customer": f"household-{sale.basket.household}",
        }
        return await self.stores.caller.ask("POST", "/v1/reservations", form, self._key("hold", sale))

    def _judge_hold(self, sale: Sale, wanted: list[Line], verdict: Verdict) -> dict[str, Any] | None:
        """Compare the answer with the books."""
        self.tally.note("asked", wanted)
        if verdict.status == 201:
            self.tally.note("held", wanted)
            self.tally.changes["held", verdict.body["id"]] += 1
            if sale.short:
                self.tally.fault(f"basket {sale.name}: held, the books say {sale.short}")
            self._compare_lines(sale, wanted, verdict, "held")
            return verdict.body
        self.tally.note("refused", wanted)
        if verdict.status == 409 and verdict.problem == "insufficient-stock":
            short = [Short(line["line"], line["available"]) for line in verdict.body["lines"]]
            if short == sale.short:
                return None
        self.tally.fault(f"basket {sale.name}: {verdict.status} {verdict.body}, the books say {sale.short or 'held'}")
        return None

    async def _commit_and_ship(self, sale: Sale, reservation: dict[str, Any]) -> None:
        wanted = [line for line in sale.lines if line.quantity > 0]
        path = f"/v1/reservations/{reservation['id']}"
        steps = [
            ("commit", "committed", {"order_id": f"basket-{sale.name}"}),
            ("ship", "shipped", {"occurred_at": time_text(sale.basket.at_ms)}),
        ]
        for verb, state, form in steps:
            verdict = await self.stores.caller.ask("POST", f"{path}/{verb}", form, self._key(verb, sale))
            if verdict.status != 200:
                self.tally.fault(f"basket {sale.name}: {verb} {verdict.status} {verdict.body}")
                break
            self.tally.note(state, wanted)
            self.tally.changes[state, reservation["id"]] += 1
            self._compare_lines(sale, wanted, verdict, state)
        self._room.release()

    def _compare_lines(self, sale: Sale, wanted: list[Line], verdict: Verdict, state: str) -> None:
        """All units of every line are in ``state``."""
        found = [(line["sku"], line["quantity"], line[state]) for line in verdict.body["lines"]]
        if found != [(line.sku, line.quantity, line.quantity) for line in wanted]:
            self.tally.fault(f"basket {sale.name}: not all is {state}: {verdict.body}")

    def _key(self, verb: str, sale: Sale) -> str:
        return f"{self.stores.run}-{sale.name}-{verb}"
