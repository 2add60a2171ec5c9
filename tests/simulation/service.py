"""Owns a service in a run: its processes, who starts them again when they die, and the network before them."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from simulation.journal import Journaler
from simulation.loop import Process
from simulation.processes import DROPPED, Answer, ApiProcess, Ingest, Keeper, KeptQuarantine, Stream, Surroundings

APIS: Final = 2
CLIENT_TIMEOUT_S: Final = 4.0
MISFORTUNE_EVERY_S: Final = 0.2
CRASHES: Final = {"keeper": "crash of the keeper", "ingest": "crash of ingest", "journaler": "crash of the journaler"}


class Service:
    """Two API processes, a keeper, an ingest and a journaler, over one ledger's server."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.stream, self.quarantine = Stream(), KeptQuarantine()
        self.doubled: set[str] = set()
        """The keys of what came twice though it was sent once."""
        self._processes: dict[str, Any] = {}
        self._dead: list[Process] = []
        self._makers: dict[str, Callable[[], Process]] = {
            **{f"api-{number}": lambda name=f"api-{number}": self._api(name) for number in range(APIS)},  # type: ignore[misc]
            "keeper": lambda: Keeper(around),
            "ingest": lambda: Ingest(around, self.stream, self.quarantine),
            "journaler": self._journaler,
        }
        for name in self._makers:
            self._start(name)

    def _api(self, name: str) -> ApiProcess:
        return ApiProcess(name, self.around, self.quarantine)

    def _journaler(self) -> Journaler:
        around = self.around
        journaler = Journaler(around.postgres, around.server, around.chance, around.shards)
        journaler.begin()
        return journaler

    @property
    def journaler(self) -> Journaler:
        found: Journaler = self._processes["journaler"]
        return found

    def _start(self, name: str) -> None:
        self._processes[name] = self._makers[name]()

    def kill(self, name: str) -> None:
        """By kill -9; it is started again a moment later."""
        process = self._processes[name]
        if process.alive:
            process.die()
            self._dead.append(process)
            self.around.server.later(self.around.chance.random.uniform(0.01, 0.3), self._start, name)

    def end(self) -> None:
        """All of them."""
        for process in self._processes.values():
            process.die()

    async def misfortunes(self) -> None:
        """What happens to processes and servers, now and then."""
        around = self.around
        chance = around.chance
        while not chance.calm:
            await asyncio.sleep(chance.random.uniform(0, 2 * MISFORTUNE_EVERY_S))
            for name, fault in CRASHES.items():
                if chance.happens(fault):
                    self.kill(name)
            if around.server.up and chance.happens("crash of the ledger"):
                around.server.crash()
            if not around.postgres.away and chance.happens("journal away"):
                around.postgres.away = True
                around.server.later(chance.random.uniform(0.2, 15.0), self._journal_is_back)

    def _journal_is_back(self) -> None:
        self.around.postgres.away = False

    async def ask(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> Answer:
        """A request over the network to one of the API processes, and what comes back."""
        around, chance = self.around, self.around.chance
        answer: asyncio.Future[Answer] = around.loop.create_future()
        process: ApiProcess = self._processes[f"api-{chance.random.randrange(APIS)}"]

        def tell(told: Answer) -> None:
            if not answer.done():
                answer.set_result(told)

        def back(given: Answer) -> None:
            if not chance.happens("reply lost"):
                around.server.later(chance.delay_s(), tell, given)

        async def serve(told: Callable[[Answer], None]) -> None:
            told(await process.answer(method, path, headers, body))

        def arrive(told: Callable[[Answer], None]) -> None:
            self._arrive(process, serve(told), tell)

        if not chance.happens("request lost"):
            around.server.later(chance.delay_s(), arrive, back)
        if chance.happens("request doubled"):
            self.doubled |= _keys_of(headers, body)
            around.server.later(chance.delay_s() * 3, arrive, lambda _given: None)
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return DROPPED

    def _arrive(self, process: ApiProcess, serving: Coroutine[Any, Any, None], tell: Callable[[Answer], None]) -> None:
        if not process.alive:
            serving.close()
            tell(DROPPED)
            return
        process.start(serving)
        if self.around.chance.happens("crash of an api"):
            # In the middle of it: some steps later.
            self.around.server.later(self.around.chance.random.uniform(0, 0.004), self._crash, process, tell)

    def _crash(self, process: ApiProcess, tell: Callable[[Answer], None]) -> None:
        tell(DROPPED)  # the connection breaks
        if self._processes[process.name] is process:
            self.kill(process.name)


def _keys_of(headers: Sequence[tuple[bytes, bytes]], body: bytes) -> set[str]:
    """The key of a request, or those of all that is in a batch."""
    if key := dict(headers).get(b"idempotency-key"):
        return {key.decode()}
    asked = msgspec.json.decode(body) if body else {}
    return {item["key"] for item in asked.get("reservations", [])}
