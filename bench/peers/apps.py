"""Owns the HTTP services that a user would write instead of ours, each an ASGI application for the same server.

They take the same request, a hold of some units of one SKU, and answer 201 with an id or 409. They check no token and
no key, keep no journal, and give nothing back when a hold has expired: they do less than we do.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec
from litestar import Litestar, Response, post
from litestar.params import JSONBody
from msgspec import Struct
from redis.asyncio import Redis

from bench.null_app import BODY, null_app
from bench.peers import sql

Message = dict[str, Any]
Asgi = Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Holder = Callable[[str, int], Awaitable[int | None]]
"""Holds units of a SKU: the hold's id, or None when there are not enough."""

POSTGRES_CONNECTIONS: Final = 4
BATCH_MAX: Final = 500
SCRIPT: Final = """
local left = tonumber(redis.call('GET', KEYS[1]) or 0)
local quantity = tonumber(ARGV[1])
if left < quantity then return 0 end
redis.call('DECRBY', KEYS[1], quantity)
local id = redis.call('INCR', 'toy:holds')
redis.call('SET', 'toy:hold:' .. id, ARGV[2] .. ':' .. quantity, 'EX', 600)
return id
"""
"""A toy: it could not tell a retry from another hold, and what expires does not come back."""


class Line(Struct, frozen=True):
    sku: str
    quantity: int
    location: str | None = None


class Form(Struct, frozen=True):
    """The body of a hold, as far as a rival reads it."""

    lines: list[Line]
    ttl_seconds: int = 600


class Held(Struct, frozen=True):
    """The body of its answer."""

    id: int
    status: str = "held"


_read = msgspec.json.Decoder(Form).decode
_write = msgspec.json.Encoder().encode
_SHORT: Final = b'{"type":"/problems/insufficient-stock","status":409,"title":"Insufficient stock"}'


def raw(hold: Holder) -> Asgi:
    """Nothing between the server and the holder but the JSON."""

    async def app(
        _scope: Any, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        line = _read(body).lines[0]
        held = await hold(line.sku, line.quantity)
        status, answer = (409, _SHORT) if held is None else (201, _write(Held(held)))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    return app


def litestar(hold: Holder) -> Asgi:
    """As Litestar's manual shows it: a typed body, a typed answer."""

    @post("/v1/reservations")
    async def reserve(data: JSONBody[Form]) -> Response[Any]:
        line = data.lines[0]
        held = await hold(line.sku, line.quantity)
        if held is None:
            return Response(_SHORT, status_code=409, media_type="application/json")
        return Response(Held(held), status_code=201)

    return _litestar(reserve)


def _litestar(handler: Any) -> Asgi:
    return Litestar([handler], openapi_config=None, logging_config=None)  # type: ignore[return-value]


@asynccontextmanager
async def null_raw(_redis_url: str, _postgres_url: str) -> AsyncIterator[Asgi]:
    """A fixed answer."""
    yield null_app


@asynccontextmanager
async def null_litestar(_redis_url: str, _postgres_url: str) -> AsyncIterator[Asgi]:
    """A fixed answer, by Litestar."""

    @post("/v1/reservations")
    async def null(body: bytes) -> Response[bytes]:
        del body
        return Response(BODY, status_code=200, media_type="application/json")

    yield _litestar(null)


@asynccontextmanager
async def _script(redis_url: str) -> AsyncIterator[Holder]:
    """One script call a request, on a pool that has a connection for each request under way."""
    client = Redis.from_url(redis_url)
    script = client.register_script(SCRIPT)

    async def hold(sku: str, quantity: int) -> int | None:
        told: Any = await script(keys=[f"toy:stock:{sku}"], args=[quantity, sku])
        return int(told) or None

    try:
        yield hold
    finally:
        await client.aclose()


@asynccontextmanager
async def raw_script(redis_url: str, _postgres_url: str) -> AsyncIterator[Asgi]:
    """Raw ASGI, one script call a request."""
    async with _script(redis_url) as hold:
        yield raw(hold)


@asynccontextmanager
async def litestar_script(redis_url: str, _postgres_url: str) -> AsyncIterator[Asgi]:
    """Litestar, one script call a request."""
    async with _script(redis_url) as hold:
        yield litestar(hold)


@asynccontextmanager
async def raw_update(_redis_url: str, postgres_url: str) -> AsyncIterator[Asgi]:
    """Raw ASGI, one conditional update a request."""
    async with asyncpg.create_pool(postgres_url, min_size=POSTGRES_CONNECTIONS, max_size=POSTGRES_CONNECTIONS) as pool:

        async def hold(sku: str, quantity: int) -> int | None:
            held: int | None = await pool.fetchval(sql.CONDITIONAL_UPDATE, sku, quantity)
            return held

        yield raw(hold)


@asynccontextmanager
async def raw_batched(_redis_url: str, postgres_url: str) -> AsyncIterator[Asgi]:
    """Raw ASGI, and a function of Postgres that takes what came meanwhile, as our own ledger does."""
    connection = await asyncpg.connect(postgres_url)
    try:
        yield raw(Batches(await connection.prepare(sql.BATCH)).hold)
    finally:
        await connection.close()


class Batches:
    """The rival's coalescer: one call under way, and the next with all that waits."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._waiting: deque[tuple[str, int, asyncio.Future[int | None]]] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def hold(self, sku: str, quantity: int) -> int | None:
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sku, quantity, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
                skus, quantities, answers = zip(*batch, strict=True)
                try:
                    ids = await self._statement.fetchval(skus, quantities)
                except asyncpg.PostgresError as error:
                    for answer in answers:
                        answer.set_exception(error)
                else:
                    for answer, id_ in zip(answers, ids, strict=True):
                        answer.set_result(id_)
        finally:
            self._sending = None


APPS: Final = {
    "null-raw": null_raw,
    "null-litestar": null_litestar,
    "raw-script": raw_script,
    "litestar-script": litestar_script,
    "raw-update": raw_update,
    "raw-batched": raw_batched,
}
