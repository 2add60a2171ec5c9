"""Owns days of a retailer for measurements of what follows from them: a real ledger's life, on a clock of its own.

A basket of 1 to 3 lines is held; then it is committed, released or left to its deadline; the order is picked or
cancelled, shipped, and now and then returned. Beside them tills sell, deliveries come, and shelves are counted.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from bench.contract import parts
from ledger import (
    Apply,
    Cancel,
    Commit,
    Done,
    Expire,
    Hold,
    HoldLine,
    Ledger,
    Location,
    Pick,
    PutLocation,
    Release,
    Return,
    Ship,
    StockEvent,
    event_key,
    fingerprint,
    operation_id,
)

DAY_MS: Final = 24 * 3_600_000
HOUR_MS: Final = 3_600_000
MOVEMENTS_A_DAY: Final = 250_000
BASKETS_AN_HOUR: Final = 1_750
EVENTS_AN_HOUR: Final = 1_500
"""Together about so many movements a day."""
SKUS: Final = 2_000
LOCATIONS: Final = 10
OPENING: Final = 1_000_000
COUNTED_A_NIGHT: Final = 2_000
"""Positions."""
AT_ONCE: Final = 1_000
TTL_MS: Final = 15 * 60_000
PICKED_AFTER_H: Final = 6
SHIPPED_AFTER_H: Final = 12
RETURNED_AFTER_H: Final = 36
CLIENTS: Final = ("web", "app", "marketplace")


class RetailDays:
    """Lives hour by hour, from ``start_ms`` on, in a ledger that has its clock from here."""

    def __init__(self, start_ms: int) -> None:
        self.now_ms = start_ms
        self._start_ms = start_ms
        self._random = random.Random(7)  # noqa: S311 the same days each time, not a secret
        self._popularity = [1 / (rank + 20) for rank in range(SKUS)]
        self._names = 0
        self._due: dict[int, list[tuple[str, str, str]]] = {}
        """What comes to orders by the hour: the verb, the client, the reservation."""

    def clock(self) -> int:
        """The ledger's."""
        return self.now_ms

    async def open(self, ledger: Ledger) -> None:
        """The shelves are filled."""
        for number in range(LOCATIONS):
            await ledger.put_location(PutLocation("bench", Location(_location(number))))
        opening = [
            self._event("snapshot", _sku(sku), _location(number), OPENING)
            for sku in range(SKUS)
            for number in range(LOCATIONS)
        ]
        for some in parts(opening, AT_ONCE):
            await ledger.apply(Apply("bench", list(some)))

    async def hour(self, ledger: Ledger) -> None:
        """All that happens in the next hour."""
        self.now_ms += HOUR_MS
        number = (self.now_ms - self._start_ms) // HOUR_MS
        while (await ledger.expire(Expire())).more:
            pass
        await self._orders_go_on(ledger, self._due.pop(number, []))
        await self._baskets(ledger, number)
        await self._stock(ledger, is_night=number % 24 == 0)

    async def _baskets(self, ledger: Ledger, hour: int) -> None:
        holds = [self._hold() for _ in range(BASKETS_AN_HOUR)]
        answers = [answer for some in parts(holds, AT_ONCE) for answer in await asyncio.gather(*map(ledger.hold, some))]
        decided = []
        for answer in answers:
            assert isinstance(answer, Done), answer
            drawn, client = self._random.random(), answer.reservation.client
            if drawn < 0.6:
                decided.append(("commit", client, answer.id))
                verb = "cancel" if drawn < 0.03 else "pick"
                self._later(hour + PICKED_AFTER_H, verb, client, answer.id)
                if verb == "pick":
                    self._later(hour + SHIPPED_AFTER_H, "ship", client, answer.id)
                    if drawn > 0.57:
                        self._later(hour + RETURNED_AFTER_H, "return", client, answer.id)
            elif drawn < 0.85:
                decided.append(("release", client, answer.id))
        await self._orders_go_on(ledger, decided)

    def _later(self, hour: int, verb: str, client: str, reservation: str) -> None:
        self._due.setdefault(hour, []).append((verb, client, reservation))

    async def _orders_go_on(self, ledger: Ledger, steps: Sequence[tuple[str, str, str]]) -> None:
        for some in parts(steps, AT_ONCE):
            answers = await asyncio.gather(*(self._step(ledger, *step) for step in some))
            assert all(isinstance(answer, Done) for answer in answers), answers

    def _step(self, ledger: Ledger, verb: str, client: str, reservation: str) -> Awaitable[Any]:
        head = (operation_id(client, f"{verb} {reservation}"), fingerprint(verb, {"order_id": reservation}), client)
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "commit": lambda: ledger.commit(Commit(*head, reservation, f"order-{reservation[:8]}")),
            "release": lambda: ledger.release(Release(*head, reservation)),
            "pick": lambda: ledger.pick(Pick(*head, reservation)),
            "cancel": lambda: ledger.cancel(Cancel(*head, reservation)),
            "ship": lambda: ledger.ship(Ship(*head, reservation)),
            "return": lambda: ledger.return_(Return(*head, reservation)),
        }
        return asked[verb]()

    def _hold(self) -> Hold:
        self._names += 1
        client = self._random.choice(CLIENTS)
        count = self._random.choices((1, 2, 3), (60, 25, 15))[0]
        skus = dict.fromkeys(self._random.choices(range(SKUS), self._popularity, k=count))
        location = _location(self._random.randrange(LOCATIONS))
        lines = [HoldLine(_sku(sku), self._random.randint(1, 3), location) for sku in skus]
        told = fingerprint("hold", {"lines": lines, "customer": self._names, "channel": client})
        key = operation_id(client, f"basket-{self._names}")
        return Hold(key, told, client, lines, TTL_MS, channel=client, customer=f"customer-{self._names:07}")

    async def _stock(self, ledger: Ledger, *, is_night: bool) -> None:
        places = [
            (_sku(sku), _location(self._random.randrange(LOCATIONS)))
            for sku in self._random.choices(range(SKUS), self._popularity, k=EVENTS_AN_HOUR)
        ]
        events = [self._event("delta", *place, self._random.choice((-2, -1, -1, -1, 4))) for place in places]
        if is_night:
            counted = self._random.sample(range(SKUS * LOCATIONS), COUNTED_A_NIGHT)
            events += [
                self._event("snapshot", _sku(place // LOCATIONS), _location(place % LOCATIONS), OPENING)
                for place in counted
            ]
        for some in parts(events, AT_ONCE):
            await ledger.apply(Apply("feed", list(some)))

    def _event(self, kind: Any, sku: str, location: str, quantity: int) -> StockEvent:
        self._names += 1
        identity = f"{kind}-{self._names}"
        return StockEvent(event_key("wms", identity), "wms", identity, kind, sku, location, quantity, self.now_ms)


def _sku(number: int) -> str:
    return f"SKU-{number:05}"


def _location(number: int) -> str:
    return f"STORE-{number:03}"
