"""Owns the load of a comparison: a closed loop of connections in a process of its own, cheap enough not to be measured.

``python -m bench.peers.load`` reads an order as a line of JSON and prints what it counted. A connection asks again as
soon as it has its answer, so this tells what a service can do, and nothing of its latency.
"""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, Literal, cast

import msgspec
import uvloop
from msgspec import Struct

from bench.http_load import parse

WARM_S: Final = 0.5
"""At least, before it is measured; and until there were as many answers as connections."""
LOCATION: Final = "W1"
ITEMS: Final = 500
RESERVATIONS: Final = 256
FIRST_BUYER: Final = 100_000_000
HOLD_TTL_S: Final = 3_600
"""Longer than a comparison takes: what expires meanwhile would be work for the next contender."""

Kind = Literal["hold", "atp", "atp-tail", "atp-post", "atp-many", "batch"]
THINGS: Final[dict[Kind, int]] = {
    "hold": 1,
    "atp": 1,
    "atp-tail": 1,
    "atp-post": 1,
    "atp-many": ITEMS,
    "batch": RESERVATIONS,
}
"""In one request."""


class Order(Struct, frozen=True):
    """What to ask for and how long. ``run`` begins each key."""

    kind: Kind
    host: str
    port: int
    token: str
    sku: str
    run: str
    expected: str
    """The status of an answer that counts."""
    connections: int
    seconds: float


class Counted(Struct, frozen=True):
    """Answers as expected in the measured time, how long that was, this process's CPU in it; then answers in all."""

    answered: int
    seconds: float
    cpu_s: float
    by_status: dict[str, int]
    granted: int
    """Reservations that were made, of all answers."""


def requests(order: Order) -> Iterator[bytes]:
    """Each with a key of its own, as far as it needs one."""
    common = f"Host: {order.host}:{order.port}\r\nAuthorization: Bearer {order.token}\r\n"
    names = [order.sku, *map(tail, range(1, ITEMS))]
    if order.kind in {"atp", "atp-tail"}:
        asked = names[:1] if order.kind == "atp" else names[1:]
        yield from itertools.cycle(
            f"GET /v1/atp?sku={sku}&location={LOCATION} HTTP/1.1\r\n{common}\r\n".encode() for sku in asked
        )
    if order.kind in {"atp-post", "atp-many"}:
        # Of many, each begins with another, so that no two that are under way are the same.
        starts = [0] if order.kind == "atp-post" else range(0, ITEMS, ITEMS // 50)
        lists = [(names[start:] + names[:start])[: THINGS[order.kind]] for start in starts]
        forms = [{"items": [{"sku": sku, "location": LOCATION} for sku in listed]} for listed in lists]
        yield from itertools.cycle(_post("/v1/atp", common, msgspec.json.encode(form)) for form in forms)
    # Each buyer is another, with a number of as many digits.
    form = {"lines": [{"sku": order.sku, "quantity": 1, "location": LOCATION}], "ttl_seconds": HOLD_TTL_S}
    body = msgspec.json.encode({**form, "customer": f"{FIRST_BUYER}"})
    lines, _, end = body.partition(f"{FIRST_BUYER}".encode())
    numbers = itertools.count(FIRST_BUYER)
    if order.kind == "hold":
        before, after = _post("/v1/reservations", f"{common}Idempotency-Key: {order.run}-\0\r\n", lines).split(b"\0")
        length = b"Content-Length: %d\r\n"
        after = after.replace(length % len(lines), length % len(body))
        for number in numbers:
            yield b"%b%d%b%d%b" % (before, number, after, number, end)
    item = b'{"key":"%b-%%d",%b%%d%b' % (order.run.encode(), lines[1:], end)
    while True:
        parts = b",".join([item % (number, number) for number in itertools.islice(numbers, RESERVATIONS)])
        yield _post("/v1/reservations/batch", common, b'{"reservations":[%b]}' % parts)


def tail(number: int) -> str:
    """A SKU that is not hot."""
    return f"TAIL-{number:03}"


def _post(path: str, headers: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Loop:
    """The connections and what they counted."""

    def __init__(self, order: Order) -> None:
        self.by_status: Counter[str] = Counter()
        self.granted = 0
        self.stopping = False
        self.requests = requests(order)
        self._batches = order.kind == "batch"

    def answered(self, status: str, body: bytes) -> None:
        self.by_status[status] += 1
        if status == "201":
            self.granted += 1
        elif self._batches:
            self.granted += body.count(b'"status":201,')


class _Connection(asyncio.Protocol):
    """One request under way at a time."""

    def __init__(self, loop: _Loop, done: "asyncio.Future[None]") -> None:
        self.done = done
        self._loop = loop
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def ask(self) -> None:
        self._transport.write(next(self._loop.requests))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        answer = parse(data)
        if answer is None:
            self._rest = data
            return
        self._rest = b""
        status, body, _ = answer
        self._loop.answered(status, body)
        if self._loop.stopping:
            self.done.set_result(None)
        else:
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the service closed a connection"))

    def close(self) -> None:
        self._transport.close()


async def run(order: Order) -> Counted:
    """Load, and wait for the last answers. Raises ``OSError``."""
    running = asyncio.get_running_loop()
    loop = _Loop(order)
    connections = [_Connection(loop, running.create_future()) for _ in range(order.connections)]
    for connection in connections:
        await running.create_connection(lambda made=connection: made, order.host, order.port)  # type: ignore[misc]
    for connection in connections:
        connection.ask()
    await asyncio.sleep(WARM_S)
    while loop.by_status.total() < order.connections:  # noqa: ASYNC110 - an event would cost something at each answer
        await asyncio.sleep(WARM_S)
    expected = order.expected
    before, cpu_s, began_s = loop.by_status[expected], time.process_time(), time.perf_counter()
    _say("measuring")
    await asyncio.sleep(order.seconds)
    seconds, used_s, answered = (
        time.perf_counter() - began_s,
        time.process_time() - cpu_s,
        loop.by_status.total() - before,
    )
    _say("measured")
    loop.stopping = True
    await asyncio.gather(*(connection.done for connection in connections))
    for connection in connections:
        connection.close()
    return Counted(answered, seconds, used_s, dict(loop.by_status), loop.granted)


def _say(line: str) -> None:
    """So that who started this process looks at the others' CPU at the same moments."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    _say(msgspec.json.encode(uvloop.run(run(told))).decode())
