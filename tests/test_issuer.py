"""The instance's own issuer signs what its key set verifies."""

import json
import stat
from pathlib import Path

import jwt
import pytest

from availability import issuer


def verified(folder: Path, token: str) -> dict[str, object]:
    keys = jwt.PyJWKSet.from_dict(json.loads(issuer.jwks_file(folder).read_text()))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, object] = jwt.decode(
        token, key, algorithms=["ES256"], audience="availability", issuer=issuer.ISSUER, options={"require": ["exp"]}
    )
    return claims


def test_a_token_says_who_and_what(tmp_path: Path) -> None:
    issuer.create_keys(tmp_path)
    token = issuer.sign(
        tmp_path, client="shop", scopes=["atp:read", "stock:write"], audience="availability", locations=["S1"], ttl_s=60
    )
    claims = verified(tmp_path, token)
    assert (claims["sub"], claims["client_id"], claims["scope"]) == ("shop", "shop", "atp:read stock:write")
    assert claims["locations"] == ["S1"]
    assert isinstance(claims["exp"], int)
    assert isinstance(claims["iat"], int)
    assert claims["exp"] - claims["iat"] == 60


def test_the_key_is_kept_and_private(tmp_path: Path) -> None:
    """P10."""
    issuer.create_keys(tmp_path)
    token = issuer.sign(tmp_path, client="shop", scopes=[], audience="availability")
    issuer.create_keys(tmp_path)
    assert verified(tmp_path, token)["sub"] == "shop"
    assert stat.S_IMODE((tmp_path / "issuer.pem").stat().st_mode) == 0o600
    assert "d" not in json.loads(issuer.jwks_file(tmp_path).read_text())["keys"][0]


def test_without_keys_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(issuer.NoKeys, match="availability up"):
        issuer.sign(tmp_path, client="shop", scopes=[], audience="availability")
