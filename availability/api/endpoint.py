"""One declaration an endpoint, and the one way from a request to its answer: token, scope, key, form, handler, problem.

An endpoint is a function ``async (edge, call) -> Answer`` under ``@endpoint(...)``. All that it does not decide itself
(who may call it, how long a body may be, what a field may hold, how failures are told) stands in the declaration, from
which the OpenAPI document is made as well.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from litestar.types import Receive
from msgspec import Struct
from msgspec.structs import replace

from availability.api.answer import NO_HEADERS, Answer
from availability.api.answer import Headers as AnswerHeaders
from availability.api.deadlines import Deadlines
from availability.api.edge import Edge
from availability.api.lanes import Lane
from availability.api.outcomes import failure
from availability.api.problems import Fault, invalid, problem
from availability.api.reading import QueryReader, idempotency_key, read_body
from availability.api.tokens import Principal, Tokens, Unauthenticated
from ledger import LedgerError, Unavailable

BODY_BYTES_MAX: Final = 65_536
LARGE_BODY_BYTES_MAX: Final = 2_097_152
BODY_TIMEOUT_S: Final = 10.0

PUBLIC: Final = "public"
"""The scope of what needs no token. There is no default: whoever declares an endpoint says who may call it."""
SCOPES: Final = (
    "atp:read",
    "reservations:read",
    "reservations:write",
    "stock:write",
    "catalog:write",
    "ops:read",
    "ops:write",
)

FormT = TypeVar("FormT")
Headers = Mapping[bytes, bytes]

log = logging.getLogger(__name__)


class Call(Struct, Generic[FormT], frozen=True):
    """One request, as far as a handler needs to know it."""

    principal: Principal
    path: dict[str, str]
    """The variable parts of the path, by their names in it."""
    form: FormT
    key: str = ""
    """The Idempotency-Key, where the endpoint has one."""


Handler = Callable[[Edge, Call[FormT]], Awaitable[Answer]]


class Success(Struct, frozen=True):
    """An answer that is not a problem, for the document: an example of it has the type that is documented."""

    description: str
    example: object
    status: int = 200
    headers: tuple[str, ...] = ()
    content_type: str = "application/json"


class Endpoint(Struct, frozen=True, kw_only=True):
    """An endpoint as declared. ``scopes``: any one of them is enough; ``problems``: those of its own.

    ``body_shown`` is what the document says of the body, where that is more than what ``body`` checks at once.
    """

    method: str
    path: str
    name: str
    """How metrics and logs call it."""
    scopes: tuple[str, ...]
    public: bool
    """Whether it needs no token."""
    handler: Handler[Any]
    summary: str
    success: Success
    problems: tuple[str, ...] = ()
    body: type[Struct] | None = None
    body_example: dict[str, Any] | None = None
    body_shown: type[Struct] | None = None
    body_bytes_max: int = BODY_BYTES_MAX
    body_optional: bool = False
    query: type[Struct] | None = None
    keyed: bool = False
    decoder: msgspec.json.Decoder[Any] | None = None
    query_reader: QueryReader | None = None

    @property
    def only_looks(self) -> bool:
        """Whether it changes nothing, so that there is nothing to be unknown about."""
        return self.method == "GET" or self.scopes == ("atp:read",)


def endpoint(
    method: str,
    path: str,
    *scopes: str,
    summary: str,
    success: Success,
    problems: tuple[str, ...] = (),
    body: type[Struct] | None = None,
    body_example: dict[str, Any] | None = None,
    body_shown: type[Struct] | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    body_optional: bool = False,
    query: type[Struct] | None = None,
    keyed: bool = False,
) -> Callable[[Handler[Any]], Endpoint]:
    """Declare the decorated handler to be an endpoint."""
    assert scopes, f"{method} {path} does not say who may call it"
    assert all(scope in (*SCOPES, PUBLIC) for scope in scopes), scopes

    def declare(handler: Handler[Any]) -> Endpoint:
        return Endpoint(
            method=method,
            path=path,
            name=f"{method} {path}",
            scopes=scopes,
            public=scopes == (PUBLIC,),
            handler=handler,
            summary=summary,
            success=success,
            problems=problems,
            body=body,
            body_example=body_example,
            body_shown=body_shown or body,
            body_bytes_max=body_bytes_max,
            body_optional=body_optional,
            query=query,
            keyed=keyed,
            decoder=None if body is None else msgspec.json.Decoder(body),
            query_reader=None if query is None else QueryReader.of(query),
        )

    return declare


class Request(Struct):
    """What came, as the server tells it; ``headers`` as ``headers_of`` makes them.

    ``told`` is what its answer says besides, once it is known whose it is: how often that client may come.
    """

    headers: Headers
    query: bytes
    path: dict[str, str]
    """The variable parts of the path, by their names in it."""
    receive: Receive
    told: AnswerHeaders = NO_HEADERS


class Answering(Struct, frozen=True):
    """What endpoints are answered with."""

    edge: Edge
    tokens: Tokens
    body_deadlines: Deadlines
    lanes: Mapping[str, Lane]


async def answer_of(endpoint_: Endpoint, given: Answering, request: Request) -> Answer:
    """The answer to a request for this endpoint."""
    lane = given.lanes[endpoint_.name]
    refusal = lane.enter()
    if refusal is not None:
        return refusal
    entered_s = time.perf_counter()
    try:
        return await settled(endpoint_, _answer(endpoint_, given, request))
    finally:
        lane.leave(time.perf_counter() - entered_s)


async def settled(endpoint_: Endpoint, answering: Awaitable[Answer]) -> Answer:
    """Its answer or, where it fails, the problem that tells so."""
    try:
        return await answering
    except Exception as error:  # noqa: BLE001 - it is told and logged
        return failed(endpoint_, error)


def failed(endpoint_: Endpoint, error: BaseException) -> Answer:
    """The problem that tells of a failure on the way to an answer; one that nobody foresaw goes to the log."""
    if isinstance(error, LedgerError):
        return failure(error, keyed=endpoint_.keyed, only_looks=endpoint_.only_looks)
    log.error("%s failed", endpoint_.name, exc_info=error)
    advice = "GET /v1/operations/{key} tells whether it was done" if endpoint_.keyed else "the cause is in the log"
    return problem("internal-error", advice)


_NOBODY: Final = Principal("", frozenset(), None, 0.0)
_ONCE: Final = (b"authorization", b"idempotency-key", b"content-type", b"content-length")


def headers_of(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name. One that we read and that is given twice is blanked: it is then refused as malformed."""
    headers = dict(pairs)
    if len(headers) != len(pairs):
        names = [name for name, _ in pairs]
        for name in _ONCE:
            if names.count(name) > 1:
                headers[name] = b""
    return headers


async def _answer(endpoint_: Endpoint, given: Answering, request: Request) -> Answer:
    """The handler's answer, or that for a request that does not come to it."""
    headers, principal = request.headers, _NOBODY
    if not endpoint_.public:
        known = _principal(given.tokens, headers)
        if isinstance(known, Answer):
            return known
        principal = known
        # Before the body is read: who asks too often shall not cost more than this.
        limits = given.edge.limits
        told = limits.take(principal.client)
        if told is None:
            told = await limits.judge(principal.client)
        if isinstance(told, Answer):
            return told
        request.told = told
        if principal.scopes.isdisjoint(endpoint_.scopes):
            return _forbidden(endpoint_)
    key = _key(headers) if endpoint_.keyed else ""
    if isinstance(key, Answer):
        return key
    if endpoint_.decoder is None or request.query:
        form = _query(endpoint_, request.query)
    else:
        form = await _body(endpoint_, given.body_deadlines, request)
    if isinstance(form, Answer):
        return form
    return await endpoint_.handler(given.edge, Call(principal, request.path, form, key))


def _principal(tokens: Tokens, headers: Headers) -> Principal | Answer:
    principal = tokens.authenticate(headers.get(b"authorization"))
    if isinstance(principal, Unauthenticated):
        challenge = b'Bearer realm="availability"'
        if b"authorization" in headers:
            if not tokens.keys.loaded:
                raise Unavailable("the issuer's keys are not loaded yet")
            challenge += b', error="invalid_token"'
        return problem("unauthenticated", principal.reason, headers=((b"www-authenticate", challenge),))
    return principal


def _forbidden(endpoint_: Endpoint) -> Answer:
    needed = " or ".join(endpoint_.scopes)
    challenge = f'Bearer realm="availability", error="insufficient_scope", scope="{endpoint_.scopes[-1]}"'.encode()
    return problem("forbidden", f"this needs the scope {needed}", headers=((b"www-authenticate", challenge),))


def _key(headers: Headers) -> str | Answer:
    header = headers.get(b"idempotency-key")
    if header is None:
        return problem("missing-idempotency-key", "give each operation a key of its own, of 1..255 characters")
    key = idempotency_key(header)
    if key is None:
        return invalid(Fault("Idempotency-Key", "must be one value of 1..255 visible ASCII characters"))
    return key


def _query(endpoint_: Endpoint, query: bytes) -> Any:
    """The query as the declared form, or the ``Answer`` that refuses it."""
    if endpoint_.query_reader is not None:
        form = endpoint_.query_reader.read(query)
        return invalid(form) if isinstance(form, Fault) else form
    if query:
        name = query.partition(b"=")[0][:64].decode("ascii", "backslashreplace")
        return invalid(Fault(name, "is not a parameter of this call"))
    return None


async def _body(endpoint_: Endpoint, deadlines: Deadlines, request: Request) -> Any:
    """The body as the declared form, or the ``Answer`` that refuses it."""
    assert endpoint_.decoder is not None
    headers = request.headers
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > endpoint_.body_bytes_max:
        return too_large(endpoint_.body_bytes_max)
    reading = deadlines.start(BODY_TIMEOUT_S)
    try:
        body = await _bytes(request.receive, endpoint_.body_bytes_max)
    except asyncio.CancelledError:
        if deadlines.end(reading):
            return problem("request-timeout", f"the body took longer than {BODY_TIMEOUT_S:.0f} s")
        raise
    finally:
        deadlines.end(reading)
    if not isinstance(body, bytes):
        return body
    if not body and endpoint_.body_optional:
        body = b"{}"
    elif not _is_json(headers.get(b"content-type", b"")):
        return problem("unsupported-media-type", "send the body as Content-Type: application/json")
    form = read_body(endpoint_.decoder, body)
    return invalid(form) if isinstance(form, Fault) else form


async def _bytes(receive: Receive, bytes_max: int) -> bytes | Answer:
    """All of the body, never more than allowed, whatever the client said of its length."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            # The client left, or its chunks make no sense: the server does not tell which.
            return replace(invalid(Fault("body", "must arrive whole")), outcome="gone")
        body = body + message["body"] if body else message["body"]
        if len(body) > bytes_max:
            return too_large(bytes_max)
        if not message.get("more_body"):
            return body


def _is_json(content_type: bytes) -> bool:
    if content_type == b"application/json":
        return True
    essence, _, parameters = content_type.lower().partition(b";")
    charset = parameters.strip().replace(b'"', b"")
    return essence.strip() == b"application/json" and charset in (b"", b"charset=utf-8")


def too_large(bytes_max: int) -> Answer:
    """413, for a body or an item of one."""
    return problem("too-large", f"at most {bytes_max} bytes are taken here", {"maximum_bytes": bytes_max})
