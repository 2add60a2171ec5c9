"""Who may call what: tokens, scopes, locations and keys. Over the plain rules, without servers."""

import asyncio
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from api_world import ALL_SCOPES, AUDIENCE, ISSUER, Issuer, World
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from waiting import wait_until

from availability.api import keyring
from availability.api.endpoint import PUBLIC, SCOPES
from availability.api.keyring import keep_fresh, read_document
from availability.api.service import ENDPOINTS
from availability.api.tokens import REMEMBERED_TOKENS_MAX, Keys, Principal, Tokens, Unauthenticated

pytestmark = pytest.mark.anyio

STRANGER = Issuer()


@pytest.fixture
async def world() -> World:
    world = World()
    await world.stock()
    return world


def part(value: object) -> str:
    return urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def signed_by_public_key(world: World) -> str:
    """HS256 with the public key as the secret: the classic confusion."""
    secret = world.issuer.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return jwt.encode(world.claims(), secret, "HS256", {"kid": "k1"})


def tampered(world: World) -> str:
    head, claims, signature = world.token.split(".")
    return f"{head}.{part(world.claims('app'))}.{signature}" if claims else ""


def without(world: World, *names: str) -> str:
    return world.issuer.sign(world.claims() | dict.fromkeys(names))


BAD_TOKENS: dict[str, Callable[[World], str]] = {
    "no token": lambda _: "",
    "no JWT": lambda _: "abc",
    "empty parts": lambda _: "..",
    "alg none": lambda w: f"{part({'alg': 'none', 'kid': 'k1'})}.{part(w.claims())}.",
    "alg None with a signature": lambda w: f"{part({'alg': 'None', 'kid': 'k1'})}.{part(w.claims())}.AAAA",
    "HS256 with the public key": signed_by_public_key,
    "another algorithm than the key's": lambda w: f"{part({'alg': 'ES256', 'kid': 'k1'})}.{part(w.claims())}.AAAA",
    "tampered": tampered,
    "no signature": lambda w: w.token.rpartition(".")[0] + ".",
    "another key under the same kid": lambda w: STRANGER.sign(w.claims()),
    "unknown kid": lambda w: w.issuer.sign(w.claims(), {"kid": "k2"}),
    "kid that is a path": lambda w: w.issuer.sign(w.claims(), {"kid": "../../dev/null"}),
    "crit": lambda w: w.issuer.sign(w.claims(), {"crit": ["exp"]}),
    "jku": lambda w: w.issuer.sign(w.claims(), {"jku": "https://evil.example/jwks"}),
    "jwk": lambda w: STRANGER.sign(w.claims(), {"jwk": STRANGER.jwk}),
    "x5u": lambda w: w.issuer.sign(w.claims(), {"x5u": "https://evil.example/x"}),
    "an ID token's type": lambda w: w.issuer.sign(w.claims(), {"typ": "id_token+jwt"}),
    "other issuer": lambda w: w.issuer.sign(w.claims(iss=f"{ISSUER}/")),
    "issuer as a list": lambda w: w.issuer.sign(w.claims(iss=[ISSUER])),
    "other audience": lambda w: w.issuer.sign(w.claims(aud="payments")),
    "no issuer": lambda w: without(w, "iss"),
    "no audience": lambda w: without(w, "aud"),
    "no expiry": lambda w: without(w, "exp"),
    "expired": lambda w: w.issuer.sign(w.claims(exp=w.now_ms // 1_000 - 5)),
    "expiry as text": lambda w: w.issuer.sign(w.claims(exp="9999999999")),
    "expiry true": lambda w: w.issuer.sign(w.claims(exp=True)),
    "not yet": lambda w: w.issuer.sign(w.claims(nbf=w.now_ms // 1_000 + 6)),
    "no client": lambda w: without(w, "sub"),
    "client that is no text": lambda w: w.issuer.sign(w.claims(sub=7)),
    "client that is not printable": lambda w: w.issuer.sign(w.claims("a\x00b")),
    "client that is too long": lambda w: w.issuer.sign(w.claims("c" * 129)),
    "empty client": lambda w: w.issuer.sign(w.claims("")),
    "scope as a list": lambda w: w.issuer.sign(w.claims(scope=ALL_SCOPES.split())),
    "locations as a text": lambda w: w.issuer.sign(w.claims(locations="W1")),
    "too long": lambda w: w.issuer.sign(w.claims(padding="x" * 9_000)),
}


@pytest.mark.parametrize("make", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_no_valid_token_is_401_and_changes_nothing(world: World, make: Callable[[World], str]) -> None:
    token = make(world)
    before = world.everything()
    body = {"lines": [{"sku": "SHOE", "quantity": 1, "location": "W1"}]}

    authorization = f"Bearer {token}" if token else ""
    answer = await world.call("POST", "/v1/reservations", body, headers={"Authorization": authorization})

    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="availability"')
    assert before == world.everything()
    assert not token or token not in answer.text


@pytest.mark.parametrize("form", ["{}", "Basic {}", "Bearer{}", "Bearer  {}", "Bearer {} ", "Bearer {},Bearer {}"])
async def test_only_the_bearer_form_is_taken(world: World, form: str) -> None:
    answer = await world.call("GET", "/v1/atp?sku=SHOE", headers={"Authorization": form.replace("{}", world.token)})

    assert answer.status_code == 401


async def test_two_authorization_headers_are_none(world: World) -> None:
    both = [("Authorization", f"Bearer {world.token}"), ("Authorization", f"Bearer {world.token}")]

    assert (await world.request("GET", "/v1/atp?sku=SHOE", None, both)).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["payments", AUDIENCE]},
        {"exp": 1_795_429_200 - 4},
        {"nbf": 1_795_429_200 + 5},
        {"sub": None, "client_id": "web"},
        {"iat": 1},
    ],
)
async def test_what_the_standards_allow_is_taken(world: World, claims: dict[str, Any]) -> None:
    token = world.issuer.sign(world.claims(**claims), {"typ": "at+jwt"})

    assert (await world.call("GET", "/v1/atp?sku=SHOE", token=token)).status_code == 200


async def test_a_remembered_token_still_expires(world: World) -> None:
    token = world.issuer.sign(world.claims(exp=world.now_ms // 1_000 + 1))
    statuses = []
    for later_ms in (0, 5_999, 6_000):
        world.now_ms = 1_795_429_200_000 + later_ms
        statuses.append((await world.call("GET", "/v1/atp?sku=SHOE", token=token)).status_code)

    assert statuses == [200, 200, 401]


async def test_a_key_taken_out_of_the_set_opens_nothing_any_more(world: World) -> None:
    other = Issuer("k9")
    assert (await world.call("GET", "/v1/atp?sku=SHOE")).status_code == 200

    assert world.api.tokens.keys.load(other.jwks)
    world.api.tokens.forget()

    assert (await world.call("GET", "/v1/atp?sku=SHOE")).status_code == 401
    assert (await world.call("GET", "/v1/atp?sku=SHOE", token=other.sign(world.claims()))).status_code == 200


async def test_without_keys_nobody_is_refused_for_good(world: World) -> None:
    world.api.tokens.keys = Keys()
    world.api.tokens.forget()

    answer = await world.call("GET", "/v1/atp?sku=SHOE")
    ready = await world.call("GET", "/health/ready")

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-ready")
    assert ready.json()["reasons"] == ["the issuer's keys are not loaded yet"]


# --- scopes ------------------------------------------------------------------------------------------------------

OPEN_PATHS = {"/health/live", "/health/ready", "/metrics", "/schema/openapi.json", "/.well-known/jwks.json"}


def test_every_endpoint_says_who_may_call_it() -> None:
    for endpoint in ENDPOINTS:
        expected = (PUBLIC,) if endpoint.path in OPEN_PATHS else endpoint.scopes
        assert expected == endpoint.scopes
        assert endpoint.scopes
        assert endpoint.public or set(endpoint.scopes) <= set(SCOPES)
        assert endpoint.public or endpoint.path.startswith("/v1/")


NOT_ENOUGH = ["", "atp", "atp:readx", "xatp:read", "ATP:READ", "atp:read,stock:write", "atp:*", "public", "atp:\tread"]


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if not e.public], ids=lambda endpoint: endpoint.name)
async def test_any_other_scope_is_403_and_changes_nothing(world: World, endpoint: Any) -> None:
    others = " ".join(scope for scope in SCOPES if scope not in endpoint.scopes)
    before = world.everything()
    for scope in (others, *NOT_ENOUGH, *(f"{scope}x x{scope}" for scope in endpoint.scopes)):
        path = endpoint.path.replace("{", "").replace("}", "")
        raw = b"{}" if endpoint.body else None
        answer = await world.call(endpoint.method, path, raw=raw, token=world.token_for("web", scope))

        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden"), scope
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    assert before == world.everything()


async def test_each_scope_is_enough_for_its_own(world: World) -> None:
    made = (await world.hold())["id"]
    for scope, method, path in [
        ("atp:read", "GET", "/v1/atp?sku=SHOE"),
        ("atp:read", "GET", "/v1/locations"),
        ("reservations:read", "GET", f"/v1/reservations/{made}"),
        ("reservations:write", "GET", f"/v1/reservations/{made}"),
        ("reservations:write", "GET", "/v1/operations/key-2"),
    ]:
        assert (await world.call(method, path, token=world.token_for("web", f"x {scope}"))).status_code == 200


# --- keys --------------------------------------------------------------------------------------------------------


def jwk_of(public: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(public, rsa.RSAPublicKey) else ECAlgorithm
    return algorithm.to_jwk(public, as_dict=True) | {"kid": "k1"}


@pytest.mark.parametrize("kind", ["RS256", "ES256"])
def test_rsa_and_elliptic_keys_verify_too(kind: str) -> None:
    private: Any = (
        rsa.generate_private_key(65_537, 2_048) if kind == "RS256" else ec.generate_private_key(ec.SECP256R1())
    )
    tokens = Tokens(Keys(), ISSUER, AUDIENCE, lambda: 0.0)
    tokens.keys.load(msgspec.json.encode({"keys": [jwk_of(private.public_key())]}))
    token = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "exp": 1, "sub": "web"}, private, kind)

    # A token that names no key means the only one there is.
    assert Principal("web", frozenset(), None, 1.0) == tokens.authenticate(f"Bearer {token}".encode())


UNUSABLE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no keys": b'{"keys":[]}',
    "not a set": b"[]",
    "deep": b'{"keys":' + b"[" * 100_000,
    "a secret": b'{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"k1"}]}',
    "for encryption": msgspec.json.encode({"keys": [STRANGER.jwk | {"use": "enc"}]}),
    "of another algorithm": msgspec.json.encode({"keys": [STRANGER.jwk | {"alg": "HS256"}]}),
    "of another curve": msgspec.json.encode({"keys": [STRANGER.jwk | {"crv": "Ed448"}]}),
    "private": msgspec.json.encode({"keys": [OKPAlgorithm.to_jwk(STRANGER.key, as_dict=True) | {"kid": "k1"}]}),
    "malformed": msgspec.json.encode({"keys": [STRANGER.jwk | {"x": "AAAA"}]}),
    "too short": msgspec.json.encode({"keys": [jwk_of(rsa.generate_private_key(65_537, 1_024).public_key())]}),  # noqa: S505 - it is
    "another elliptic curve": msgspec.json.encode(
        {"keys": [jwk_of(ec.generate_private_key(ec.SECP384R1()).public_key())]}
    ),
}


@pytest.mark.parametrize("document", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_set_without_a_usable_key_is_refused_and_the_last_one_kept(document: bytes) -> None:
    keys = Keys()
    keys.load(STRANGER.jwks)

    with pytest.raises(ValueError, match="the key set"):
        keys.load(document)

    assert keys.find("k1") is not None
    assert STRANGER.jwks == keys.document


def test_only_so_many_tokens_are_remembered() -> None:
    tokens = Tokens(Keys(), ISSUER, AUDIENCE, lambda: 0.0)
    tokens.keys.load(STRANGER.jwks)
    remembered = tokens._verified  # noqa: SLF001 - that it is bounded cannot be seen from outside
    for number in range(REMEMBERED_TOKENS_MAX):
        remembered[b"%d" % number] = Principal("web", frozenset(), None, 1.0)
    tokens.authenticate(b"0")
    fresh = STRANGER.sign({"iss": ISSUER, "aud": AUDIENCE, "exp": 1, "sub": "web"})

    assert isinstance(tokens.authenticate(f"Bearer {fresh}".encode()), Principal)
    assert isinstance(tokens.authenticate(b"Bearer x"), Unauthenticated)
    assert (len(remembered), b"0" in remembered, b"1" in remembered) == (REMEMBERED_TOKENS_MAX, True, False)


class _Fetched(BaseHTTPRequestHandler):
    """Answers with the key set, or sends elsewhere."""

    fetches = 0

    def do_GET(self) -> None:
        type(self).fetches += 1
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/jwks")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(STRANGER.jwks)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def key_server() -> Iterator[str]:
    _Fetched.fetches = 0
    server = HTTPServer(("127.0.0.1", 0), _Fetched)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_come_from_their_file_or_address_and_from_nowhere_else(tmp_path: Path, key_server: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(STRANGER.jwks)

    assert STRANGER.jwks == read_document(str(file), "")
    assert STRANGER.jwks == read_document("", f"{key_server}/jwks")
    with pytest.raises(OSError, match="302"):
        read_document("", f"{key_server}/moved")
    for address in ("", f"file://{file}", "ftp://127.0.0.1/x"):
        with pytest.raises(ValueError, match="http"):
            read_document("", address)


async def test_an_unknown_key_is_looked_for_in_the_background_and_seldom(
    key_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "LOOK_S", 0.01)
    tokens = Tokens(Keys(), ISSUER, AUDIENCE, lambda: 0.0)
    watcher = asyncio.create_task(keep_fresh(tokens, "", f"{key_server}/jwks"))

    async def loaded() -> bool:
        return tokens.keys.loaded

    await wait_until(loaded)
    unknown = STRANGER.sign({"iss": ISSUER, "aud": AUDIENCE, "exp": 1, "sub": "web"}, {"kid": "k2"})
    for _ in range(20):
        assert isinstance(tokens.authenticate(f"Bearer {unknown}".encode()), Unauthenticated)
        await asyncio.sleep(0.01)
    assert _Fetched.fetches == 1

    monkeypatch.setattr(keyring, "REFRESH_MIN_S", 0.0)

    async def fetched_again() -> bool:
        return _Fetched.fetches == 2 and not tokens.keys.unknown_kid_seen

    await wait_until(fetched_again)
    watcher.cancel()
