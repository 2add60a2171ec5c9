"""Owns the real journal in Postgres as steps of a run: each is done at once, on a real event loop of its own."""

import asyncio
from asyncio import events
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from ledger.journal.migrations import migrate
from ledger.journal.postgres import FAILED, connect
from ledger.journal.reader import Journal, JournalEnd
from ledger.journal.records import START
from ledger.journal.stream import STREAM_FAILED, JournalStream
from ledger.journal.writer import Fenced, JournalWriter, Written
from simulation.chance import Chance
from simulation.loop import Process
from simulation.network import LedgerServer

EMPTY: Final = "delete from availability.entry; delete from availability.movement; delete from availability.cursor;"
PAUSE_S: Final = 0.05
Answer = TypeVar("Answer")


class Portal:
    """A real event loop that runs within a step of the simulated one: whoever asks it waits for the answer."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def ask(self, question: Coroutine[Any, Any, Answer]) -> Answer:
        # A loop in a thread would cost two changes of threads for each question, half of a run's time.
        simulated = events._get_running_loop()  # noqa: SLF001 - meant for who writes event loops
        events._set_running_loop(None)  # noqa: SLF001 - likewise
        try:
            return self._loop.run_until_complete(question)
        finally:
            events._set_running_loop(simulated)  # noqa: SLF001 - likewise

    def close(self) -> None:
        self._loop.close()


class Postgres:
    """The journal's database. ``away``: nobody reaches it."""

    def __init__(self, portal: Portal, url: str, redis_url: str) -> None:
        self.portal, self.url, self.redis_url = portal, url, redis_url
        self.away = False
        portal.ask(migrate(url))
        self._connection = portal.ask(connect(url))
        self.reader = portal.ask(Journal.open(url))
        self._ends: dict[int, JournalEnd] = {}

    def empty(self) -> None:
        self.away = False
        self._ends.clear()
        self.portal.ask(self._connection.execute(EMPTY))

    def forget_end(self, shard: int) -> None:
        """It has been written to."""
        self._ends.pop(shard, None)

    async def end(self, shard: int) -> JournalEnd:
        """What ``JournalWatch`` asks."""
        await asyncio.sleep(0.001)
        if self.away:
            raise ConnectionRefusedError
        if shard not in self._ends:
            self._ends[shard] = self.portal.ask(self.reader.end(shard))
        return self._ends[shard]

    def close(self) -> None:
        self.portal.ask(self.reader.close())
        self.portal.ask(self._connection.close())


class Journaler(Process):
    """The process ``journal``: the real reader of the stream and the real writer, a step at a time."""

    def __init__(self, postgres: Postgres, server: LedgerServer, chance: Chance, shards: int) -> None:
        super().__init__("journaler")
        self._postgres, self._server, self._chance = postgres, server, chance
        self._writers: dict[int, JournalWriter] = {}
        self._streams: dict[int, JournalStream] = {}
        self.written = Written()
        self.shards = shards

    def begin(self) -> None:
        for shard in range(self.shards):
            self.start(self._run(shard))

    def die(self) -> None:
        """Its connections go with it."""
        super().die()
        for shard in range(self.shards):
            self._let_go(shard)

    def _let_go(self, shard: int) -> None:
        ask = self._postgres.portal.ask
        if writer := self._writers.pop(shard, None):
            ask(writer.close())
        if stream := self._streams.pop(shard, None):
            ask(stream.close())

    async def _run(self, shard: int) -> None:
        while True:
            await asyncio.sleep(self._chance.random.uniform(0.01, 0.3))
            if shard not in self._server.places or not self._server.up:
                continue
            try:
                await self._follow(shard)
            except (*FAILED, *STREAM_FAILED, Fenced):
                self._let_go(shard)
                await asyncio.sleep(PAUSE_S)

    async def _follow(self, shard: int) -> None:
        """Open what is needed, read, write and trim; the process may die between any two of these."""
        postgres, ask = self._postgres, self._postgres.portal.ask
        if postgres.away:
            raise ConnectionRefusedError
        if shard not in self._writers:
            writer = self._writers[shard] = ask(JournalWriter.open(postgres.url, shard))
            stream = self._streams[shard] = JournalStream(postgres.redis_url, shard)
            stream.rewind(writer.cursor.place)
        writer, stream = self._writers[shard], self._streams[shard]
        if self._server.places.get(shard, START) <= stream.position:
            return
        entries = ask(stream.read(1))
        await asyncio.sleep(self._chance.delay_s())
        if postgres.away:
            raise ConnectionRefusedError
        written = ask(writer.write(entries))
        postgres.forget_end(shard)
        for name in ("entries", "rejects", "conflicts", "gaps"):
            setattr(self.written, name, getattr(self.written, name) + getattr(written, name))
        if self._chance.happens("commit of the journal unknown"):
            raise ConnectionResetError
        await asyncio.sleep(self._chance.delay_s())
        ask(stream.trim(writer.cursor.place))
