"""The one way from a request to its answer: token, rate, scope, key, form, handler, and problems for what fails."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from litestar.types import Receive
from msgspec import Struct
from msgspec.structs import replace

from availability.api.answer import NO_HEADERS, Answer
from availability.api.answer import Headers as AnswerHeaders
from availability.api.deadlines import Deadlines
from availability.api.edge import Edge
from availability.api.endpoint import Call, Endpoint
from availability.api.lanes import Lane
from availability.api.outcomes import failure
from availability.api.problems import Fault, invalid, problem
from availability.api.reading import idempotency_key, read_body
from availability.api.sharing import Looks
from availability.api.tokens import Principal, Tokens, Unauthenticated
from ledger import LedgerError, Unavailable

BODY_TIMEOUT_S: Final = 10.0

Headers = Mapping[bytes, bytes]

log = logging.getLogger(__name__)


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
    looks: Looks
    lanes: Mapping[str, Lane]


async def answer_of(endpoint_: Endpoint, given: Answering, request: Request) -> Answer:
    """The answer to a request for this endpoint."""
    lane = given.lanes[endpoint_.name]
    refusal = lane.enter()
    if refusal is not None:
        return refusal
    entered_s = time.perf_counter()
    try:
        return await _answer(endpoint_, given, request)
    except Exception as error:  # noqa: BLE001 - it is told and logged
        return failed(endpoint_, error)
    finally:
        lane.leave(time.perf_counter() - entered_s)


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
    principal = _NOBODY if endpoint_.public else _principal(given.tokens, request.headers)
    if isinstance(principal, Answer):
        return principal
    if not endpoint_.public:
        # Before the body is read: who asks too often shall not cost more than this.
        limits = given.edge.limits
        told = limits.take(principal.client)
        if told is None:
            told = await limits.judge(principal.client)
        refused = _refused(endpoint_, principal, request, told)
        if refused is not None:
            return refused
    key = _key(request.headers) if endpoint_.keyed else ""
    if isinstance(key, Answer):
        return key
    has_body = endpoint_.decoder is not None and not request.query
    asked = await _body(endpoint_, given, request) if has_body else request.query
    if isinstance(asked, Answer):
        return asked
    handling = _handling(endpoint_, given, request, Call(principal, request.path, asked, key))
    return handling if isinstance(handling, Answer) else await handling


def _refused(
    endpoint_: Endpoint, principal: Principal, request: Request, told: AnswerHeaders | Answer
) -> Answer | None:
    """The refusal of one who asks too often, or for what he may not; what he is told of how often he may is noted."""
    if isinstance(told, Answer):
        return told
    request.told = told
    return _forbidden(endpoint_) if principal.scopes.isdisjoint(endpoint_.scopes) else None


def _handling(endpoint_: Endpoint, given: Answering, request: Request, call: Call[bytes]) -> Awaitable[Answer] | Answer:
    """The answer of the handler, or of another's that was asked the same, to the query or the body in ``call``."""
    question = (endpoint_.name, call.form) if endpoint_.shared else None
    joined = given.looks.join(question) if question else None
    if joined is not None:
        return joined
    decoder = endpoint_.decoder
    form = _query(endpoint_, call.form) if decoder is None or request.query else read_body(decoder, call.form)
    if isinstance(form, Fault):
        return invalid(form)
    handling = endpoint_.handler(given.edge, Call(call.principal, call.path, form, call.key))
    return given.looks.ask(question, handling) if question else handling


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
    """The query as the declared form, or its fault."""
    if endpoint_.query_reader is not None:
        return endpoint_.query_reader.read(query)
    if query:
        name = query.partition(b"&")[0].partition(b"=")[0][:64].decode("ascii", "backslashreplace")
        return Fault(name or "query", "is not a parameter of this call")
    return None


async def _body(endpoint_: Endpoint, given: Answering, request: Request) -> bytes | Answer:
    """The body, which says that it is JSON, or the answer that refuses it."""
    headers = request.headers
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > endpoint_.body_bytes_max:
        return too_large(endpoint_.body_bytes_max)
    deadlines, lane = given.body_deadlines, given.lanes[endpoint_.name]
    reading, since = deadlines.start(BODY_TIMEOUT_S), lane.begin_to_read()
    try:
        body = await _bytes(request.receive, endpoint_.body_bytes_max)
    except asyncio.CancelledError:
        if deadlines.end(reading):
            return problem("request-timeout", f"the body took longer than {BODY_TIMEOUT_S:.0f} s")
        raise
    finally:
        deadlines.end(reading)
        lane.has_read(since)
    if not isinstance(body, bytes):
        return body
    if not body and endpoint_.body_optional:
        return b"{}"
    if not _is_json(headers.get(b"content-type", b"")):
        return problem("unsupported-media-type", "send the body as Content-Type: application/json")
    return body


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
