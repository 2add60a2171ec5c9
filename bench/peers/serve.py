"""Owns a process that serves one contender: ``python -m bench.peers.serve``, told on its first line what to serve."""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from availability.http_server import http_server
from bench.peers import uncoalesced
from bench.peers.apps import APPS, Asgi

OWN = "uncoalesced"


class Order(Struct, frozen=True):
    """What to serve and where. URLs hold passwords, so they come on standard input."""

    app: str
    host: str
    port: int
    redis_url: str
    postgres_url: str
    data_folder: str
    """Of the ``up`` whose servers ``OWN`` stands on."""


def _made(order: Order) -> AbstractAsyncContextManager[Asgi]:
    if order.app == OWN:
        return uncoalesced.api(Path(order.data_folder))
    return APPS[order.app](order.redis_url, order.postgres_url)


async def run(order: Order) -> None:
    """Serve until this process is ended; it keeps nothing."""
    async with _made(order) as asgi:
        await http_server(asgi, order.host, order.port).serve()


if __name__ == "__main__":
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(told))
