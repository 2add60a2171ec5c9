"""Owns a server whose latency is known, to check load generators with: 201 after a fixed delay, and stalls.

``python -m bench.stand_in DELAY_MS STALL_MS`` prints its port. In a stall it does nothing at all, as a process that
collects garbage or swaps: what arrives then waits.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

import uvloop

STALL_EVERY_S: Final = 2.5
BODY: Final = b'{"id":"1"}'
ANSWER: Final = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
LENGTH: Final = b"content-length: "


class Connection(asyncio.Protocol):
    """One request at a time, with a body and its length."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._got = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(LENGTH)[2].split(b"\r")[0]):
            self._got = b""
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, ANSWER)


@asynccontextmanager
async def running(delay_ms: float, stall_ms: float) -> AsyncIterator[tuple[str, int]]:
    """A process of it: its URL and its number."""
    argv = [sys.executable, "-m", "bench.stand_in", f"{delay_ms}", f"{stall_ms}"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}", process.pid
    finally:
        process.kill()
        await process.wait()


async def _serve(delay_s: float, stall_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(delay_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        await asyncio.sleep(STALL_EVERY_S)
        time.sleep(stall_s)  # noqa: ASYNC251 - that is the stall


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1]) / 1_000, float(sys.argv[2]) / 1_000))
