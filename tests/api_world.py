"""The API over the plain rules, without servers: a world for tests that calls it as clients do.

Every answer is held to the OpenAPI document: its status, its problem and its shape must be declared by the endpoint.
"""

import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from availability.api.batch import BatchResults, hold_many
from availability.api.checkout import hold
from availability.api.endpoint import Endpoint
from availability.api.openapi import problems_of
from availability.api.problems import PROBLEMS
from availability.api.routing import Match, Routes
from availability.api.service import ENDPOINTS
from availability.app import Api, Stated
from availability.settings import Settings
from ledger import (
    BadCursor,
    ClaimedLine,
    Claims,
    Filters,
    Find,
    Found,
    FoundReservation,
    Operation,
    OvercommittedPage,
    OvercommittedPosition,
    QuarantinedEvent,
    Reservation,
    ReservationPage,
    RulesLedger,
    Unavailable,
)

ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "availability"
START_MS: Final = 1_795_429_200_000  # 2026-11-23T10:20:00Z
ALL_SCOPES: Final = "atp:read reservations:read reservations:write stock:write catalog:write"
CHANGING: Final = (
    *("hold", "extend", "commit", "release", "pick", "ship", "cancel", "return_", "move", "expire"),
    *("apply", "count", "put_location", "put_safety_stock"),
)
_ROUTES: Final = Routes(ENDPOINTS)


class Issuer:
    """Signs tokens with a key of its own."""

    def __init__(self, kid: str = "k1") -> None:
        self.kid = kid
        self.key = Ed25519PrivateKey.generate()

    @property
    def jwk(self) -> dict[str, str]:
        raw = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        x = urlsafe_b64encode(raw).rstrip(b"=").decode()
        return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x}

    @property
    def jwks(self) -> bytes:
        return msgspec.json.encode({"keys": [self.jwk]})

    def sign(self, claims: dict[str, Any], headers: dict[str, Any] | None = None) -> str:
        """A token with these claims, whether they make sense or not; those that are None are left out."""
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.PyJWS().encode(msgspec.json.encode(given), self.key, "EdDSA", {"kid": self.kid, **(headers or {})})


class KeptQuarantine:
    """A quarantine in a list."""

    def __init__(self) -> None:
        self.events: list[QuarantinedEvent] = []

    async def store(self, events: list[QuarantinedEvent]) -> None:
        self.events += events


class SearchOfRules:
    """The search, over the plain rules: complete at any time, its cursors are numbers."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def search(
        self, client: str, filters: Filters, *, limit: int = 50, after: str | None = None
    ) -> ReservationPage:
        if after is not None and not after.isdecimal():
            raise BadCursor
        found = [
            FoundReservation(id_, 0, told.reservation)
            for id_ in reversed(self._world.ledger.rules.claims)
            if isinstance(told := await self._world.ledger.find(Find(id_, client)), Found)
            and self._fits(told.reservation, filters)
        ]
        start = int(after or 0)
        more = str(start + limit) if len(found) > start + limit else None
        return ReservationPage(found[start : start + limit], more, self._world.now_ms - 240, 240)

    async def overcommitted(
        self, *, sku: str | None = None, location: str | None = None, limit: int = 20, after: str | None = None
    ) -> OvercommittedPage:
        if after is not None and not after.isdecimal():
            raise BadCursor
        found = [
            OvercommittedPosition(*place, *shortage, self._claims_at(place))
            for place, shortage in reversed(self._world.ledger.rules.overcommitted.items())
            if sku in (None, place.sku) and location in (None, place.location)
        ]
        start = int(after or 0)
        more = str(start + limit) if len(found) > start + limit else None
        return OvercommittedPage(found[start : start + limit], more, self._world.now_ms - 240, 240)

    def _claims_at(self, place: tuple[str, str]) -> Claims:
        rules = self._world.ledger.rules
        lines = [
            ClaimedLine(id_, reservation, number, line)
            for id_, claim in reversed(rules.claims.items())
            for reservation in (claim.record(),)
            for number, line in enumerate(reservation.lines, 1)
            if (line.sku, line.location) == place and (line.held or line.committed or line.picked)
        ]
        return Claims(lines, len({line.id for line in lines}))

    @staticmethod
    def _fits(reservation: Reservation, filters: Filters) -> bool:
        return (
            filters.order_id in (None, reservation.order_id)
            and filters.customer in (None, reservation.customer)
            and filters.status in (None, reservation.status)
            and any(
                filters.sku in (None, line.sku) and filters.location in (None, line.location)
                for line in reservation.lines
            )
        )


class World:
    """A ledger, the API over it, and a clock that stands still until it is moved.

    With a ``door`` the API is over that ledger instead; ``everything`` and the search then know nothing of it.
    ``set_to`` are settings.
    """

    def __init__(self, door: Stated | None = None, set_to: Mapping[str, Any] | None = None, **limits: int) -> None:
        self.now_ms = START_MS
        self.ledger = RulesLedger(now_ms=lambda: self.now_ms, **limits)
        self.quarantine = KeptQuarantine()
        self.issuer = Issuer()
        settings = Settings(token_issuer=ISSUER, token_audience=AUDIENCE, **(set_to or {}))
        self.api = Api(settings, door or self.ledger, self.quarantine, SearchOfRules(self), now_ms=lambda: self.now_ms)
        self.api.tokens.keys.load(self.issuer.jwks)
        self._keys = 0
        self.held = ""
        self.token = self.token_for("web")

    def refuse_changes(self, reason: str) -> None:
        """Be a ledger that is looked at and not changed, as one that is behind its journal."""

        async def refuse(_operation: Operation) -> None:
            raise Unavailable(reason)

        for verb in CHANGING:
            setattr(self.ledger, verb, refuse)

    def claims(self, client: str = "web", **more: Any) -> dict[str, Any]:
        expires_at_s = self.now_ms // 1_000 + 3_600
        return {"iss": ISSUER, "aud": AUDIENCE, "exp": expires_at_s, "sub": client, "scope": ALL_SCOPES, **more}

    def token_for(self, client: str, scope: str = ALL_SCOPES, **more: Any) -> str:
        return self.issuer.sign(self.claims(client, scope=scope, **more))

    def next_key(self) -> str:
        self._keys += 1
        return f"key-{self._keys}"

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        token: str | None = None,
        raw: bytes | None = None,
        headers: dict[str, str | bytes] | None = None,
    ) -> httpx.Response:
        """Call the API; keyed calls get a key of their own unless one is given. An empty header is not sent."""
        sent: dict[str, str | bytes] = {"Authorization": f"Bearer {self.token if token is None else token}"}
        content = raw
        if body is not None:
            content = msgspec.json.encode(body)
        if content is not None:
            sent["Content-Type"] = "application/json"
        if method == "POST" and path.startswith("/v1/reservations") and path != "/v1/reservations/batch":
            sent["Idempotency-Key"] = key or self.next_key()
        sent = {name: value for name, value in (sent | (headers or {})).items() if value}
        return await self.request(method, path, content, list(sent.items()))

    async def stream(self, method: str, path: str, parts: list[bytes]) -> httpx.Response:
        """Send a body in parts, without saying how long it will be."""

        async def chunks() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        sent = [
            ("Authorization", f"Bearer {self.token}"),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", self.next_key()),
        ]
        return await self.request(method, path, chunks(), sent)

    async def request(
        self,
        method: str,
        path: str,
        content: bytes | AsyncIterator[bytes] | None,
        headers: Sequence[tuple[str, str | bytes]],
    ) -> httpx.Response:
        """Send exactly this."""
        transport = httpx.ASGITransport(app=self.api.asgi)  # type: ignore[arg-type]  # Litestar types ASGI more narrowly
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            made = client.build_request(method, path, content=content, headers=headers)  # type: ignore[arg-type]
            response = await client.send(made)
        check_documented(response)
        return response

    async def raw_path(self, method: str, path: str, headers: Sequence[tuple[str, str]]) -> httpx.Response:
        """Send a path as it is, dots and slashes included."""
        url = httpx.URL("http://test/").copy_with(raw_path=path.encode())
        transport = httpx.ASGITransport(app=self.api.asgi)  # type: ignore[arg-type]  # as above
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.send(client.build_request(method, url, headers=list(headers)))
        check_documented(response)
        return response

    async def asgi(self, method: str, path: str, receive: Callable[[], Awaitable[Any]]) -> int:
        """The status that the application sends when its server behaves like ``receive``."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json", "idempotency-key": "k"}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.api.asgi(scope, receive, send)  # type: ignore[arg-type]  # a scope has more than we look at
        status: int = sent[0]["status"]
        return status

    async def stock(self, sku: str = "SHOE", location: str = "W1", quantity: int = 10) -> None:
        """A location that has counted so many."""
        answer = await self.call("PUT", f"/v1/locations/{quote(location, safe='')}", {"type": "warehouse"})
        assert answer.status_code == 200, answer.text
        body = {"as_of": text_of(self.now_ms), "lines": [{"sku": sku, "quantity": quantity}]}
        answer = await self.call("PUT", f"/v1/locations/{quote(location, safe='')}/counts/{self.next_key()}", body)
        assert answer.status_code == 200, answer.text

    async def hold(self, sku: str = "SHOE", quantity: int = 1, *, location: str = "W1", **more: Any) -> Any:
        """A new reservation."""
        lines = [{"sku": sku, "quantity": quantity, "location": location}]
        answer = await self.call("POST", "/v1/reservations", {"lines": lines, **more})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def available(self, sku: str = "SHOE") -> int:
        """What ATP says."""
        answer = await self.call("GET", f"/v1/atp?sku={sku}")
        number: int = answer.json()["available"]
        return number

    def everything(self) -> object:
        """All that the ledger and the quarantine keep, to see that a refusal changed nothing."""
        rules = self.ledger.rules
        kept = (rules.seq, rules.locations, rules.stock, rules.claims, rules.done, rules.counts, rules.safety_stock)
        return repr((kept, self.quarantine.events))


def text_of(at_ms: int) -> str:
    """RFC 3339 of a time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms // 1_000)) + f".{at_ms % 1_000:03}Z"


def check_documented(response: httpx.Response) -> None:
    """The answer is one that its endpoint declares, in exactly the declared shape."""
    raw_path = response.request.url.raw_path.partition(b"?")[0]
    found = _ROUTES.find(response.request.method, raw_path)
    endpoint = found.endpoint if isinstance(found, Match) else None
    if response.headers["content-type"] == "application/problem+json":
        check_problem(response.status_code, response.content, endpoint)
        return
    assert endpoint is not None
    assert response.headers["content-type"] == endpoint.success.content_type
    check_success(response.status_code, response.content, endpoint)
    if endpoint is hold_many:
        for result in msgspec.json.decode(response.content, type=BatchResults).results:
            check = check_success if result.status < 400 else check_problem
            check(result.status, bytes(result.body), hold)


def check_problem(status: int, content: bytes, endpoint: Endpoint | None) -> None:
    """The problem is one that the endpoint declares."""
    told = msgspec.json.decode(content)
    name = told["type"].removeprefix("/problems/")
    kind = PROBLEMS[name]
    assert status == kind.status == told["status"]
    assert endpoint is None or name in problems_of(endpoint), f"{endpoint.name} does not document {name}"
    check_shape(content, kind.body)


def check_success(status: int, content: bytes, endpoint: Endpoint) -> None:
    """The answer is as the endpoint declares it."""
    assert status == endpoint.success.status
    if isinstance(endpoint.success.example, msgspec.Struct):
        check_shape(content, type(endpoint.success.example))


def check_shape(content: bytes, shape: object) -> None:
    """Nothing is missing, and nothing is there besides."""
    assert isinstance(shape, type)
    assert msgspec.json.encode(msgspec.json.decode(content, type=shape)) == content
