"""What operators, scrapers and others read without a token: health, metrics, the document, the issuer's keys."""

from msgspec import Struct

from availability.api.answer import Answer, ok
from availability.api.edge import Edge
from availability.api.endpoint import PUBLIC, Call, Success, endpoint
from availability.api.outcomes import RETRY_SOON_MS
from availability.api.problems import problem, retry_after

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Health(Struct, frozen=True, omit_defaults=True):
    """A healthy word, and what somebody must mend before it is none any more."""

    status: str
    warnings: list[str] = []


@endpoint("GET", "/health/live", PUBLIC, summary="The process runs.", success=Success("It does", Health("live")))
async def live(_edge: Edge, _call: Call[None]) -> Answer:
    """Never looks at a server: a restart of this process mends none of them."""
    return ok(Health("live"))


@endpoint(
    "GET",
    "/health/ready",
    PUBLIC,
    summary="The service may decide; if not, the reasons.",
    success=Success("It is ready", Health("ready")),
    problems=("not-ready",),
)
async def ready(edge: Edge, _call: Call[None]) -> Answer:
    """For balancers."""
    reasons = edge.reasons()
    if reasons:
        return problem("not-ready", "; ".join(reasons), {"reasons": reasons}, retry_after(RETRY_SOON_MS))
    return ok(Health("ready", edge.warnings()))


@endpoint(
    "GET",
    "/metrics",
    PUBLIC,
    summary="Figures in the format of Prometheus.",
    success=Success("The figures", "availability_ledger_queue_depth 0.0\n", content_type=METRICS_TYPE),
)
async def metrics(edge: Edge, _call: Call[None]) -> Answer:
    """For scrapers."""
    return Answer(200, edge.metrics(), "ok", METRICS_TYPE.encode())


@endpoint(
    "GET",
    "/schema/openapi.json",
    PUBLIC,
    summary="This document.",
    success=Success("OpenAPI 3.1", {"openapi": "3.1.0"}),
)
async def document(edge: Edge, _call: Call[None]) -> Answer:
    """For people and generators."""
    return Answer(200, edge.document, "ok")


@endpoint(
    "GET",
    "/.well-known/jwks.json",
    PUBLIC,
    summary="The public keys that tokens are verified with.",
    success=Success("A JWKS (RFC 7517)", {"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1"}]}),
)
async def jwks(edge: Edge, _call: Call[None]) -> Answer:
    """For services that verify the same tokens."""
    return Answer(200, edge.jwks(), "ok")
