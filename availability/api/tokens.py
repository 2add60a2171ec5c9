"""Who is calling: bearer tokens (JWT) checked against the issuer's public keys, once for each token (RFC 8725)."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import jwt
import msgspec
from msgspec import Struct

from ledger import Reference

LEEWAY_S: Final = 5
TOKEN_BYTES_MAX: Final = 8_192
REMEMBERED_TOKENS_MAX: Final = 10_000

_ALGORITHMS: Final = {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256"}
_CURVES: Final = {"OKP": "Ed25519", "EC": "P-256", "RSA": None}
_TYPES: Final = ("jwt", "at+jwt", "application/at+jwt")
_FORBIDDEN_HEADERS: Final = ("crit", "jku", "jwk", "x5u", "x5c", "b64", "zip")


class Principal(Struct, frozen=True):
    """A client, what it may do, and where (``locations`` None = everywhere)."""

    client: str
    scopes: frozenset[str]
    locations: frozenset[str] | None
    expires_at_s: float


class Unauthenticated(Struct, frozen=True):
    """Why there is no principal; never holds any part of the token."""

    reason: str


class _Jwks(Struct):
    keys: list[dict[str, Any]]


class _Claims(Struct):
    exp: float
    sub: Reference | None = None
    client_id: Reference | None = None
    scope: str = ""
    locations: list[str] | None = None


class Keys:
    """The issuer's public keys by their ``kid``. A set without a usable key is refused, and the last good one kept."""

    def __init__(self) -> None:
        self._keys: dict[str, jwt.PyJWK] = {}
        self.document = b'{"keys":[]}'
        self.loaded = False
        self.unknown_kid_seen = False

    def load(self, document: bytes) -> bool:
        """Take the JWKS; whether the keys are others than before. Raises ``ValueError`` when no key can be used."""
        try:
            jwks = msgspec.json.decode(document, type=_Jwks)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError("the key set is no JWKS") from error
        found = [(jwk, key) for jwk in jwks.keys if (key := _public_key(jwk)) is not None]
        if not found:
            raise ValueError("the key set has no key that can be used")
        public = msgspec.json.encode({"keys": [jwk for jwk, _ in found]})
        changed = public != self.document
        self._keys = {str(jwk.get("kid", "")): key for jwk, key in found}
        self.document, self.loaded, self.unknown_kid_seen = public, True, False
        return changed

    def find(self, kid: object) -> jwt.PyJWK | None:
        """The key that a token names, or the only one for a token that names none."""
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            self.unknown_kid_seen = True
        return key


class Tokens:
    """From an ``Authorization`` header to a principal; remembers what it verified until the token expires."""

    def __init__(self, keys: Keys, issuer: str, audience: str, now_s: Callable[[], float] = time.time) -> None:
        self.keys = keys
        self._issuer, self._audience, self._now_s = issuer, audience, now_s
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()

    def forget(self) -> None:
        """The keys have changed: verify every token again."""
        self._verified.clear()

    def authenticate(self, authorization: bytes | None) -> Principal | Unauthenticated:
        """The principal of ``Bearer <token>``."""
        if authorization is None:
            return Unauthenticated("there is no token")
        known = self._verified.get(authorization)
        if known is not None:
            if known.expires_at_s + LEEWAY_S > self._now_s():
                self._verified.move_to_end(authorization)
                return known
            del self._verified[authorization]
        principal = self._verify(authorization)
        if isinstance(principal, Principal):
            self._verified[authorization] = principal
            if len(self._verified) > REMEMBERED_TOKENS_MAX:
                self._verified.popitem(last=False)
        return principal

    def _verify(self, authorization: bytes) -> Principal | Unauthenticated:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not 0 < len(token) <= TOKEN_BYTES_MAX:
            return Unauthenticated(f"the authorization is not Bearer and a token of at most {TOKEN_BYTES_MAX} bytes")
        try:
            key = self._key(jwt.get_unverified_header(token))
            return key if isinstance(key, Unauthenticated) else _principal(self._claims(token, key))
        except jwt.ExpiredSignatureError:
            return Unauthenticated("the token has expired")
        except (jwt.InvalidIssuerError, jwt.InvalidAudienceError):
            return Unauthenticated("the token is from another issuer or for another audience")
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            return Unauthenticated("the token is not valid")

    def _key(self, header: dict[str, Any]) -> jwt.PyJWK | Unauthenticated:
        """The key for a token with this header."""
        if any(name in header for name in _FORBIDDEN_HEADERS):
            return Unauthenticated("the token's header has members that are not accepted")
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            return Unauthenticated("the token is of another type")
        key = self.keys.find(header.get("kid"))
        return Unauthenticated("the token's key is not known") if key is None else key

    def _claims(self, token: bytes, key: jwt.PyJWK) -> dict[str, Any]:
        now_s = self._now_s()
        claims: dict[str, Any] = jwt.decode(
            token,
            key=key,
            algorithms=[key.algorithm_name],  # the key's own; the header may only agree with it
            issuer=self._issuer,
            audience=self._audience,
            options={
                "require": ["exp", "iss", "aud"],
                # Judged below, by the clock that we were given.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        expires_at_s, not_before_s = claims["exp"], claims.get("nbf", 0)
        if not all(type(at) in (int, float) for at in (expires_at_s, not_before_s)):
            raise TypeError("exp and nbf are numbers")
        if expires_at_s + LEEWAY_S <= now_s:
            raise jwt.ExpiredSignatureError
        if not_before_s - LEEWAY_S > now_s:
            raise jwt.ImmatureSignatureError
        return claims


def _public_key(jwk: dict[str, Any]) -> jwt.PyJWK | None:
    """The key, if it is an asymmetric public one for signatures and strong enough; None = not for us."""
    kind = jwk.get("kty")
    if kind not in _ALGORITHMS or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    algorithm = _ALGORITHMS[kind]
    if jwk.get("alg", algorithm) != algorithm or jwk.get("crv") != _CURVES[kind]:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    return key if kind != "RSA" or key.key.key_size >= 2_048 else None


def _principal(claims: dict[str, Any]) -> Principal | Unauthenticated:
    try:
        given = msgspec.convert(claims, _Claims)
    except (msgspec.ValidationError, RecursionError):
        return Unauthenticated("the token's claims are not of the right form")
    client = given.sub or given.client_id
    if client is None:
        return Unauthenticated("the token names no client")
    locations = None if given.locations is None else frozenset(given.locations)
    return Principal(client, frozenset(given.scope.split(" ")) - {""}, locations, given.exp)
