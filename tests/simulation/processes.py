"""Owns the processes of the service in a run, each with its own real parts: API, keeper, and the intake of feeds."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from api_world import AUDIENCE, ISSUER, Issuer

from availability.app import Api
from availability.feeds.intake import Message, RawEvent, take_all
from availability.feeds.messages import events_in
from availability.journal_watch import JournalWatch
from availability.keeper import expire_until
from availability.settings import Settings
from ledger import Ledger, LedgerError, QuarantinedEvent
from simulation.chance import Chance
from simulation.journal import Postgres
from simulation.loop import Process, SimulatedLoop
from simulation.network import LedgerServer

SETTINGS: Final = Settings(token_issuer=ISSUER, token_audience=AUDIENCE, client_requests_per_second=0)
NEVER_SLOW_MS: Final = 10**9
"""Queues are judged by a real clock, which is not to count here."""


@dataclass(frozen=True)
class Surroundings:
    """What every process of a run stands on."""

    loop: SimulatedLoop
    chance: Chance
    server: LedgerServer
    postgres: Postgres
    issuer: Issuer
    shards: int
    limits: dict[str, Any]
    """Options of the ledger."""


@dataclass
class Answer:
    """What a client hears; ``status`` is None when it hears nothing."""

    status: int | None
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


DROPPED: Final = Answer(None)


class KeptQuarantine:
    """A quarantine in memory: here it is only seen whether an event went there."""

    def __init__(self) -> None:
        self.events: list[QuarantinedEvent] = []

    async def store(self, events: list[QuarantinedEvent]) -> None:
        self.events += events


class LedgerProcess(Process):
    """One that changes the ledger: with a real one of its own, which its journal's watch allows to be changed."""

    def __init__(self, name: str, around: Surroundings) -> None:
        super().__init__(name)
        self.around = around
        watch = JournalWatch(around.postgres)
        self.ledger = Ledger(
            "redis://simulated",
            shards=around.shards,
            queue_wait_ms_max=NEVER_SLOW_MS,
            now_ms=lambda: around.loop.now_ms,
            refusal=watch.refusal,
            **around.limits,
        )
        self.start(watch.watch(self.ledger))


class ApiProcess(LedgerProcess):
    """``serve``: the whole API over its ledger, called as its HTTP server would."""

    def __init__(self, name: str, around: Surroundings, quarantine: KeptQuarantine) -> None:
        super().__init__(name, around)
        self.api: Api = self.run(self._made, quarantine)

    def _made(self, quarantine: KeptQuarantine) -> Api:
        searches: Any = None  # what asks Postgres is not part of a run
        api = Api(SETTINGS, self.ledger, quarantine, searches, now_ms=lambda: self.around.loop.now_ms)
        api.tokens.keys.load(self.around.issuer.jwks)
        return api

    async def answer(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Answer:
        """What it answers to a request."""
        raw_path, _, query = path.encode().partition(b"?")
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": raw_path.decode(),
            "raw_path": raw_path,
            "query_string": query,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.api.asgi(scope, receive, send)  # type: ignore[arg-type]  # a scope has more than we look at
        return Answer(sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"])


class Keeper(LedgerProcess):
    """``keeper``."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__("keeper", around)
        self.start(expire_until(self.run(asyncio.Event), self.ledger))


@dataclass
class Stream:
    """The stream STOCK: messages that are given out until they are acknowledged, and may be given out again."""

    waiting: deque[bytes] = field(default_factory=deque)
    given_out: list[bytes] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.waiting and not self.given_out

    def publish(self, body: bytes, chance: Chance) -> None:
        for _ in range(1 + chance.happens("event doubled")):
            if chance.happens("event overtaken"):
                self.waiting.insert(chance.random.randrange(len(self.waiting) + 1), body)
            else:
                self.waiting.append(body)

    def take_back(self) -> None:
        """What was given out and not acknowledged comes again."""
        self.waiting.extend(self.given_out)
        self.given_out.clear()


class Ingest(LedgerProcess):
    """``ingest``: the real way of an event into the ledger; a message is acknowledged when that has taken it."""

    def __init__(self, around: Surroundings, stream: Stream, quarantine: KeptQuarantine) -> None:
        super().__init__("ingest", around)
        self._stream, self._quarantine = stream, quarantine
        self.start(self._run())

    def die(self) -> None:
        super().die()
        self._stream.take_back()

    async def _run(self) -> None:
        chance, stream = self.around.chance, self._stream
        while True:
            await asyncio.sleep(chance.random.uniform(0.001, 0.1))
            while stream.waiting and len(stream.given_out) < 3:
                stream.given_out.append(stream.waiting.popleft())
            if not stream.given_out:
                continue
            events = [event for body in stream.given_out for event in self._events(body)]
            try:
                await take_all(
                    *(self.ledger, self._quarantine, "ingest", events, "nats"), now_ms=self.around.loop.now_ms
                )
            except LedgerError:
                continue  # the events come again
            if chance.happens("acknowledgement lost"):
                stream.take_back()
            stream.given_out.clear()

    def _events(self, body: bytes) -> list[RawEvent]:
        return events_in(Message(body), "stock.wms.simulated", self.around.loop.now_ms)
