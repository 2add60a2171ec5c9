"""One shard's link to its server: sends batches to the Lua library and says what a failure means for each operation.

The client's own retries are off: a lost reply is settled by the operation's key, never by running it again blindly.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ledger import messages as m
from ledger.coalescer import Answer
from ledger.errors import LedgerError, Overloaded, Unavailable, Unknown
from ledger.journal.records import START, Place
from ledger.keys import absent_key, clock_key, journal_key, shard_key
from ledger.library import library, load
from ledger.link import Link
from ledger.packing import done_of, packed
from ledger.placement import Placement, command, connection_to
from ledger.server_clock import DOUBTED, ServerClock
from ledger.state import ShardRecord, Standing, shard_record, wrong_shards
from ledger.valkey_checks import ask_durability, durability_findings

logger = logging.getLogger(__name__)

OLD_MIGRATION = (AskError, TryAgainError)
PROCESS = "availability-ledger"
"""What a connection that may change the ledger is called at its server."""
REFUSALS = (ReadOnlyError, NoPermissionError, MasterDownError, ClusterDownError, *OLD_MIGRATION)
REFUSAL_WORDS = ("EPOCH", "SHARDS", "MISCONF", "BUSY", "NOREPLICAS", "UNKILLABLE")
"""How a server says that it did not run the script at all; redis-py strips the code of the errors that it knows."""
REFUSAL_OF_OLD_MIGRATION = "the shard's slot is being moved key by key: nothing is decided before that has ended"
TRY_AGAIN_S = 0.1
"""After a server that did not answer. Callers are refused at once meanwhile."""
FIRST_EPOCH, NO_EPOCH = 1, 0
"""Where nothing was written yet; and where it cannot be told: no shard has that one, so the call is refused."""
MOVES_MAX = 5
"""Servers that one call follows the shard to, when each names another."""
FREEING = (
    *(m.Release, m.Expire, m.Ship, m.Cancel, m.Read, m.Views, m.Find, m.Locations),
    *(m.Look, m.Drop, m.Finish, m.Forget, m.Unfinished),
)
"""What goes on when the server is out of memory: it gives memory back, or only looks."""
FULFILLING = (m.Commit, m.Pick)
"""This too, unless it claims anew: who has held can pay. It takes some hundred bytes, once for each that was held."""
LOOKING = (m.Read, m.Views, m.Locations)
"""What goes on when nothing may be changed. Not Find: a ledger that lost something must not say "surely not done"."""


class Reply(msgspec.Struct, array_like=True):
    """What one call answers."""

    epoch: int
    now_ms: int
    clock_jumped: bool
    outcomes: list[m.Outcome]
    seq: int


class Limits(NamedTuple):
    """Sent with every call; see the settings of the same names."""

    backlog_entries_max: int
    low_stock: int
    timeout_ms: int
    client_open_reservations_max: int
    client_held_units_max: int
    shards: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode


class Shard:
    """A shard as this process sees it: one connection, one call under way at a time."""

    def __init__(
        self,
        url: str,
        number: int,
        limits: Limits,
        *,
        now_ms: Callable[[], int] | None,
        observe: Callable[[int, float], None],
        refusal: Callable[[int, str], str | None],
        first: "Shard | None" = None,
        epoch: int | None = None,
    ) -> None:
        """``first`` is asked how many shards the ledger has by one that has nothing yet.

        Each call is for the ``epoch`` that was in force when its connection was made, or for just this one.
        """
        self._placement = Placement(url, number, limits.timeout_ms / 1000)
        self._number = number
        self._keys = (shard_key(number), absent_key(number))
        self._journal_key = journal_key(number)
        self._limits = limits
        self._now_ms = now_ms
        self._observe = observe
        self._refusal = refusal
        self._first = first
        self._turn = asyncio.Lock()
        self._try_again_s = 0.0
        self._run = ""
        self._moves = 0
        self._link: Link | None = None
        self._only_epoch = epoch
        self._epoch = NO_EPOCH
        self._clock = ServerClock()
        self.reasons: list[str] = ["not connected yet"]

    async def send(self, operations: Sequence[m.Operation]) -> list[Answer]:
        """Runs a batch; for each operation its outcome, or what its failure means. Never raises."""
        try:
            async with self._turn:
                return await self._call(operations, library().batch)
        except Exception as failure:
            logger.exception("a batch of %d operations failed in an unforeseen way", len(operations))
            return [Unknown(f"unforeseen: {type(failure).__name__}")] * len(operations)

    def not_ready(self) -> list[str]:
        """Why nothing may be promised, as far as the last call told."""
        refusals = [self._clock.flaw, self._refusal(self._number, self._run)]
        return [*self.reasons, *(refusal for refusal in refusals if refusal is not None)]

    def _why_only_look(self) -> str | None:
        """Why nothing may be changed now."""
        return self._clock.flaw or self._refusal(self._number, self._run)

    async def standing(self, at: Place) -> Standing:
        """How far the shard has come. Raises Unavailable."""
        async with self._turn:
            try:
                link = await self._connected()
                async with asyncio.timeout(self._limits.timeout_ms / 1000):
                    await self._judge_clock(link.command)
                    packed = await link.command("GET", self._keys[0])
                    found = await link.command("XRANGE", self._journal_key, str(at), str(at))
            except (RedisError, OSError, TimeoutError, Unavailable) as failure:
                await self._disconnect(_reason(failure))
                raise Unavailable(self.reasons[0]) from failure
            except asyncio.CancelledError:
                await self._disconnect("a call was cancelled")
                raise
        record = shard_record(packed) if packed else ShardRecord(*START, 0)
        return Standing(self._run, Place(record.epoch, record.seq), found[0][1][1] if found else None)

    async def shards_there(self) -> int | None:
        """How many shards the ledger has, as far as this one knows. Raises Unavailable."""
        async with self._turn:
            try:
                link = await self._connected()
                packed = await link.command("GET", self._keys[0])
            except (RedisError, OSError, TimeoutError, Unavailable) as failure:
                await self._disconnect(_reason(failure))
                raise Unavailable(self.reasons[0]) from failure
        return shard_record(packed).shards if packed else None

    async def _call(self, operations: Sequence[m.Operation], function: str) -> list[Answer]:
        """Runs those that may run now on the server that is there now; the others are answered with the reason."""
        try:
            link = await self._connected()
        except (RedisError, OSError, TimeoutError, Unavailable) as failure:
            self.reasons = [_reason(failure)]
            return [Unavailable(self.reasons[0])] * len(operations)
        flaw = self._why_only_look()
        if flaw is not None and not all(map(_only_looks, operations)):
            return await self._call_only(_only_looks, operations, function, Unavailable(flaw))
        return await self._call_on(link, operations, function)

    async def _call_on(self, link: Link, operations: Sequence[m.Operation], function: str) -> list[Answer]:
        started = time.perf_counter()
        try:
            answer = await link.command("FCALL", function, 2, *self._keys, self._argument(operations))
        except OutOfMemoryError:
            return await self._call_without_memory(operations, function)
        except ResponseError as refusal:
            if str(refusal).startswith("CLOCK"):
                failure = Unavailable(self._clock.refuse())
                return await self._call_only(_only_looks, operations, function, failure)
            return await self._refused(operations, function, refusal)
        except (AuthenticationError, BusyLoadingError) as refusal:
            await self._disconnect(_reason(refusal))
            return [Unavailable(self.reasons[0])] * len(operations)
        except (RedisError, OSError, TimeoutError) as failure:
            await self._disconnect(f"the ledger's answer was lost ({_reason(failure)})")
            return [Unknown("the ledger's answer was lost")] * len(operations)
        except asyncio.CancelledError:
            await self._disconnect("a call was cancelled")
            raise
        reply = _decode(answer)
        self._observe(len(operations), time.perf_counter() - started)
        self._learn(reply)
        return [
            _granted(operation, reply) if type(outcome) is m.Granted else outcome
            for operation, outcome in zip(operations, reply.outcomes, strict=True)
        ]

    def _argument(self, operations: Sequence[m.Operation]) -> bytes:
        given_ms = self._now_ms() if self._now_ms else 0
        # A read ends what is overdue, which is a change too.
        look_only = self._why_only_look() is not None
        backlog_entries_max, low_stock, _, *of_clients = self._limits
        head = (
            given_ms,
            self._clock.expected_ms(),
            self._epoch,
            backlog_entries_max,
            low_stock,
            packed(operations),
            look_only,
        )
        return _encode((*head, *of_clients))

    def _learn(self, reply: Reply) -> None:
        self._epoch, self._moves = reply.epoch, 0
        if self._now_ms is None:
            self._clock.learn(reply.now_ms, jumped=reply.clock_jumped)
        if self.reasons:
            self.reasons = []

    async def _call_without_memory(self, operations: Sequence[m.Operation], function: str) -> list[Answer]:
        """The server is at its memory limit: what frees goes on, the rest is refused."""
        full = Overloaded("the ledger's memory is full")
        if function == library().batch_allow_oom:
            return [full] * len(operations)
        return await self._call_only(_needs_no_memory, operations, library().batch_allow_oom, full)

    async def _call_only(
        self,
        goes_on: Callable[[m.Operation], bool],
        operations: Sequence[m.Operation],
        function: str,
        otherwise: LedgerError,
    ) -> list[Answer]:
        """Runs the operations that go on; the others get the answer ``otherwise``."""
        answers: list[Answer] = [otherwise] * len(operations)
        chosen = [index for index, operation in enumerate(operations) if goes_on(_told(operation))]
        if chosen:
            called = await self._call([operations[index] for index in chosen], function)
            for index, answer in zip(chosen, called, strict=True):
                answers[index] = answer
        return answers

    async def _refused(self, operations: Sequence[m.Operation], function: str, refusal: ResponseError) -> list[Answer]:
        """The server answered with an error, so nothing of the batch was done (but see the last case)."""
        text = str(refusal)
        if text.startswith("DECISION"):
            if len(operations) == 1:
                return [AssertionError(f"the ledger could not decide a {type(operations[0]).__name__}")]
            alone = [await self._call([operation], function) for operation in operations]
            return [answers[0] for answers in alone]
        if text.startswith("Function not found"):
            await self._disconnect("the library is gone from the server")
            return await self._call(operations, function)
        if isinstance(refusal, MovedError):
            return await self._follow(operations, function)
        if isinstance(refusal, REFUSALS) or text.startswith(REFUSAL_WORDS):
            old = isinstance(refusal, OLD_MIGRATION)
            reason = REFUSAL_OF_OLD_MIGRATION if old else f"the ledger's server refuses: {text[:80]}"
            if text.startswith("SHARDS"):
                reason = wrong_shards(int(text.split()[1]), self._limits.shards)
            await self._disconnect(reason)
            return [Unavailable(reason)] * len(operations)
        await self._disconnect("the ledger failed while writing")
        logger.critical("the ledger failed while writing: %s", text)
        return [Unknown("the ledger failed while writing")] * len(operations)

    async def _follow(self, operations: Sequence[m.Operation], function: str) -> list[Answer]:
        """The shard is on another server now, where the same call may go at once."""
        self._moves += 1
        if self._moves > MOVES_MAX:
            self._moves = 0
            await self._disconnect("the cluster's servers do not agree on who has the shard")
            return [Unavailable(self.reasons[0])] * len(operations)
        await self._disconnect("the shard is on another server now")
        return await self._call(operations, function)

    async def _connected(self) -> Link:
        if self._link is None:
            if time.monotonic() < self._try_again_s:
                raise Unavailable(self.reasons[0])
            self._try_again_s = 0.0
            try:
                url = await self._placement.url()
            except (RedisError, OSError, TimeoutError):
                # Who waited for his turn meanwhile is told so, and does not wait for as long again.
                self._try_again_s = time.monotonic() + TRY_AGAIN_S
                raise
            async with asyncio.timeout(self._limits.timeout_ms / 1000):
                connection = connection_to(url, PROCESS)
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                    await self._check(connection)
                    self._link = Link(connection, self._limits.timeout_ms / 1000)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
            self.reasons = []
        return self._link

    async def _check(self, connection: AbstractConnection) -> None:
        """Raises Unavailable when the server must not be trusted with promises; loads the library."""
        told = await ask_durability(connection)
        self._run = told.info.get("run_id", "")
        reasons = [str(finding) for finding in durability_findings("its server", told) if finding.stops]
        there = await self._told(connection)
        if there.shards is not None and there.shards != self._limits.shards:
            reasons.append(wrong_shards(there.shards, self._limits.shards))
        self._epoch = there.epoch if self._only_epoch is None else self._only_epoch
        if reasons:
            raise Unavailable("; ".join(reasons))
        await load(connection, library())
        with suppress(AskError):  # or MovedError: as above
            await self._judge_clock(partial(command, connection))

    async def _judge_clock(self, ask: Callable[..., Awaitable[Any]]) -> None:
        """Whether the server's clock is to be believed; ``ask`` sends a command."""
        if self._now_ms is not None:
            return
        key = clock_key(self._number)
        mark = await ask("GET", key)
        seconds, microseconds = await ask("TIME")
        match self._clock.judge(int(seconds) * 1_000 + int(microseconds) // 1_000, mark):
            case "set":
                await ask("SET", key, DOUBTED, "NX")
            case "delete":
                await ask("DEL", key)

    async def _told(self, connection: AbstractConnection) -> ShardRecord:
        """The shard's own record; where nothing was written yet, the first shard tells how many there are."""
        try:
            packed = await command(connection, "GET", self._keys[0])
        except AskError:  # or MovedError: the call itself will follow, or be refused
            return ShardRecord(NO_EPOCH, 0, 0)
        if packed:
            return shard_record(packed)
        shards = await self._first.shards_there() if self._first is not None else None
        return ShardRecord(FIRST_EPOCH, 0, 0, shards)

    async def _disconnect(self, reason: str) -> None:
        self.reasons = [reason]
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def close(self) -> None:
        """Drops the connection."""
        await self._disconnect("closed")


def _granted(operation: m.Operation, reply: Reply) -> m.Done:
    hold = _told(operation)
    assert isinstance(hold, m.Hold), hold
    return done_of(hold, reply.now_ms, reply.epoch, reply.seq)


def _told(operation: m.Operation) -> m.Operation:
    """What a shard is told to do, as itself or as its part of it."""
    return operation.operation if isinstance(operation, m.Part) else operation


def _needs_no_memory(told: m.Operation) -> bool:
    if isinstance(told, m.Commit) and told.reacquire:
        return False
    return isinstance(told, FREEING + FULFILLING)


def _only_looks(told: m.Operation) -> bool:
    return isinstance(told, LOOKING)


def _reason(failure: BaseException) -> str:
    """The failure in a few words, without anything that a server or a client may have put into its text."""
    if isinstance(failure, Unavailable):
        return failure.detail
    if type(failure) is ResponseError:
        return "the ledger's server refuses a command of ours"
    return f"no use of the ledger's server: {type(failure).__name__}"
