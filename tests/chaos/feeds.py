"""Owns the faults of the stock feed: poison, a flood, and a stream that is wiped."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import nats
from nats.js import JetStreamContext
from waiting import wait_until

from chaos.fault import Fault
from chaos.stage import Stage

FLOOD: Final = 10_000
FLOOD_AT_ONCE: Final = 500
WAIT_S: Final = 40.0
"""More than a gap has until it is told."""

_GOOD: Final = {"id": "p", "source": "poison", "kind": "delta", "sku": "POISON", "location": "NOWHERE", "quantity": 1}
POISON: Final[list[bytes]] = [
    b"",
    b"\x00",
    b"{",
    b"[[[]]]",
    b"null",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 10_000,
    json.dumps({**_GOOD, "quantity": 10**40, "occurred_at": "2025-01-01T00:00:00Z"}).encode(),
    json.dumps({**_GOOD, "quantity": float("nan"), "occurred_at": "2025-01-01T00:00:00Z"}).encode(),
    json.dumps({**_GOOD, "id": "nul \0 inside", "occurred_at": "2025-01-01T00:00:00Z"}).encode(),
    json.dumps({**_GOOD, "sku": "POISON\0", "occurred_at": "2025-01-01T00:00:00Z"}).encode(),
    json.dumps({**_GOOD, "source": "wms", "occurred_at": "2025-01-01T00:00:00Z"}).encode(),
    json.dumps({**_GOOD, "sequence": 2**80, "occurred_at": "9999-12-31T23:59:59.999Z"}).encode(),
    json.dumps([_GOOD, 1, None, "x", [], {**_GOOD, "kind": "theft"}]).encode(),
    b'{"specversion":"1.0","id":"p","source":"poison","type":"t","data_base64":"%%%"}',
]


@asynccontextmanager
async def streams_of(stage: Stage) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(stage.url("nats"))
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def until_taken(streams: JetStreamContext, subjects: str) -> None:
    """Until ``ingest`` has taken every message of the subjects."""

    async def is_taken() -> bool:
        return not (await streams.stream_info("STOCK", subjects_filter=subjects)).state.subjects

    await wait_until(is_taken, WAIT_S)


async def in_quarantine(stage: Stage, condition: str, argument: str) -> int:
    """How many there are for which the condition holds."""
    connection = await asyncpg.connect(stage.url("postgres"))
    try:
        query = f"select count(*) from availability.quarantine where {condition}"  # noqa: S608 - a text of ours
        counted: int = await connection.fetchval(query, argument)
        return counted
    finally:
        await connection.close()


class Poison(Fault):
    """Messages that are no events, or would harm who reads them carelessly; all others flow."""

    name = "poison"

    async def inject(self, stage: Stage) -> None:
        source = f"poison{stage.random.getrandbits(40)}"
        async with streams_of(stage) as streams:
            for body in stage.random.sample(POISON, len(POISON)):
                await streams.publish(f"stock.{source}.x", body.replace(b"poison", source.encode()))
            await streams.publish("stock.%FF%00.x", b"{}")
            await streams.publish(f"stock.{source}.x", b"{}", headers={"ce-specversion": "9", "ce-id": "%FF"})
            await until_taken(streams, f"stock.{source}.>")
        self.met = await in_quarantine(stage, "subject = $1", f"stock.{source}.x")
        assert self.met >= len(POISON), f"of {len(POISON)} messages only {self.met} are in quarantine"


class Flood(Fault):
    """Ten thousand events at once, each in a message of its own, of a place that nobody knows."""

    name = "flood"

    async def inject(self, stage: Stage) -> None:
        at = datetime.now(UTC).isoformat()
        run = stage.random.getrandbits(40)
        async with streams_of(stage) as streams:
            for start in range(0, FLOOD, FLOOD_AT_ONCE):
                events: list[dict[str, Any]] = [
                    {**_GOOD, "id": f"flood-{run}-{number}", "source": "flood", "occurred_at": at}
                    for number in range(start, start + FLOOD_AT_ONCE)
                ]
                bodies = [json.dumps(event).encode() for event in events]
                await asyncio.gather(*(streams.publish("stock.flood.x", body, timeout=20) for body in bodies))
            await until_taken(streams, "stock.flood.>")
        self.met = await in_quarantine(stage, "starts_with(event, $1)", f"flood-{run}-")
        assert self.met == FLOOD, f"of {FLOOD} events {self.met} are in quarantine"


class WipedStream(Fault):
    """The stream is deleted with events of one source in it: the feed goes on, and somebody is told what is missing.

    The other sources are kept out meanwhile, so that every event of theirs still has to come to its end.
    """

    name = "wiped-stream"

    async def inject(self, stage: Stage) -> None:
        source = f"wiped{stage.random.getrandbits(40)}"
        async with stage.inlet.closed(), streams_of(stage) as streams:
            await self._publish(streams, source, 1, 5)
            await self._until_empty(streams)
            ingest = stage.pid("ingest")
            os.kill(ingest, signal.SIGSTOP)
            try:
                await self._publish(streams, source, 6, 9)
                await streams.delete_stream("STOCK")
            finally:
                os.kill(ingest, signal.SIGCONT)
            await self._until_empty(streams)
            await self._publish(streams, source, 10, 12)
        query = "source = $1 and reason = 'gap' and starts_with(detail, 'events 6 to 9 never came')"

        async def is_told() -> bool:
            self.met = await in_quarantine(stage, query, source)
            return self.met > 0

        await wait_until(is_told, WAIT_S)

    async def _publish(self, streams: JetStreamContext, source: str, first: int, last: int) -> None:
        for number in range(first, last + 1):
            event = {**_GOOD, "id": f"{source}-{number}", "source": source, "sequence": number}
            event["occurred_at"] = datetime.now(UTC).isoformat()
            await streams.publish(f"stock.{source}.x", json.dumps(event).encode())

    async def _until_empty(self, streams: JetStreamContext) -> None:
        async def is_empty() -> bool:
            return (await streams.stream_info("STOCK")).state.messages == 0

        await wait_until(is_empty, WAIT_S)


FAULTS: Final[list[type[Fault]]] = [Poison, Flood, WipedStream]
