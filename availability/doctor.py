"""Owns ``availability doctor``: what is unsafe about the settings and the servers, and the remedy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import jwt

from availability import self_check
from availability.settings import Settings
from ledger import Finding

URLS: Final = ("redis_url", "nats_url", "postgres_url")


def exit_code(findings: Sequence[Finding]) -> int:
    """0 = nothing is unsafe, 1 = something is, 2 = nothing that could be checked is, and not all could be."""
    verdicts = {finding.verdict for finding in findings}
    if "unsafe" in verdicts:
        return 1
    return 2 if "unchecked" in verdicts else 0


async def examine(settings: Settings) -> list[Finding]:
    """Everything that can be told from here."""
    missing = [Finding("unchecked", name, "is not set") for name in URLS if not getattr(settings, name)]
    return [*_tokens(settings), *missing, *await self_check.examine(settings)]


def _tokens(settings: Settings) -> list[Finding]:
    findings = []
    if not settings.token_issuer:
        findings.append(Finding("unsafe", "token_issuer", "is not set: say whose tokens are believed"))
    if not settings.jwks_file and not settings.jwks_url:
        findings.append(
            Finding("unsafe", "jwks_file, jwks_url", "are not set: no token can be verified without either")
        )
    if settings.jwks_url and urlsplit(settings.jwks_url).scheme != "https":
        findings.append(Finding("unsafe", "jwks_url", "is not https: whoever is in between can sign tokens"))
    if settings.jwks_file:
        try:
            keys = jwt.PyJWKSet.from_json(Path(settings.jwks_file).read_text(encoding="utf-8")).keys
        except (OSError, UnicodeDecodeError, ValueError, jwt.PyJWTError) as error:
            text = f"({settings.jwks_file}) holds no usable key: {error}"
            return [*findings, Finding("unsafe", "jwks_file", text)]
        weak = [key.key_id or "without a name" for key in keys if key.key_type == "oct"]
        if weak:
            text = f"has shared secrets, which sign nothing here; take them out: {', '.join(weak)}"
            findings.append(Finding("unsafe", "jwks_file", text))
    return findings or [Finding("ok", "tokens", "have an issuer, and keys that verify them")]
