"""Owns the way to the ledger's server: the real Valkey runs what arrives, and much can happen on the way.

With ``appendfsync always`` nobody is answered before the file has it. So a crash of the server takes back only what
nobody was told of, which is the same as never having arrived: here a call at the crash has either run or not.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis
import msgspec
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, RedisError

from ledger import library as full
from ledger.journal.records import START, Place
from ledger.keys import journal_key
from ledger.library import Library
from ledger.messages import JournalEntry, Operation, Outcome
from ledger.shard import FIRST_EPOCH, Reply, Shard
from simulation.chance import Chance
from simulation.loop import SimulatedLoop

CALL_TIMEOUT_S: Final = 2.0
BEHIND_MS_MAX: Final = 2_000
"""How far the server's clock runs back."""
DUE_MAX: Final = 2_000
"""Overdue holds that a call of the ledger ends at most, as the Lua has it."""
JOURNAL_TAIL: Final = 20
"""A bound of the Lua that a short run would never come to otherwise, like that of what is ended in one call."""
SETTINGS: Final = {"stream-node-max-entries": "1", "appendfsync": "no"}
"""Of the server during runs. The stream forgets whole nodes only: with large ones, so small a backlog would stay full
for ever. And no run can tell whether the file has what was answered: a crash of the machine is not part of it."""
_GIVEN: Final = b"\x9a\xcf"
"""How the argument of a call begins: ten fields, of which the first is a time."""
_decode_reply: Final = msgspec.msgpack.Decoder(Reply).decode
_decode_entry: Final = msgspec.msgpack.Decoder(JournalEntry).decode


@cache
def library(due_max: int) -> Library:
    """The Lua library with smaller bounds."""
    whole = full.library()
    version = whole.name.partition("_")[2]
    name, text, *functions = (part.replace(version, f"{version[:8]}sim{due_max}") for part in whole)
    smaller = {f"DUE_MAX = {DUE_MAX}": f"DUE_MAX = {due_max}", "JOURNAL_TAIL = 1000": f"JOURNAL_TAIL = {JOURNAL_TAIL}"}
    for bound, instead in smaller.items():
        assert text.count(f"local {bound}") == 1, bound
        text = text.replace(f"local {bound}", f"local {instead}")
    return Library(name, text, *functions)


class Server:
    """The real server, asked directly: each command runs at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(InvalidResponse, BaseParser.parse_error)
        if parts.password:
            self.ask(("AUTH", parts.username or "default", parts.password))
        self._usual: dict[str, bytes] = {name: self.ask(("CONFIG", "GET", name))[0][1] for name in SETTINGS}
        for name, value in SETTINGS.items():
            self.ask(("CONFIG", "SET", name, value))

    def ask(self, *commands: Sequence[str | int | bytes]) -> list[Any]:
        """What the server answers to each; an error is an answer too."""
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(words)) for words in commands))  # type: ignore[arg-type]
        answers: list[Any] = []
        while len(answers) < len(commands):
            answer = self._reader.gets()
            if answer is False:
                came = self._socket.recv(1 << 16)
                assert came, "the real server has closed the connection"
                self._reader.feed(came)
            else:
                answers.append(answer)
        return answers

    def load(self, due_max: int) -> None:
        """The library with this bound."""
        [loaded] = self.ask(("FUNCTION", "LOAD", "REPLACE", library(due_max).text))
        assert not isinstance(loaded, Exception), loaded

    def empty(self) -> None:
        """No key is left; the libraries are."""
        self.ask(("FLUSHALL",))

    def close(self) -> None:
        for name, value in self._usual.items():
            self.ask(("CONFIG", "SET", name, value))
        self._socket.close()


@dataclass
class Ran:
    """A call that the server ran: what was asked, what it answered, and the journal's entry, if it changed any."""

    shard: int
    now_ms: int
    operations: Sequence[Operation]
    only_looks: bool
    outcomes: Sequence[Outcome] | None
    """None when the server refused all of it."""
    error: Exception | None
    entry: JournalEntry | None
    body: bytes = b""
    seq: int = 0


@dataclass
class _Call:
    """A command on its way. ``answer`` is the future of who waits for it."""

    link: "SimulatedLink"
    words: tuple[str | int | bytes, ...]
    operations: Sequence[Operation]
    only_looks: bool
    answer: "asyncio.Future[Any]"
    arrived: bool = False


class LedgerServer:
    """Valkey as the processes see it over the network: it can be away, and come back as another run."""

    def __init__(self, server: Server, loop: SimulatedLoop, chance: Chance, ran: Callable[[Ran], None]) -> None:
        self._server, self._loop, self._chance, self._ran = server, loop, chance, ran
        self._context = Context()
        self._under_way: list[_Call] = []
        self._runs = 1
        self._behind_ms = 0
        self.up = True
        self.places: dict[int, Place] = {}
        """By shard, how far its journal has come."""

    @property
    def run(self) -> str:
        return f"run-{self._runs}"

    @property
    def now_ms(self) -> int:
        """The server's clock."""
        return self._loop.now_ms - self._behind_ms

    def later(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        """On the network: it comes to pass whoever dies meanwhile."""
        self._loop.call_later(delay_s, work, *arguments, context=self._context)

    def connect(self) -> str:
        """The run of the server that is connected to. Raises the client's ConnectionError."""
        if not self.up:
            raise ConnectionLost("nobody listens")
        return self.run

    def send(self, call: _Call) -> None:
        """Let a command go its way."""
        chance = self._chance
        self._under_way.append(call)
        if chance.happens("clock runs back"):
            self._behind_ms = 0 if self._behind_ms else chance.of((1, 30, BEHIND_MS_MAX))
        if chance.happens("ledger request lost"):
            self.later(chance.of((0.001, CALL_TIMEOUT_S)), self._lose, call, "on the way there")
        elif chance.happens("ledger call late"):
            self.later(CALL_TIMEOUT_S, self._lose, call, "before it arrived")
            self.later(CALL_TIMEOUT_S + chance.random.uniform(0, 3), self._arrive, call)
        else:
            self.later(chance.delay_s(), self._arrive, call)

    def crash(self) -> None:
        """End as by kill -9 and be started again a while later; what is on its way has run, or never will."""
        self.up, self._runs = False, self._runs + 1
        under_way, self._under_way = self._under_way, []
        for call in under_way:
            if not call.arrived and self._chance.sometimes(0.3):
                self._run(call)
            self._lose(call, "by a crash of the server")
        self.later(self._chance.random.uniform(0.01, 0.5), self._start)

    def _start(self) -> None:
        self.up = True

    def lose_everything(self) -> None:
        """Crash, and come back on an empty disk."""
        self.crash()
        self._server.empty()
        self.places.clear()

    def _arrive(self, call: _Call) -> None:
        if call.link.run != self.run or not self.up:
            self._lose(call, "with its connection")
            return
        answer = self._run(call)
        if self._chance.happens("ledger reply lost"):
            self.later(self._chance.of((0.001, CALL_TIMEOUT_S)), self._lose, call, "on the way back")
        else:
            self.later(self._chance.delay_s(), self._tell, call, answer)

    def _run(self, call: _Call) -> Any:
        call.arrived = True
        if call.words[0] == "TIME":
            return [b"%d" % (self.now_ms // 1_000), b"%d" % (self.now_ms % 1_000 * 1_000)]
        if call.words[0] != "FCALL":
            return self._server.ask(call.words)[0]
        argument, shard, now_ms = call.words[-1], call.link.shard, self.now_ms
        assert isinstance(argument, bytes)
        assert argument.startswith(_GIVEN), argument[:2]
        # The server reads its clock when it runs the call, not when it was sent.
        stamped = (*call.words[:-1], _GIVEN + struct.pack(">Q", now_ms) + argument[10:])
        after = self.places.get(shard, START)
        answer, news = self._server.ask(stamped, ("XRANGE", journal_key(shard), f"({after}", "+"))
        entry, body = None, b""
        if news:
            [(_, (_, body))] = news
            entry = _decode_entry(body)
            self.places[shard] = Place(entry.epoch, entry.seq)
        told = None if isinstance(answer, Exception) else _decode_reply(answer)
        self._ran(
            Ran(
                *(shard, now_ms if told is None else told.now_ms, call.operations, call.only_looks),
                *(None if told is None else told.outcomes, answer if told is None else None, entry, body),
                0 if told is None else told.seq,
            )
        )
        return answer

    def _tell(self, call: _Call, answer: Any) -> None:
        if call in self._under_way:
            self._under_way.remove(call)
            if not call.answer.done():
                if isinstance(answer, RedisError):
                    call.answer.set_exception(answer)
                else:
                    call.answer.set_result(answer)

    def _lose(self, call: _Call, where: str) -> None:
        if call in self._under_way:
            self._under_way.remove(call)
        call.link.cut = True
        if not call.answer.done():
            call.answer.set_exception(ConnectionLost(f"lost {where}"))


class SimulatedLink:
    """In place of ``ledger.link.Link``: a command goes over the simulated network."""

    def __init__(self, server: LedgerServer, of: "SimulatedShard") -> None:
        self.shard, self.run, self.cut = of.number, server.connect(), False
        self._server, self._of = server, of

    async def command(self, *words: str | int | bytes) -> Any:
        """As ``Link.command``."""
        if self.cut or self.run != self._server.run:
            raise ConnectionLost("lost before")
        answer = asyncio.get_running_loop().create_future()
        called = words[0] == "FCALL"
        self._server.send(_Call(self, words, self._of.asked if called else (), self._of.looks, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self.cut = True
            raise

    async def close(self) -> None:
        self.cut = True


class SimulatedShard(Shard):
    """The shard as it is, but for how it connects."""

    def __init__(self, server: LedgerServer, url: str, number: int, *arguments: Any, **options: Any) -> None:
        super().__init__(url, number, *arguments, **options)
        self.number, self.asked, self.looks = number, list[Operation](), False
        self._server = server

    async def _connected(self) -> Any:
        link: Any = self._link
        if link is None:
            link = self._link = SimulatedLink(self._server, self)  # type: ignore[assignment]  # it stands in for it
            self._run, self.reasons = link.run, []
            # As it was when the connection was made.
            self._epoch = self._server.places.get(self.number, Place(FIRST_EPOCH, 0)).epoch
        return link

    def _argument(self, operations: Sequence[Operation]) -> bytes:
        self.asked = list(operations)
        self.looks = self._why_only_look() is not None
        return super()._argument(operations)
