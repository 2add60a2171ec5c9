"""Owns how HTTP is served: the server and its settings, for this service and for whatever is compared with it."""

from typing import Any, Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

CONNECTIONS_MAX: Final = 4_096
HEADERS_BYTES_MAX: Final = 65_536
HEADERS_MS_MAX: Final = 30_000
"""For the head of a request, and for silence between requests: a proxy in front lets go of a connection sooner."""


def http_server(asgi: Any, host: str, port: int) -> Server:
    """A server for an ASGI application, in this process; it listens when served. Processes can share a port."""
    return Server(
        asgi,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADERS_MS_MAX, max_buffer_size=HEADERS_BYTES_MAX),
        websockets=False,
        backlog=CONNECTIONS_MAX,
        backpressure=CONNECTIONS_MAX,
        log_enabled=False,
    )
