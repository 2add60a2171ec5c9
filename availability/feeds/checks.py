"""Asks NATS whether its streams keep what they take, and how full they are.

When JetStream fsyncs (``sync_interval``) cannot be asked of it: config/nats.conf sets it, config/README.md says what
it costs. Whether it takes anything can, where its monitoring is known.
"""

import asyncio
from typing import Final

import nats
from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError

from availability import event_publisher
from availability.feeds import stream
from availability.feeds.connecting import VerifyingClient, connection_options
from availability.feeds.health import refusal_of
from ledger import Finding

TIMEOUT_S: Final = 3.0
ASK_TIMEOUT_S: Final = 1.0
SUBJECT: Final = "NATS"
VERSION_MIN: Final = (2, 12, 0)
"""The first that takes atomic batches, which the outbox publishes."""
FULL_WARNING_PERCENT: Final = 80

NOT_TOLD: Final = "is not told: grant it publishing on $JS.API.STREAM.INFO.* and $JS.API.CONSUMER.INFO.*"


async def check_nats(url: str, monitor_url: str = "") -> list[Finding]:
    """Takes ``TIMEOUT_S`` at most, on a connection of its own. Never raises.

    Nothing here stops the ledger: what NATS loses, its sources send again, and the journal announces again. A NATS that
    takes nothing is as one that is away: whoever looks after it has to be told, and the API can do without.
    """
    findings, taking = await asyncio.gather(_check_streams_of(url), _check_taking(monitor_url))
    told = [*taking, *findings]
    return told if not taking else [finding for finding in told if finding.verdict != "ok"]


async def _check_taking(monitor_url: str) -> list[Finding]:
    try:
        refusal = await refusal_of(monitor_url) if monitor_url else None
    except OSError as error:
        return [Finding("unchecked", f"{SUBJECT}'s monitoring", f"cannot be asked: {error}", away=True)]
    if refusal is None:
        return []
    text = f"takes nothing: {refusal}; mend its disk, then start it again"
    return [Finding("unsafe", SUBJECT, text, away=True)]


async def _check_streams_of(url: str) -> list[Finding]:
    async def quietly(_error: Exception) -> None:
        """What goes wrong is in the findings."""

    client = VerifyingClient()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                await client.connect(
                    **connection_options(url),
                    name="availability check",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,  # before it says that it was refused
                    error_cb=quietly,
                )
                return await _check(client)
            finally:
                await client.close()
    except (Error, OSError, TimeoutError, nats.errors.Error) as error:
        text = f"cannot be asked: {str(error) or type(error).__name__}"
        return [Finding("unchecked", SUBJECT, text, away=True)]


async def _check(client: Client) -> list[Finding]:
    version = client.connected_server_version
    found = (version.major, version.minor, version.patch)
    findings = []
    if found < VERSION_MIN:
        needed = ".".join(map(str, VERSION_MIN))
        findings.append(Finding("unsafe", SUBJECT, f"is {'.'.join(map(str, found))}: run {needed} or newer"))
    jetstream = client.jetstream(timeout=ASK_TIMEOUT_S)
    missing: list[str] = []
    findings += await _check_streams(jetstream, missing)
    if any(finding.verdict != "ok" for finding in findings):
        return findings
    if missing:
        text = f"has JetStream, and no stream {' or '.join(missing)} yet: who needs it makes it, as it must be"
        return [Finding("ok", SUBJECT, text)]
    return [Finding("ok", SUBJECT, "has JetStream, and its streams lose nothing unread")]


async def _check_streams(jetstream: JetStreamContext, missing: list[str]) -> list[Finding]:
    """What is wrong with our streams. One that is not there has no flaw, and is noted in ``missing``."""
    flaws: list[str] = []
    findings = []
    for name in (stream.STREAM, event_publisher.STREAM):
        try:
            info = await jetstream.stream_info(name)
            if name == stream.STREAM:
                flaws += stream.flaws_of_stock(info.config)
                flaws += await _flaws_of_consumer(jetstream)
            else:
                flaws += stream.flaws_of_stream(info.config, event_publisher.WANTED)
        except NotFoundError:
            missing.append(name)
            continue
        except (Error, TimeoutError):
            findings.append(Finding("unchecked", f"{SUBJECT}'s stream {name}", NOT_TOLD))
            continue
        findings += _fullness(name, info)
    return [*(Finding("unsafe", SUBJECT, f"has a flaw: {flaw}") for flaw in flaws), *findings]


async def _flaws_of_consumer(jetstream: JetStreamContext) -> list[str]:
    """None where it is not there: `ingest` makes it. Raises ``Error`` or ``TimeoutError``."""
    try:
        return stream.flaws_of_consumer((await jetstream.consumer_info(stream.STREAM, stream.DURABLE)).config)
    except NotFoundError:
        return []


def _fullness(name: str, info: StreamInfo) -> list[Finding]:
    bytes_max = info.config.max_bytes or -1
    if bytes_max <= 0 or 100 * info.state.bytes < FULL_WARNING_PERCENT * bytes_max:
        return []
    text = f"is {100 * info.state.bytes // bytes_max} % full, and takes nothing new when it is full: find out who does"
    return [Finding("warning", f"{SUBJECT}'s stream {name}", f"{text} not read, or raise its max-bytes")]
