"""Owns ``availability doctor``: what is unsafe about the settings and the servers, and the remedy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import jwt

from availability import access, self_check
from availability.audit_report import audit_said
from availability.journal_report import journal_said
from availability.journal_watch import compared
from availability.settings import Settings
from ledger import KEYSPACE_FAILED, Finding, Unavailable
from ledger import accept_clock as accept

USERS: Final = {"redis_url": access.OPERATOR, "nats_url": access.MONITOR, "postgres_url": access.OPERATOR}
"""As whom it comes to the servers of an ``up``."""


def exit_code(findings: Sequence[Finding]) -> int:
    """0 = nothing is unsafe, 1 = something is, 2 = nothing that could be checked is, and not all could be."""
    verdicts = {finding.verdict for finding in findings}
    if "unsafe" in verdicts:
        return 1
    return 2 if "unchecked" in verdicts else 0


async def examine(settings: Settings) -> list[Finding]:
    """Everything that can be told from here."""
    missing = [Finding("unchecked", name, "is not set") for name in USERS if not getattr(settings, name)]
    found = [*_tokens(settings), *missing, *await self_check.examine(settings)]
    if settings.redis_url and settings.postgres_url:
        found += await compared(settings)
    found += await journal_said(settings.postgres_url, settings.journal_backlog_entries_max)
    return [*found, *await audit_said(settings.postgres_url)]


async def accept_clock(settings: Settings, findings: Sequence[Finding]) -> tuple[int, str]:
    """Let every process go on by the servers' clocks after a jump; the exit code, and what to tell.

    Not while ``findings`` say that the clocks differ: then one of them is surely wrong.
    """
    differing = [finding for finding in findings if finding.subject.endswith("clock") and finding.verdict == "unsafe"]
    if differing:
        return 1, "not accepted: the clocks differ; mend the wrong one, and those that refuse go on by themselves"
    try:
        await accept(settings.redis_url, settings.shards)
    except Unavailable as refused:
        return 1, f"not accepted: {refused}"
    except KEYSPACE_FAILED as error:
        return 2, f"not done: the ledger's server cannot be asked ({type(error).__name__})"
    return 0, "accepted: processes that refuse since a jump go on within seconds"


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
