"""Owns ``availability doctor``: what is unsafe about the settings and the servers, and the remedy.

It speaks a few bytes of each server's protocol itself, so that it can tell what a client library would hide.
"""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import jwt

from availability import embedded
from availability.settings import Settings

TIMEOUT_S = 3.0
PORTS = {"redis": 6379, "rediss": 6379, "nats": 4222, "tls": 4222, "postgresql": 5432, "postgres": 5432}
REMEDIES = {
    "appendonly": "without the append-only file nothing survives a restart",
    "appendfsync": "an acknowledged operation must have reached the disk",
    "no-appendfsync-on-rewrite": "it must also have while the file is rewritten",
    "maxmemory-policy": "an evicted key would be lost stock",
    "save": "the append-only file holds all; snapshots only cost",
}


class Finding(NamedTuple):
    """One thing that was looked at. ``unchecked`` means that it could not be."""

    verdict: Literal["ok", "unsafe", "unchecked"]
    subject: str
    text: str


def exit_code(findings: Sequence[Finding]) -> int:
    """0 = all is well, 1 = something is unsafe, 2 = nothing is, but not all could be checked."""
    verdicts = {finding.verdict for finding in findings}
    if "unsafe" in verdicts:
        return 1
    return 2 if "unchecked" in verdicts else 0


async def examine(settings: Settings) -> list[Finding]:
    """Everything that can be told from here, servers at the same time."""
    servers = await asyncio.gather(
        _valkey(settings.redis_url), _nats(settings.nats_url), _postgres(settings.postgres_url)
    )
    return [*_tokens(settings), *(finding for findings in servers for finding in findings)]


def _tokens(settings: Settings) -> list[Finding]:
    findings = []
    if not settings.token_issuer:
        findings.append(Finding("unsafe", "token_issuer", "not set: say whose tokens are believed"))
    if not settings.jwks_file and not settings.jwks_url:
        findings.append(Finding("unsafe", "jwks_file, jwks_url", "neither is set: no token can be verified"))
    if settings.jwks_url and urlsplit(settings.jwks_url).scheme != "https":
        findings.append(Finding("unsafe", "jwks_url", "not https: whoever is in between can sign tokens"))
    if settings.jwks_file:
        try:
            keys = jwt.PyJWKSet.from_json(Path(settings.jwks_file).read_text(encoding="utf-8")).keys
        except (OSError, UnicodeDecodeError, ValueError, jwt.PyJWTError) as error:
            return [*findings, Finding("unsafe", "jwks_file", f"{settings.jwks_file} holds no usable key: {error}")]
        weak = [key.key_id or "without a name" for key in keys if key.key_type == "oct"]
        if weak:
            findings.append(Finding("unsafe", "jwks_file", f"shared secrets sign nothing here: {', '.join(weak)}"))
    return findings or [Finding("ok", "tokens", "who signs them and the keys are set")]


async def _valkey(url: str) -> list[Finding]:
    if not url:
        return [_not_set("redis_url")]
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            tls = ssl.create_default_context() if parts.scheme == "rediss" else None
            reader, writer = await asyncio.open_connection(*_address(url), ssl=tls)
            try:
                if parts.password:
                    login = [part for part in (parts.username, parts.password) if part]
                    await _ask(reader, writer, "AUTH", *map(unquote, login))
                said = await _ask(reader, writer, "CONFIG", "GET", *embedded.VALKEY_SETTINGS)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError, ValueError) as error:
        return [Finding("unchecked", "Valkey", _words(error))]
    assert isinstance(said, list)
    found = dict(zip(said[::2], said[1::2], strict=True))
    findings = []
    for name, value in embedded.VALKEY_SETTINGS.items():
        wanted = value.strip('"')
        if found.get(name) != wanted:
            findings.append(
                Finding("unsafe", f"Valkey's {name}", f"is {found.get(name)!r}, not {wanted!r}: {REMEDIES[name]}")
            )
    return findings or [Finding("ok", "Valkey", "keeps what it acknowledges")]


async def _nats(url: str) -> list[Finding]:
    if not url:
        return [_not_set("nats_url")]
    try:
        await embedded.probe_nats(*_address(url))
    except (embedded.NotReady, ValueError) as error:
        return [Finding("unchecked", "NATS", _words(error))]
    return [Finding("ok", "NATS", "answers, and has JetStream")]


async def _postgres(url: str) -> list[Finding]:
    if not url:
        return [_not_set("postgres_url")]
    parts = urlsplit(url)
    try:
        await embedded.probe_postgres(*_address(url), unquote(parts.username or ""), parts.path.lstrip("/"))
    except (embedded.NotReady, ValueError) as error:
        return [Finding("unchecked", "Postgres", _words(error))]
    return [Finding("ok", "Postgres", "answers")]


def _not_set(name: str) -> Finding:
    return Finding("unchecked", name, "not set")


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or embedded.HOST, parts.port or PORTS[parts.scheme]


def _words(error: BaseException) -> str:
    return str(error) or f"no answer ({type(error).__name__})"


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> object:
    """Send a command and read its answer; ``ValueError`` when it is refused."""
    encoded = [word.encode() for word in words]
    writer.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded))
    await writer.drain()
    return await _reply(reader)


async def _reply(reader: asyncio.StreamReader) -> object:
    line = (await reader.readuntil(b"\r\n"))[:-2].decode()
    kind, rest = line[:1], line[1:]
    if kind == "*":
        return [await _reply(reader) for _ in range(int(rest))]
    if kind == "$":
        return (await reader.readexactly(int(rest) + 2))[:-2].decode()
    if kind == "-":
        raise ValueError(rest)
    return rest
