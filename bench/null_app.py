"""Owns the null POST: the least that a Python service behind the same HTTP server can do, which ours is compared with.

``python -m bench.null_app PORT`` reads each request's body and answers a fixed JSON of 200 bytes, whatever is asked.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

from availability.http_server import http_server

BODY: Final = b'{"null":"' + b"0" * 189 + b'"}'
_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))],
}
_END: Final = {"type": "http.response.body", "body": BODY, "more_body": False}

Message = dict[str, Any]


async def null_app(
    _scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer when the body is there."""
    while (await receive()).get("more_body"):
        pass
    await send(_START)
    await send(_END)


async def serve(port: int, host: str = "127.0.0.1") -> None:
    """Serve it on this port until cancelled, with the settings of the API."""
    await http_server(null_app, host, port).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
