"""Owns ``availability doctor``: what is unsafe about the settings and the servers, and the remedy.

It speaks a few bytes of each server's protocol itself, so that it can tell what a client library would hide.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import jwt

from availability import embedded
from availability.audit_report import audit_said
from availability.settings import Settings
from ledger import server_urls, url_of

TIMEOUT_S = 3.0
PORTS = {"redis": 6379, "rediss": 6379, "nats": 4222, "tls": 4222, "postgresql": 5432, "postgres": 5432}
REMEDIES = {
    "appendonly": "without the append-only file nothing survives a restart",
    "appendfsync": "an acknowledged operation must have reached the disk",
    "no-appendfsync-on-rewrite": "it must also have while the file is rewritten",
    "maxmemory-policy": "an evicted key would be lost stock",
    "save": "the append-only file holds all; snapshots only cost",
    "cluster-require-full-coverage": "one server that is away would stop the shards of all",
    "cluster-replica-no-failover": "a replica that takes over has lost acknowledged operations",
}
CLUSTER_SETTINGS = {"cluster-require-full-coverage": "no", "cluster-replica-no-failover": "yes"}
"""What each server of a cluster also needs; config/valkey-cluster.conf says the same, and a test keeps them equal."""
UNANSWERED = (OSError, TimeoutError, EOFError, ValueError)


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
    return [*_tokens(settings), *(finding for findings in servers for finding in findings), *await _audit(settings)]


async def _audit(settings: Settings) -> list[Finding]:
    said = await audit_said(settings.postgres_url)
    return [] if said is None else [Finding(said.verdict, "the audit", said.text)]


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


async def _valkey(redis_url: str) -> list[Finding]:
    """The one server, or every server of the cluster that the first one which answers belongs to."""
    if not redis_url:
        return [_not_set("redis_url")]
    urls = server_urls(redis_url)
    failures = []
    for url in urls:
        try:
            async with _valkey_asked(url) as ask:
                is_cluster = "cluster_enabled:1" in str(await ask("INFO", "cluster"))
                nodes = [line.split() for line in str(await ask("CLUSTER", "NODES")).splitlines()] if is_cluster else []
        except UNANSWERED as error:
            failures.append(Finding("unchecked", "Valkey", _words(error)))
            continue
        if is_cluster:
            addresses = [_node_address(node[1], url) for node in nodes if "noaddr" not in node[2]]
            return [finding for node_url in addresses for finding in await _valkey_server(node_url, CLUSTER_SETTINGS)]
        if len(urls) > 1:
            return [Finding("unsafe", "redis_url", "names several servers, and one of them is in no cluster")]
        return await _valkey_server(url, {})
    return failures


async def _valkey_server(url: str, more_settings: Mapping[str, str]) -> list[Finding]:
    host, port = _address(url)
    subject = f"Valkey {host}:{port}" if more_settings else "Valkey"
    settings = {**embedded.VALKEY_SETTINGS, **more_settings}
    try:
        async with _valkey_asked(url) as ask:
            said = await ask("CONFIG", "GET", *settings)
            about = str(await ask("CLUSTER", "NODES")) if more_settings else ""
    except UNANSWERED as error:
        return [Finding("unchecked", subject, _words(error))]
    assert isinstance(said, list)
    found = dict(zip(said[::2], said[1::2], strict=True))
    findings = []
    for name, value in settings.items():
        wanted = value.strip('"')
        if found.get(name) != wanted:
            findings.append(
                Finding("unsafe", f"{subject}'s {name}", f"is {found.get(name)!r}, not {wanted!r}: {REMEDIES[name]}")
            )
    if "[" in about.partition("myself")[2].partition("\n")[0]:
        findings.append(Finding("unsafe", f"{subject}'s slots", "one is being moved key by key: its shard is refused"))
    return findings or [Finding("ok", subject, "keeps what it acknowledges")]


@asynccontextmanager
async def _valkey_asked(url: str) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    """A function that sends a command. The block has ``TIMEOUT_S`` in all; it raises one of ``UNANSWERED``."""
    parts = urlsplit(url)
    async with asyncio.timeout(TIMEOUT_S):
        tls = ssl.create_default_context() if parts.scheme == "rediss" else None
        reader, writer = await asyncio.open_connection(*_address(url), ssl=tls)
        ask = partial(_ask, reader, writer)
        try:
            if parts.password:
                await ask("AUTH", *(unquote(part) for part in (parts.username, parts.password) if part))
            yield ask
        finally:
            writer.close()


def _node_address(told: str, url: str) -> str:
    """The URL of a node from ``host:port@bus``, as CLUSTER NODES tells it; without a host it is the one asked."""
    host, _, port = told.partition("@")[0].rpartition(":")
    return url_of(url, host or _address(url)[0], int(port))


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
