"""Owns the instance's own token issuer: its key, its public key set, and the tokens that it signs.

It is for one machine: laptops, tests, the demo. A deployment names its identity provider's keys in the settings.
"""

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

ALGORITHM = "ES256"
ISSUER = "availability"
SCOPES = (
    *("atp:read", "reservations:read", "reservations:write", "stock:write"),
    *("catalog:write", "ops:read", "ops:write"),
)
DEFAULT_TTL_S = 3_600


class NoKeys(Exception):
    """The folder holds no issuer's key: no ``up`` has run there."""


def create_keys(folder: Path) -> None:
    """Make the signing key (0600) and the public key set, unless they are there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = _private_file(folder)
    if not private.exists():
        key = generate_private_key(SECP256R1())
        fresh = private.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        fresh.rename(private)
    key = _load(folder)
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    public |= {"kid": _key_id(key), "use": "sig", "alg": ALGORITHM}
    jwks_file(folder).write_text(json.dumps({"keys": [public]}) + "\n", encoding="utf-8")


def jwks_file(folder: Path) -> Path:
    """Where the public key set is."""
    return folder / "jwks.json"


def sign(
    folder: Path,
    *,
    client: str,
    scopes: Sequence[str],
    audience: str,
    issuer: str = ISSUER,
    locations: Sequence[str] = (),
    ttl_s: int = DEFAULT_TTL_S,
) -> str:
    """A token for ``client``, good for ``ttl_s`` seconds from now; with ``locations``, its stock:write is for those."""
    key = _load(folder)
    now_s = int(time.time())
    claims: dict[str, object] = {"iss": issuer, "aud": audience, "sub": client, "client_id": client}
    claims |= {"scope": " ".join(scopes), "iat": now_s, "exp": now_s + ttl_s, "jti": secrets.token_hex(8)}
    if locations:
        claims["locations"] = list(locations)
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": _key_id(key)})


def _load(folder: Path) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_private_file(folder).read_bytes(), password=None)
    except FileNotFoundError as error:
        raise NoKeys(f"no key in {folder}: start `availability up` there once") from error
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def _private_file(folder: Path) -> Path:
    return folder / "issuer.pem"


def _key_id(key: EllipticCurvePrivateKey) -> str:
    """A short name that follows from the key: a new key is a new name."""
    numbers = key.public_key().public_numbers()
    return f"{numbers.x:064x}"[:16]
