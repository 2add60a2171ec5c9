"""Owns the shoppers of a run, with carts, retries and doubts, and what each of them insists on."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from ledger.identity import operation_id
from simulation.auditor import UNKNOWN, Attempt, Books, Place, insist
from simulation.crowd import Crowd
from simulation.levels import Free
from simulation.network import BEHIND_MS_MAX
from simulation.processes import Answer
from simulation.service import Service

CLIENTS: Final = ("web", "app:%")
TRIES: Final = 6
ALLOWED: Final = {
    "hold": {201, 409, 422, 503, 504},
    "extend": {200, 404, 409, 422, 503, 504},
    "commit": {200, 404, 409, 422, 503, 504},
    "release": {200, 404, 409, 422, 503, 504},
    "pick": {200, 404, 409, 422, 503, 504},
    "ship": {200, 404, 409, 422, 503, 504},
    "cancel": {200, 404, 409, 422, 503, 504},
    "return": {200, 404, 409, 422, 503, 504},
    "move": {200, 404, 409, 422, 503, 504},
}
"""What a client may be told. Never 500: nothing in a run is unforeseen."""
VERBS: Final = ("commit",) * 5 + ("release", "extend", "pick", "ship", "ship", "cancel", "return", "move")
_encode: Final = msgspec.json.Encoder(order="sorted").encode


@dataclass
class Operation:
    """Something with a key, and every attempt at it."""

    client: str
    key: str
    verb: str
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def id(self) -> str:
        return operation_id(self.client, self.key)


@dataclass
class Cart:
    """A reservation as its client last saw it."""

    client: str
    id: str
    expires_ms: int
    lines: int


class Customers:
    """All of them, and what they remember. Raises ``Broken`` where an answer breaks a promise."""

    def __init__(self, service: Service, books: Books, crowd: Crowd, tokens: dict[str, str]) -> None:
        self.service, self.books, self.crowd = service, books, crowd
        self.around = service.around
        self.chance, self.reached = self.around.chance, books.reached
        self.operations: dict[tuple[str, str], Operation] = {}
        self.requests = 0
        self._tokens = tokens
        self._carts: dict[str, list[Cart]] = defaultdict(list)
        self._names = 0

    # --- speaking -----------------------------------------------------------------------------------------------

    def name(self, kind: str) -> str:
        """A new one."""
        self._names += 1
        return f"{kind}-{self._names}"

    async def ask(self, client: str, method: str, path: str, body: bytes = b"", key: str | None = None) -> Answer:
        """A request, and what comes back. A bug is never an answer."""
        headers = [(b"authorization", b"Bearer " + self._tokens[client].encode())]
        if body:
            headers.append((b"content-type", b"application/json"))
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        self.requests += 1
        answer = await self.service.ask(method, path, headers, body)
        insist("P4", answer.status != 500, method, path, answer.body)
        return answer

    async def _attempt(self, operation: Operation, path: str, body: bytes) -> Answer:
        """One attempt at an operation, noted with its answer."""
        attempt = Attempt(body, self.around.loop.now_ms)
        operation.attempts.append(attempt)
        answer = await self.ask(operation.client, "POST", path, body, operation.key)
        replayed = b"idempotency-replayed" in answer.headers
        self.note(operation, attempt, answer.status, answer.json if answer.body else None, replayed=replayed)
        return answer

    def note(self, operation: Operation, attempt: Attempt, status: int | None, told: Any, *, replayed: bool) -> None:
        """An answer has come, or will not."""
        attempt.answered, attempt.status, attempt.replayed = True, status, replayed
        insist("P4", status is None or status in ALLOWED[operation.verb], operation, status, told)
        if status in (200, 201):
            attempt.reservation = told
            self._done(operation, attempt)
        elif status == 422 and told["type"].endswith("idempotency-key-reused"):
            bodies = {other.body for other in operation.attempts}
            insist("P3", len(bodies) > 1, operation, "was refused as another")
            self.reached["key of another request"] += 1
        elif status == 503:
            for word in ("backlog", "journal", "overdue", "compared", "compare"):
                if word in str(told):
                    self.reached[f"503 {word}"] += 1

    def _done(self, operation: Operation, attempt: Attempt) -> None:
        """It is acknowledged: from now on it must be there (P2), as it was said (P3)."""
        told = attempt.reservation
        assert told is not None
        insist("P2", operation.id in self.books.done, operation, "is acknowledged and was not done")
        verb, _ = self.books.done[operation.id]
        insist("P3", verb in (operation.verb, "seal"), operation, "was done as", verb)
        done = [other for other in operation.attempts if other.reservation is not None]
        first = done[0]
        assert first.reservation is not None
        insist("P3", {other.body for other in done} == {attempt.body}, operation, "was done for two requests")
        insist("P3", {other.status for other in done} == {attempt.status}, operation, "has two verdicts")
        insist("P3", told["id"] == first.reservation["id"], operation, "was done to two reservations")
        granted = [[line["quantity"] for line in other["lines"]] for other in (told, first.reservation)]
        insist("P3", granted[0] == granted[1], operation, "granted twice")
        fresh = sum(not other.replayed for other in done)
        insist("P3", fresh <= 1, operation, "was done anew", fresh, "times")
        self.reached["replayed"] += attempt.replayed
        if operation.verb == "hold":
            insist("P3", told["id"] == operation.id, "a hold is its reservation")
        for line in told["lines"]:
            states = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")
            insist("P5", sum(line[state] for state in states) == line["quantity"], line)

    def came_twice(self, operation: Operation) -> bool:
        """Whether the network doubled one of its attempts."""
        return operation.key in self.service.doubled

    async def settle(self, operation: Operation) -> str:
        """``GET /v1/operations``: whether it was done; "unknown" when nobody can tell now."""
        was_done = operation.id in self.books.done
        answer = await self.ask(operation.client, "GET", f"/v1/operations/{quote(operation.key, safe='')}")
        insist("P4", answer.status in (None, 200, 404, 503), answer)
        if answer.status == 404:
            insist("P4", not was_done or self.around.shards > 1, operation, "was done, and 404 says that it was not")
            return "not done"
        if answer.status == 200:
            insist("P4", operation.id in self.books.done, operation, "was not done, and 200 says that it was")
            insist("P4", answer.json["operation"] == operation.verb, answer.body)
            return "done"
        return "unknown"

    async def keyed(self, client: str, path: str, body: Any, verb: str, key: str | None = None) -> Answer:
        """An operation until its client knows what became of it, or gives up: retries have the same key."""
        key = key or self.name("k")
        operation = self.operations.setdefault((client, key), Operation(client, key, verb))
        raw, chance = _encode(body), self.chance
        if chance.sometimes(0.06):
            answers = await asyncio.gather(*(self._attempt(operation, path, raw) for _ in range(2)))
            self.reached["duplicate in flight"] += all(answer.status is not None for answer in answers)
        answer = await self._attempt(operation, path, raw)
        for _ in range(TRIES):
            if answer.status in UNKNOWN:
                if chance.sometimes(0.5) and await self.settle(operation) == "done":
                    self.reached["lost reply settled by its key"] += 1
            elif answer.status == 503:
                await asyncio.sleep(chance.random.uniform(0, 1))
            else:
                break
            answer = await self._attempt(operation, path, raw)
        if chance.sometimes(0.03):
            # The same key for something else, which must be refused and change nothing.
            other = {**body, "lines": [{"sku": "A", "quantity": 7}]} if verb == "hold" else {"order_id": "other"}
            if _encode(other) != raw and verb in ("hold", "commit"):
                await self._attempt(operation, path, _encode(other))
        return answer

    # --- shopping -----------------------------------------------------------------------------------------------

    async def shop(self, steps: int) -> None:
        """One shopper after another, as one browser."""
        for _ in range(steps):
            await asyncio.sleep(self.chance.random.expovariate(4))
            client = self.chance.of(CLIENTS)
            batches = (self.many,) * self.crowd.batch_share
            await self.chance.of(
                (self.hold,) * 8 + (self.change,) * 11 + (self.look,) * 4 + (self.rush,) * 2 + batches
            )(client)

    def _lines(self) -> list[dict[str, Any]]:
        chance = self.chance
        lines = []
        for _ in range(chance.of((1, 1, 1, 2, 3))):
            line: dict[str, Any] = {"sku": chance.of(self.crowd.skus), "quantity": chance.of((1, 1, 2, 3))}
            if chance.sometimes(0.7):
                line["location"] = chance.of(self.crowd.locations)
            lines.append(line)
        return lines

    def _basket(self) -> dict[str, Any]:
        chance = self.chance
        basket = {"lines": self._lines(), "ttl_seconds": chance.of((1, 1, 2, 3, 60))}
        if chance.sometimes(0.3):
            basket["mode"] = "available"
        return basket

    def _remember(self, client: str, told: dict[str, Any]) -> None:
        expires_ms = int(datetime.fromisoformat(told["expires_at"]).timestamp() * 1_000)
        self._carts[client].append(Cart(client, told["id"], expires_ms, len(told["lines"])))
        del self._carts[client][: -self.crowd.carts]

    async def hold(self, client: str) -> None:
        basket, sent_ms = self._basket(), self.around.loop.now_ms
        lines = basket["lines"]
        answer = await self.keyed(client, "/v1/reservations", basket, "hold")
        if answer.status == 201:
            self._remember(client, answer.json)
        elif answer.status == 409:
            name = answer.json["type"].rpartition("/")[2]
            self.reached[name] += 1
            if name == "insufficient-stock" and len(lines) == 1 and "location" in lines[0]:
                self._judge_refusal((lines[0]["sku"], lines[0]["location"]), lines[0]["quantity"], sent_ms)

    def _judge_refusal(self, place: Place, wanted: int, sent_ms: int) -> None:
        """P5: "insufficient" is said only where at some instant it was so."""
        free = self._free(place, sent_ms)
        refusable = not free or min(free).low < wanted
        insist("P5", refusable, place, "had", sorted(free), "all the time,", wanted, "were refused")

    def _free(self, place: Place, sent_ms: int) -> set[Free]:
        """What could be promised there at some instant since then; a clock that runs back makes it longer ago."""
        now_ms = self.around.loop.now_ms
        behind_ms = BEHIND_MS_MAX if self.chance.met["clock runs back"] else 0
        return self.books.free(place, sent_ms - behind_ms, now_ms)

    async def change(self, client: str) -> None:
        """A verb on a cart, often on the edge of its deadline, now and then on one that is not theirs."""
        chance = self.chance
        if not self._carts[client]:
            return
        cart = chance.of(self._carts[client])
        verb = chance.of(VERBS)
        body: dict[str, Any] = {}
        if verb == "commit":
            body = {"order_id": "order", "reacquire": chance.sometimes(0.3)}
        elif verb == "extend":
            body = {"ttl_seconds": chance.of((1, 2))}
        elif verb == "move":
            body = {"line": chance.of(range(1, cart.lines + 1)), "location": chance.of(self.crowd.locations)}
        if verb not in ("extend", "move") and chance.sometimes(0.25):
            body["lines"] = [{"line": chance.of(range(1, cart.lines + 1)), "quantity": 1}]
        left_s = (cart.expires_ms - self.around.loop.now_ms) / 1_000
        if 0 < left_s < 3 and chance.sometimes(0.5):
            await asyncio.sleep(max(0.0, left_s + chance.random.uniform(-0.008, 0.001)))
        of = client if chance.sometimes(0.97) else chance.of(CLIENTS)
        answer = await self.keyed(of, f"/v1/reservations/{cart.id}/{verb}", body, verb)
        if of != client:
            insist("P10", answer.status != 200, of, "changed what is another's")
            self.reached["another client's reservation"] += answer.status == 404
        self.reached[f"{verb} {answer.status}"] += 1

    async def rush(self, client: str) -> None:
        """Several things at the same time."""
        works = (self.hold, self.change, self.change, self.look)
        await asyncio.gather(*(self.chance.of(works)(client) for _ in range(self.chance.of(self.crowd.rush))))

    async def many(self, client: str) -> None:
        """A batch of holds; now and then one of them twice."""
        keys = [self.name("b") for _ in range(self.chance.of(self.crowd.batches))]
        baskets = {key: self._basket() for key in keys}
        items = [{"key": key, **baskets[key]} for key in keys]
        if self.chance.sometimes(0.3):
            items.append(items[0])
        operations = [
            self.operations.setdefault((client, it["key"]), Operation(client, it["key"], "hold")) for it in items
        ]
        for _ in range(TRIES):
            attempts = [Attempt(_encode(it), self.around.loop.now_ms) for it in items]
            for operation, attempt in zip(operations, attempts, strict=True):
                operation.attempts.append(attempt)
            answer = await self.ask(client, "POST", "/v1/reservations/batch", _encode({"reservations": items}))
            if answer.status == 200:
                results = answer.json["results"]
                for operation, attempt, result in zip(operations, attempts, results, strict=True):
                    replayed = result.get("replayed", False)
                    self.note(operation, attempt, result["status"], result["body"], replayed=replayed)
                    if result["status"] == 201:
                        self._remember(client, result["body"])
                self.reached["batch"] += 1
                return
            for operation, attempt in zip(operations, attempts, strict=True):
                self.note(operation, attempt, answer.status, answer.json if answer.body else None, replayed=False)

    # --- looking ------------------------------------------------------------------------------------------------

    async def look(self, client: str) -> None:
        sku, location = place = self.chance.of(self.crowd.skus), self.chance.of(self.crowd.locations)
        sent_ms = self.around.loop.now_ms
        answer = await self.ask(client, "GET", f"/v1/atp?sku={quote(sku, safe='')}&location={quote(location, safe='')}")
        insist("P9", answer.status in (None, 200, 503), answer)
        if answer.status == 200:
            free = self._free(place, sent_ms)
            told = answer.json["available"]
            is_right = not free or any(max(0, low) <= told <= max(0, high) for low, high in free)
            insist("P1", is_right, place, "ATP says", told, "there were", sorted(free))
            self.reached["looked"] += 1
