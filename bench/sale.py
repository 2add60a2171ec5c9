"""Owns what the buyers of a generator process ask for: holds and what follows them, reads, stock events.

Bodies are made beforehand; a request costs one formatting of bytes. What became of each hold is kept, in two bytes and
its id, so that every promise of the service can be asked for afterwards.
"""

import random
import time
from array import array
from collections.abc import Callable
from itertools import accumulate
from typing import Final
from urllib.parse import urlsplit

import msgspec

from bench import basket_sizes, orders
from bench.contract import time_text
from bench.http_load import Request
from bench.orders import ENDING, HELD, NOT_DONE, REFUSED, UNKNOWN, Follow, Holds, Plan, Pool

BASKETS: Final = 2_048
"""Different ones a pool and process."""
READS: Final = 1_024
READS_OF_MANY: Final = 64
REFUSALS_LOOKED_AT: Final = 500
UNKNOWN_STATUSES: Final = frozenset({"lost", "timeout", "500", "502", "504"})
ENDINGS: Final = {
    "commit": (orders.COMMIT_UNKNOWN, orders.COMMITTED, orders.COMMIT_REFUSED),
    "release": (orders.RELEASE_UNKNOWN, orders.RELEASED, orders.RELEASE_REFUSED),
}
"""What is known of a hold's ending when it is asked for, when it is done, and when it was refused."""

Later = Callable[[Request], None]
"""Sends a request when it is due."""


class Basket:
    """``kind``, the bytes after the key of the request that holds it, its lines, and its number in the process."""

    __slots__ = ("kind", "lines", "number", "rest")

    def __init__(self, kind: str, number: int, lines: list[tuple[str, str, int]], ttl_s: int) -> None:
        form = {
            "lines": [{"sku": sku, "location": location, "quantity": units} for location, sku, units in lines],
            "ttl_seconds": ttl_s,
        }
        self.kind, self.number, self.lines, self.rest = kind, number, lines, _rest(form)


def _rest(form: object) -> bytes:
    """What follows the last header of our own."""
    body = msgspec.json.encode(form)
    return b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Sale:
    """The streams of one process by name; each makes the next request, due at a time."""

    def __init__(self, plan: Plan, later: Later) -> None:
        self.streams: dict[str, Callable[[float], Request]] = {
            "atp": self._read,
            "atp-many": self._read_many,
            "events": self._raise,
        }
        self._plan = plan
        self._later = later
        self._chance = random.Random(f"{plan.seed}-{plan.number}")  # noqa: S311 - the same baskets for the same seed
        self._prefix = f"{plan.name}-{plan.number}-".encode()
        self._common = [_common(plan.url, token) for token in plan.tokens]
        tail = plan.assortment.tail
        self._zipf = list(accumulate(1 / rank for rank in range(1, len(tail) + 1)))
        self._baskets: list[Basket] = []
        for pool in plan.pools:
            self.streams[pool.name] = self._stream_of_holds(pool)
        self._reads = [self._prepared_read() for _ in range(READS)]
        self._reads_of_many = [self._prepared_read_of_many() for _ in range(READS_OF_MANY)]
        self._asked = array("H")
        self._states = bytearray()
        self._ids: list[str | None] = []
        self._raised = [0] * len(tail)
        self._posts: dict[int, tuple[list[int], str]] = {}
        self._posted = 0
        self._looked_at = 0
        self._odd: list[dict[str, object]] = []

    def holds(self) -> Holds:
        """What became of all of it."""
        raised = {sku: units for sku, units in zip(self._plan.assortment.tail, self._raised, strict=True) if units}
        return Holds(
            [basket.lines for basket in self._baskets],
            self._asked.tobytes(),
            bytes(self._states),
            self._ids,
            raised,
            [body for _, body in self._posts.values()],
            self._odd,
        )

    # Holds.

    def _stream_of_holds(self, pool: Pool) -> Callable[[float], Request]:
        first = len(self._baskets)
        for number in range(first, first + BASKETS):
            lines = self._lines(pool)
            kind = "hold-hot" if lines[0][1] == self._plan.assortment.hot else "hold-tail"
            self._baskets.append(Basket(kind, number, lines, self._plan.ttl_s))
        # 65,536 baskets can be told apart in two bytes.
        assert len(self._baskets) <= 1 << 16, len(self._baskets)
        baskets, random_ = self._baskets[first:], self._chance.random

        def hold(due_s: float) -> Request:
            basket = baskets[int(random_() * BASKETS)]
            number = len(self._states)
            self._asked.append(basket.number)
            self._states.append(UNKNOWN)
            self._ids.append(None)
            raw = b"POST /v1/reservations HTTP/1.1%bIdempotency-Key: %b%d%b" % (
                *(self._common[number % len(self._common)], self._prefix, number),
                basket.rest,
            )
            return Request(basket.kind, due_s, raw, self._held, number)

        return hold

    def _lines(self, pool: Pool) -> list[tuple[str, str, int]]:
        """At one location, unless the hot SKU is elsewhere; no SKU twice."""
        goods, chance = self._plan.assortment, self._chance
        wanted = pool.lines or basket_sizes.lines(chance)
        lines = [(goods.hot_location, goods.hot, 1)] if chance.random() < pool.hot_share else []
        location = chance.choice(goods.locations)
        skus: dict[str, None] = {}
        while len(skus) < min(wanted - len(lines), len(goods.tail)):
            skus[chance.choices(goods.tail, cum_weights=self._zipf)[0]] = None
        return lines + [(location, sku, basket_sizes.quantity(chance)) for sku in skus]

    def _held(self, request: Request, status: str, body: bytes) -> None:
        number = request.number
        if status == "201":
            begin, end = (7, body.index(b'"', 7)) if body.startswith(b'{"id":"') else (0, 0)
            identity = body[begin:end].decode() if end else msgspec.json.decode(body)["id"]
            self._ids[number] = identity
            self._states[number] = HELD
            self._follow(number, identity)
        elif status == "409":
            self._states[number] = REFUSED
            self._look_at(number, body)
        elif status not in UNKNOWN_STATUSES:
            self._states[number] = NOT_DONE

    def _look_at(self, number: int, body: bytes) -> None:
        """The first refusals: one that says itself that there was enough cannot be right."""
        if self._looked_at == REFUSALS_LOOKED_AT:
            return
        self._looked_at += 1
        told = msgspec.json.decode(body)
        short = told.get("lines", [])
        if not short or any(line["available"] >= line["requested"] for line in short):
            self._odd.append({"key": f"{self._prefix.decode()}{number}", "told": told})

    def _follow(self, number: int, identity: str) -> None:
        """Decide how the hold ends: by a commit, by a release, or, since nobody comes back, by its deadline."""
        plan = self._plan
        fate = self._chance.random()
        if fate < plan.commit_share:
            self._end(number, identity, "commit", b'{"order_id":"%b%d"}' % (self._prefix, number))
        elif fate < plan.commit_share + plan.release_share:
            self._end(number, identity, "release", b"{}")

    def _end(self, number: int, identity: str, verb: Follow, body: bytes) -> None:
        due_s = time.monotonic() + self._plan.think_s * (0.5 + self._chance.random())
        raw = b"POST /v1/reservations/%b/%b HTTP/1.1%bIdempotency-Key: %b%d-%b\r\nContent-Length: %d\r\n\r\n%b" % (
            *(identity.encode(), verb.encode(), self._common[number % len(self._common)]),
            *(self._prefix, number, verb.encode(), len(body), body),
        )
        self._later(Request(verb, due_s, raw, self._ended, number))

    def _ended(self, request: Request, status: str, body: bytes) -> None:
        del body
        unknown, done, refused = ENDINGS[request.kind]
        ending = done if status == "200" else unknown if status in UNKNOWN_STATUSES else refused
        self._states[request.number] = HELD + ENDING * ending

    # Reads.

    def _sku(self) -> str:
        return str(self._chance.choices(self._plan.assortment.tail, cum_weights=self._zipf)[0])

    def _prepared_read(self) -> bytes:
        goods, chance = self._plan.assortment, self._chance
        hot = bool(self._plan.pools) and chance.random() < self._plan.pools[0].hot_share
        sku, location = (goods.hot, goods.hot_location) if hot else (self._sku(), chance.choice(goods.locations))
        common = chance.choice(self._common)
        return f"GET /v1/atp?sku={sku}&location={location} HTTP/1.1".encode() + common + b"\r\n"

    def _prepared_read_of_many(self) -> bytes:
        items = [{"sku": self._sku()} for _ in range(self._plan.items)]
        common = self._chance.choice(self._common)
        return b"POST /v1/atp HTTP/1.1" + common.removesuffix(b"\r\n") + _rest({"items": items})

    def _read(self, due_s: float) -> Request:
        return Request("atp", due_s, self._reads[int(self._chance.random() * READS)], _forget)

    def _read_many(self, due_s: float) -> Request:
        raw = self._reads_of_many[int(self._chance.random() * READS_OF_MANY)]
        return Request("atp-many", due_s, raw, _forget)

    # Stock events.

    def _raise(self, due_s: float) -> Request:
        """A list of events, each of which adds a unit somewhere in the tail."""
        plan, number = self._plan, self._posted
        self._posted += 1
        chosen = [int(self._chance.random() * len(self._raised)) for _ in range(plan.events)]
        now = time_text(time.time_ns() // 1_000_000)
        events = [
            {
                "id": f"{plan.name}-{plan.number}-{number}-{position}",
                "source": f"{plan.name}-http-{plan.number}",
                "kind": "delta",
                "sku": plan.assortment.tail[index],
                "location": plan.assortment.events_location,
                "quantity": 1,
                "occurred_at": now,
            }
            for position, index in enumerate(chosen)
        ]
        body = msgspec.json.encode({"events": events})
        self._posts[number] = chosen, body.decode()
        common = self._common[number % len(self._common)].removesuffix(b"\r\n")
        raw = b"POST /v1/stock-events HTTP/1.1%b\r\nContent-Length: %d\r\n\r\n%b" % (common, len(body), body)
        return Request("events", due_s, raw, self._raised_by, number)

    def _raised_by(self, request: Request, status: str, body: bytes) -> None:
        # What was not done is posted again after the run, like what is unknown: events have ids.
        if status == "200" and b'"quarantined"' not in body:
            for index in self._posts.pop(request.number)[0]:
                self._raised[index] += 1


def _forget(request: Request, status: str, body: bytes) -> None:
    """Nothing follows from a read."""


def _common(url: str, token: str) -> bytes:
    host = urlsplit(url).netloc
    return f"\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n".encode()
