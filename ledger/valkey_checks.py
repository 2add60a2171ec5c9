"""Asks the ledger's servers how they are and are set; what the answers mean is in ``ledger/server_check.py``.

The same questions are asked at each connect, every few seconds while a process runs, and by ``availability doctor``.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, RedisError

from ledger import server_check as rules
from ledger.errors import Unavailable
from ledger.findings import (
    CheckLimits,
    Finding,
    all_well,
    clock_finding,
    clock_ms,
    disk_findings,
    no_answer,
    unsafe,
)
from ledger.keys import shard_key
from ledger.library import library, texts_of
from ledger.placement import Placement, command, connected, in_cluster, server_ms, server_urls, url_of
from ledger.state import shard_record, wrong_shards

TIMEOUT_S = 3.0
PORT = 6379
SAYS_CLUSTER = "1"
UNANSWERED = (RedisError, OSError, TimeoutError)


class Told(NamedTuple):
    """What a server says of itself: the fields of INFO, and its settings; None where it may not be asked."""

    info: dict[str, str]
    settings: dict[str, str] | None


async def ask_durability(connection: AbstractConnection) -> Told:
    """Raises RedisError or OSError."""
    lines = (await command(connection, "INFO")).decode().splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    names = (*rules.SETTINGS, *rules.CLUSTER_SETTINGS, "save", "dir")
    try:
        flat = [value.decode() for value in await command(connection, "CONFIG", "GET", *names)]
    except NoPermissionError:
        return Told(info, None)
    return Told(info, dict(zip(flat[::2], flat[1::2], strict=True)))


def durability_findings(subject: str, told: Told) -> list[Finding]:
    """What P2 stands on. What cannot be seen stops us as what is unsafe does: nobody could tell them apart."""
    findings = rules.version_findings(subject, told.info) + rules.persistence_findings(subject, told.info)
    if told.settings is None:
        text = "may not be read by this user: grant it +config|get"
        return [*findings, Finding("unchecked", f"{subject}'s settings", text, stops=True)]
    in_cluster = told.info.get("cluster_enabled") == SAYS_CLUSTER
    return findings + rules.settings_findings(subject, told.settings, in_cluster=in_cluster)


async def check_valkey(redis_url: str, limits: CheckLimits) -> list[Finding]:
    """Of the one server, or of every server of the cluster that the first one which answers belongs to.

    Takes ``TIMEOUT_S`` for each server that does not answer, those of a cluster together, and never raises.
    """
    urls = server_urls(redis_url)
    failures = []
    for url in urls:
        try:
            addresses = await _cluster_of(url)
        except UNANSWERED as error:
            failures.append(no_answer("Valkey", error))
            continue
        if addresses:
            checked = await asyncio.gather(
                *(_check_server(f"Valkey {_address(each)}", each, limits) for each in addresses)
            )
            return [finding for findings in checked for finding in findings]
        if len(urls) > 1:
            return [unsafe("redis_url", "names several servers, and one of them is in no cluster: name one server")]
        return await _check_server("Valkey", url, limits)
    return failures


async def check_shards(redis_url: str, shards: int) -> list[Finding]:
    """Whether the ledger has as many shards as the settings say, which its first one knows. Never raises.

    Nothing where nothing was written yet, or when the server gives no answer: ``check_valkey`` tells that.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            url = await Placement(redis_url, 0, TIMEOUT_S).url()
            async with connected(url, TIMEOUT_S) as connection:
                packed: Any = await command(connection, "GET", shard_key(0))
    except NoPermissionError:
        text = "may not be read by this user: grant it +get %R~{s0}:shard"
        return [Finding("unchecked", "the ledger's number of shards", text)]
    except (*UNANSWERED, Unavailable):
        return []
    there = shard_record(packed).shards if packed else None
    if there is None or there == shards:
        return []
    return [unsafe("the ledger", wrong_shards(there, shards).removeprefix("the ledger "))]


async def _cluster_of(url: str) -> list[str]:
    """The URLs of the cluster's servers; none when the server is in no cluster. Raises one of ``UNANSWERED``."""
    async with connected(url, TIMEOUT_S) as connection:
        if not await in_cluster(connection):
            return []
        ranges: Any = await command(connection, "CLUSTER", "SLOTS")
    nodes = {(host.decode() if host else "", port) for _, _, *nodes in ranges for host, port, *_ in nodes}
    return [url_of(url, host or urlsplit(url).hostname or "", port) for host, port in sorted(nodes)]


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or PORT}"


async def _check_server(subject: str, url: str, limits: CheckLimits) -> list[Finding]:
    try:
        async with connected(url, TIMEOUT_S) as connection:
            told = await ask_durability(connection)
            findings = durability_findings(subject, told) + rules.memory_findings(subject, told.info)
            findings += await _check_user(connection, subject)
            findings += await _check_library(connection, subject, told.info)
            if told.info.get("cluster_enabled") == SAYS_CLUSTER:
                findings += await _check_slots(connection, subject)
            findings.append(await _check_clock(connection, subject, limits))
    except UNANSWERED as error:
        return [no_answer(subject, error)]
    findings += disk_findings(subject, url, (told.settings or {}).get("dir"), limits)
    return all_well(findings, subject, "keeps what it acknowledges")


async def _check_clock(connection: AbstractConnection, subject: str, limits: CheckLimits) -> Finding:
    asked_ms = clock_ms()
    theirs_ms = await server_ms(connection)
    return clock_finding(subject, theirs_ms, (asked_ms + clock_ms()) // 2, limits)


async def _check_user(connection: AbstractConnection, subject: str) -> list[Finding]:
    try:
        name = (await command(connection, "ACL", "WHOAMI")).decode()
    except NoPermissionError:
        return []  # who may not even ask this is neither `default` nor all-powerful
    try:
        flat: Any = await command(connection, "ACL", "GETUSER", name)
    except NoPermissionError:
        return rules.user_findings(subject, name, None)
    told = {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}
    return rules.user_findings(subject, name, {"commands": told["commands"].decode()})


async def _check_library(connection: AbstractConnection, subject: str, info: Mapping[str, str]) -> list[Finding]:
    ours = library()
    try:
        found = await texts_of(connection, ours)
    except NoPermissionError:
        text = "may not be read by this user: grant it +function|list"
        return [Finding("unchecked", f"{subject}'s function library", text)]
    return rules.library_findings(subject, found, ours, info)


async def _check_slots(connection: AbstractConnection, subject: str) -> list[Finding]:
    try:
        about = (await command(connection, "CLUSTER", "NODES")).decode()
    except NoPermissionError:
        return [Finding("unchecked", f"{subject}'s slots", "may not be read by this user: grant it +cluster|nodes")]
    if "[" not in about.partition("myself")[2].partition("\n")[0]:
        return []
    text = "one is being moved key by key: its shard is refused until that has ended (CLUSTER SETSLOT … STABLE)"
    return [Finding("unsafe", f"{subject}'s slots", text)]
