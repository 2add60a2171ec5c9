"""The API as one ASGI application: every endpoint there is."""

from typing import Final

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
from availability.api.edge import Edge
from availability.api.endpoint import Endpoint
from availability.api.front import Front
from availability.api.gate import Gate
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


def service(edge: Edge, tokens: Tokens, gate: Gate, telemetry: Telemetry) -> Front:
    """The application; it starts and stops nothing."""
    edge.document = openapi.document(ENDPOINTS)
    lanes = {endpoint.name: gate.lane_of(endpoint) for endpoint in ENDPOINTS}
    return Front(Routes(ENDPOINTS), edge, tokens, lanes, telemetry)
