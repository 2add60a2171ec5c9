"""Owns the shoppers: they look, hold, and then commit, release, extend, ship, cancel, return or forget it.

A shopper does what DESIGN 9 tells a client: 503 = the same again later; no answer, 500 or 504 = the same again
with the same key, or a question under the key; and some give up, as people do. Whatever came back is in the history.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import msgspec

from bench.http_client import HttpAnswer, HttpClient, Lost, NotSent
from chaos.history import LOST, NOT_SENT, Attempt, History, Line, Operation, Place
from chaos.stage import Stage

ANSWER_S: Final = 3.0
"""How long a shopper waits for an answer."""
PATIENCE_S: Final = 25.0
"""How long a shopper goes on trying one operation."""
BREATH_S: Final = 0.05
OPERATIONS_A_SHELF: Final = 110
"""Holds and looks of one position, until nobody asks for it any more: what follows on them comes on top."""
CONNECTIONS: Final = 4


@dataclass
class Shelf:
    """A position that is sold, and how often it was asked for."""

    place: Place
    asked: int = 0


@dataclass
class Shop:
    """What all shoppers share. ``keyless``: each attempt has a key of its own, which is what P3 forbids (a twin)."""

    stage: Stage
    history: History
    url: str
    tokens: dict[str, str]
    random: random.Random
    prefix: str
    """Of all names, so that no window's names are another's."""
    shelves: list[Shelf] = field(default_factory=list)
    keyless: bool = False
    ttls_s: Sequence[int] = (1, 2, 3, 5, 5, 5)
    """How long holds are asked for."""
    rush: bool = False
    """Nobody pauses for breath."""
    open: bool = True
    until_s: float = float("inf")
    """When the feeds give up what they had begun, on the monotonic clock."""
    unended: list[str] = field(default_factory=list)
    """What they gave up, which nobody may have to."""
    _number: int = 0

    def name(self, what: str) -> str:
        """One that was never used before in this run."""
        self._number += 1
        return f"{self.prefix}-{what}-{self._number}"

    def choose(self, lines: int) -> list[Place]:
        """Positions to ask for now; a few are asked for by many."""
        shelves = [shelf for shelf in self.shelves if shelf.asked < OPERATIONS_A_SHELF]
        weights = [1.0 / (number + 1) for number in range(len(shelves))]
        chosen = {id(shelf): shelf for shelf in self.random.choices(shelves, weights, k=lines)} if shelves else {}
        for shelf in chosen.values():
            shelf.asked += 1
        return [shelf.place for shelf in chosen.values()]


class Shopper:
    """One customer after the other, over connections of its own."""

    def __init__(self, shop: Shop, client: str) -> None:
        self._shop, self._client = shop, client
        self._random = random.Random(shop.random.random())  # noqa: S311 - seeded
        self._http = HttpClient(shop.url, shop.tokens[client], CONNECTIONS)

    async def run(self) -> None:
        """Until the shop closes."""
        async with self._http:
            while self._shop.open:
                await self._pause()
                if self._random.random() < 0.25:
                    await self._look()
                else:
                    await self._buy()

    async def _pause(self) -> None:
        await asyncio.sleep(0.0 if self._shop.rush else self._random.uniform(0.0, 0.08))

    # --- what they do -------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        for sku, location in self._shop.choose(1):
            operation = Operation(self._client, "", "look", "", [Line(1, sku, location, 0)], attempts=[])
            path = f"/v1/atp?sku={quote(sku)}&location={quote(location)}"
            self._shop.history.operations.append(operation)
            await self._attempt(operation, "GET", path, None, "")

    async def _buy(self) -> None:
        places = self._shop.choose(self._random.choice([1, 1, 1, 1, 2, 3]))
        if not places:
            await asyncio.sleep(BREATH_S)
            return
        lines = [Line(n, sku, loc, self._random.randint(1, 3)) for n, (sku, loc) in enumerate(places, 1)]
        ttl_s = self._random.choice(self._shop.ttls_s)
        key, mark = self._shop.name("hold"), self._shop.name("customer")
        hold = Operation(self._client, key, "hold", "", lines, mark=mark, attempts=[])
        hold.reservation = hold.id
        asked = [{"sku": line.sku, "location": line.location, "quantity": line.quantity} for line in lines]
        form = {"lines": asked, "ttl_seconds": ttl_s, "customer": mark}
        if not await self._operate(hold, "/v1/reservations", form):
            return
        await self._pause()
        await self._go_on(hold, ttl_s)

    async def _go_on(self, hold: Operation, ttl_s: int) -> None:
        fate = self._random.choices(
            ["commit", "release", "forget", "extend", "late", "race", "part"], [40, 15, 12, 8, 10, 8, 7]
        )[0]
        if fate == "extend":
            await self._verb(hold, "extend", {"ttl_seconds": self._random.choice(self._shop.ttls_s)})
            fate = "commit"
        if fate == "late":
            await asyncio.sleep(max(0.0, min(ttl_s, 2) - self._random.uniform(-0.03, 0.05)))
            fate = "commit"
        if fate == "commit" and await self._commit(hold):
            await self._fulfil(hold)
        elif fate == "release":
            await self._verb(hold, "release", {})
        elif fate == "race":
            self._shop.history.sometimes["commit and release at once"] += 1
            await asyncio.gather(self._commit(hold), self._verb(hold, "release", {}))
        elif fate == "part":
            line = hold.lines[0]
            await self._verb(hold, "release", {}, [line._replace(quantity=1)])
            await self._commit(hold)

    async def _commit(self, hold: Operation) -> bool:
        return await self._verb(hold, "commit", {"order_id": self._shop.name("order")})

    async def _fulfil(self, hold: Operation) -> None:
        await self._pause()
        fate = self._random.choices(["ship", "pick", "cancel", "race", "wait"], [35, 15, 25, 10, 15])[0]
        if fate == "pick":
            await self._verb(hold, "pick", {})
            fate = "ship"
        if fate == "race":
            await asyncio.gather(self._verb(hold, "ship", {}), self._verb(hold, "cancel", {}))
        elif fate == "cancel":
            await self._verb(hold, "cancel", {})
        elif fate == "ship" and await self._verb(hold, "ship", {}) and self._random.random() < 0.2:
            await self._verb(hold, "return", {}, [hold.lines[0]._replace(quantity=1)])

    async def _verb(
        self, hold: Operation, verb: str, form: dict[str, object], lines: Sequence[Line] | None = None
    ) -> bool:
        """A verb on what was held: on all of it, or on units of some lines."""
        asked = [{"line": line.number, "quantity": line.quantity} for line in lines or ()]
        operation = Operation(
            *(self._client, self._shop.name(verb), verb, hold.reservation, list(lines or hold.lines)),
            whole=lines is None,
            attempts=[],
        )
        if asked:
            form = {**form, "lines": asked}
        return await self._operate(operation, f"/v1/reservations/{hold.reservation}/{verb}", form)

    # --- how they ask -------------------------------------------------------------------------------------------

    async def _operate(self, operation: Operation, path: str, form: dict[str, object]) -> bool:
        """Try until there is a verdict, or patience ends; whether it was done."""
        history, chance = self._shop.history, self._random
        history.operations.append(operation)
        operation.path, operation.form = path, form
        give_up_s = time.monotonic() + PATIENCE_S
        twice = chance.random() < 0.04
        while True:
            asking = [self._attempt(operation, "POST", path, form, operation.key) for _ in range(1 + twice)]
            attempts = await asyncio.gather(*asking)
            history.sometimes["asked twice at once"] += twice
            twice = False
            verdicts = {attempt.verdict for attempt in attempts}
            if "ok" in verdicts:
                if chance.random() < 0.04:
                    await self._attempt(operation, "POST", path, form, operation.key)
                return True
            if "refused" in verdicts or time.monotonic() > give_up_s:
                return False
            if "unknown" in verdicts and (settled := await self._settle(operation)) is not None:
                return settled
            await asyncio.sleep(chance.uniform(0.5, 1.5) * BREATH_S * (1 if "unknown" in verdicts else 3))

    async def _settle(self, operation: Operation) -> bool | None:
        """After an unknown: some give up, some ask what became of it, most just try again (None)."""
        history, chance = self._shop.history, self._random.random()
        if chance < 0.1:
            history.sometimes["given up while unknown"] += 1
            return False
        if chance > 0.3:
            return None
        answer = await self._request("GET", f"/v1/operations/{quote(operation.key)}", None, "")
        if answer.status == 200:
            history.sometimes["settled by its key: done"] += 1
            return True
        history.sometimes["settled by its key: not done"] += answer.status == 404
        return None

    async def _attempt(self, operation: Operation, method: str, path: str, form: object, key: str) -> Attempt:
        history, stage = self._shop.history, self._shop.stage
        attempt = Attempt(time.monotonic())
        operation.attempts.append(attempt)
        if key and self._shop.keyless and len(operation.attempts) > 1:
            key = self._shop.name(f"{key}-again")
        history.in_flight += 1
        if key:
            stage.note_sent()
        try:
            answer = await self._request(method, path, form, key)
        finally:
            history.in_flight -= 1
        attempt.answered_s = time.monotonic()
        attempt.status = answer.status
        attempt.replayed = "idempotency-replayed" in answer.headers
        if answer.body and answer.status < 500:
            attempt.told = msgspec.json.decode(answer.body)
        if key and attempt.verdict == "ok":
            stage.note_acknowledged(attempt.sent_s, attempt.answered_s)
            unknown_before = any(earlier.verdict == "unknown" and earlier.answered_s for earlier in operation.attempts)
            if unknown_before:
                history.sometimes["unknown, then " + ("answered again" if attempt.replayed else "done now")] += 1
        return attempt

    async def _request(self, method: str, path: str, form: object, key: str) -> HttpAnswer:
        body = b"" if form is None else msgspec.json.encode(form)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._http.request(method, path, body, key or None)
        except NotSent:
            return HttpAnswer(NOT_SENT, {}, b"")
        except (Lost, TimeoutError):
            return HttpAnswer(LOST, {}, b"")


def told_position(attempt: Attempt) -> dict[str, Any]:
    """The one position in an ATP answer."""
    [entry] = attempt.told["locations"]
    return dict(entry)
