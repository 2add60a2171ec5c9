"""The API before the server: plain requests go straight to their endpoints, all others through Litestar."""

import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast

from litestar import Litestar, Response, asgi
from litestar import Request as LitestarRequest
from litestar.exceptions import HTTPException
from litestar.types import HTTPScope, Receive, Scope, Send

from availability.api.answer import respond
from availability.api.answering import Answering, Request, answer_of, headers_of
from availability.api.deadlines import Deadlines
from availability.api.edge import Edge
from availability.api.lanes import Lane
from availability.api.problems import Fault, invalid, problem
from availability.api.routing import Match, Routes
from availability.api.sharing import Looks
from availability.api.tokens import Tokens
from availability.telemetry import Telemetry

_PLAIN_HOST: Final = re.compile(rb"[0-9A-Za-z.\-]+(?::[0-9]+)?\Z")


class Front:
    """The whole API as an ASGI application.

    An endpoint is answered in the same way here and behind Litestar, which keeps what is not plain: paths that nobody
    declared, headers given twice, and hosts that only it can judge.
    """

    def __init__(
        self, routes: Routes, edge: Edge, tokens: Tokens, lanes: Mapping[str, Lane], telemetry: Telemetry
    ) -> None:
        self._find, self._note = routes.find, telemetry.request
        self._given = Answering(edge, tokens, Deadlines(), Looks(edge.ledger), lanes)
        # The path is matched as it was sent, see routing. Its segments can be anything, so Litestar must not look.
        mounted = asgi("/", is_mount=True, copy_scope=False)(self._behind_litestar)
        self._litestar = Litestar(
            route_handlers=[mounted],
            exception_handlers={Exception: _own_error},
            openapi_config=None,
            logging_config=None,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        scope = cast(HTTPScope, scope)  # the server takes no websockets
        found = self._find(scope["method"], scope["raw_path"])
        pairs = cast("list[tuple[bytes, bytes]]", scope["headers"])
        headers = dict(pairs)
        if isinstance(found, Match) and len(headers) == len(pairs) and _is_plain(headers.get(b"host", b"-")):
            request = Request(headers, scope["query_string"], found.path, receive)
            answer = await answer_of(found.endpoint, self._given, request)
            await respond(send, answer, request.told)
            self._note(found.endpoint.name, answer.outcome, time.perf_counter() - started_s)
        else:
            await self._litestar(scope, receive, send)

    async def _behind_litestar(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        scope = cast(HTTPScope, scope)
        found = self._find(scope["method"], scope["raw_path"])
        if isinstance(found, Match):
            request = Request(headers_of(list(scope["headers"])), scope["query_string"], found.path, receive)
            route, answer = found.endpoint.name, await answer_of(found.endpoint, self._given, request)
            await respond(send, answer, request.told)
        else:
            route, answer = "unmatched", found
            await respond(send, answer)
        self._note(route, answer.outcome, time.perf_counter() - started_s)


@lru_cache(1_024)
def _is_plain(host: bytes) -> bool:
    """Whether it is a host as most are; Litestar decides about all others."""
    return _PLAIN_HOST.match(host) is not None


def _own_error(_request: LitestarRequest[Any, Any, Any], error: Exception) -> Response[bytes]:
    """What Litestar refuses before it asks us, as a problem: a bad Host header is all that is left to it."""
    if isinstance(error, HTTPException) and error.status_code < 500:
        answer = invalid(Fault("request", error.detail))
    else:
        answer = problem("internal-error", "the cause is in the log")
    return Response(answer.body, status_code=answer.status, media_type=answer.content_type.decode())
