"""The API as one ASGI application: every endpoint there is, mounted in Litestar, and its own errors in our words."""

import time
from typing import Any, Final, cast

from litestar import Litestar, Request, Response, asgi
from litestar.exceptions import HTTPException
from litestar.types import HTTPScope, Receive, Scope, Send

from availability.api import (
    batch,
    catalog,
    checkout,
    openapi,
    overcommitted,
    pages,
    reconciling,
    searching,
    stock,
    verbs,
)
from availability.api.answer import Answer, respond
from availability.api.edge import Edge
from availability.api.endpoint import Endpoint, answer_of
from availability.api.gate import Gate
from availability.api.problems import Fault, invalid, problem
from availability.api.routing import Routes
from availability.api.tokens import Tokens
from availability.telemetry import Telemetry

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    checkout.atp,
    checkout.atp_many,
    checkout.hold,
    searching.reservations,
    checkout.reservation,
    checkout.operation,
    batch.hold_many,
    verbs.extend,
    verbs.commit,
    verbs.release,
    verbs.pick,
    verbs.ship,
    verbs.cancel,
    verbs.return_,
    verbs.move,
    stock.stock_events,
    stock.count,
    reconciling.views,
    catalog.put_location,
    catalog.locations,
    catalog.put_safety_stock,
    overcommitted.overcommitted,
    pages.live,
    pages.ready,
    pages.metrics,
    pages.document,
    pages.jwks,
)


def service(edge: Edge, tokens: Tokens, gate: Gate, telemetry: Telemetry) -> Litestar:
    """The application; it starts and stops nothing."""
    edge.document = openapi.document(ENDPOINTS)
    routes = Routes(ENDPOINTS)
    lanes = {endpoint.name: gate.lane_of(endpoint) for endpoint in ENDPOINTS}

    # The path is matched as it was sent, see routing. Its segments can be anything, so Litestar must not look at them.
    @asgi("/", is_mount=True, copy_scope=False)
    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        # The server is told to take no websockets.
        scope = cast(HTTPScope, scope)
        started_s = time.perf_counter()
        found = routes.find(scope["method"], scope["raw_path"])
        if isinstance(found, Answer):
            route, answer = "unmatched", found
        else:
            route = found.endpoint.name
            lane = lanes[route]
            refusal = lane.enter()
            if refusal is None:
                try:
                    answer = await answer_of(found.endpoint, edge, tokens, scope, found.path, receive)
                finally:
                    lane.leave(time.perf_counter() - started_s)
            else:
                answer = refusal
        await respond(send, answer)
        telemetry.request(route, answer.outcome, time.perf_counter() - started_s)

    return Litestar(
        route_handlers=[api],
        exception_handlers={Exception: _own_error},
        openapi_config=None,
        logging_config=None,
    )


def _own_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """What Litestar refuses before it asks us, as a problem: a bad Host header is all that is left to it."""
    if isinstance(error, HTTPException) and error.status_code < 500:
        answer = invalid(Fault("request", error.detail))
    else:
        answer = problem("internal-error", "the cause is in the log")
    return Response(answer.body, status_code=answer.status, media_type=answer.content_type.decode())
