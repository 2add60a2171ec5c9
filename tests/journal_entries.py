"""Owns journal entries for tests: made without the ledger's script, written into the stream as the script would."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from redis.asyncio import Redis
from servers import RunningServer, as_user

from availability import access
from ledger.journal import Follower, JournalWriter, Observer, StreamStatus, Written
from ledger.messages import (
    JournalEntry,
    JournalOperation,
    Movement,
    Position,
    PositionAfter,
    Record,
    Reservation,
    ReservationLine,
)

AT_MS = 1_795_000_000_000
STREAM = "{s0}:journal"
COUNTS = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")


def reservation(seq: int = 1, sku: str = "SKU-1", **counts: int) -> Reservation:
    """Two units of ``sku`` at W1, held unless ``counts`` tell otherwise."""
    zeroes = dict.fromkeys(COUNTS, 0)
    line = ReservationLine(
        sku=sku, location="W1", quantity=2, requested=2, promise_day=20_775, **(zeroes | (counts or {"held": 2}))
    )
    return Reservation(
        client="web",
        fingerprint="call:0",
        created_at_ms=AT_MS,
        expires_at_ms=AT_MS + 600_000,
        order_id=None,
        channel="shop",
        customer=None,
        epoch=1,
        seq=seq,
        operations=[],
        lines=[line],
    )


def operation(
    verb: str, subject: str, body: Record | list[Record], movements: list[Movement] | None = None
) -> JournalOperation:
    """An operation of the client ``web``."""
    return JournalOperation(
        verb=verb,
        subject=subject,
        client="web",
        operation_id=subject,
        fingerprint="call:0",
        body=msgspec.Raw(msgspec.msgpack.encode(body)),
        movements=movements or [],
    )


def hold(seq: int, number: int = 0, sku: str = "SKU-1") -> JournalOperation:
    """Two units of ``sku`` at W1 go from available to held, for a reservation of their own."""
    taken = Movement(sku, "W1", "available", "held", 2, "hold")
    return operation("hold", f"reservation-{seq}-{number}", reservation(seq, sku), [taken])


def entry(
    seq: int, *, epoch: int = 1, operations: list[JournalOperation] | None = None, sku: str = "SKU-1"
) -> JournalEntry:
    """One hold of ``sku``, unless told otherwise, and the position after it."""
    position = Position(100, 2 * seq, 0, 0, 0, 0, 0, 0, AT_MS - 60_000)
    held = [hold(seq, sku=sku)] if operations is None else operations
    return JournalEntry(epoch, seq, AT_MS + seq, held, [PositionAfter(sku, "W1", position)])


def encoded(journal_entry: JournalEntry) -> bytes:
    return msgspec.msgpack.encode(journal_entry)


async def put(redis: Redis, *entries: JournalEntry) -> None:
    """Append entries as the ledger's script does."""
    for one in entries:
        await put_raw(redis, one.epoch, one.seq, encoded(one))


async def put_raw(redis: Redis, epoch: int, seq: int, body: bytes) -> None:
    """Append any bytes under a number."""
    await redis.xadd(STREAM, {"e": body}, id=f"{epoch}-{seq}")


@dataclass
class Seen:
    """What a follower told its observer."""

    written: Written = field(default_factory=Written)
    status: list[StreamStatus] = field(default_factory=list)

    def on_written(self, _shard: int, batch: Written) -> None:
        total = self.written
        self.written = Written(
            entries=total.entries + batch.entries,
            movements=total.movements + batch.movements,
            rejects=total.rejects + batch.rejects,
            conflicts=total.conflicts + batch.conflicts,
            gaps=total.gaps + batch.gaps,
            held_back=total.held_back + batch.held_back,
        )

    def on_status(self, _shard: int, status: StreamStatus) -> None:
        self.status.append(status)


@asynccontextmanager
async def following(valkey_url: str, postgres_url: str, shard: int = 0) -> AsyncIterator[Seen]:
    """A journaler of one shard for as long as the block lasts; it ends cleanly."""
    seen = Seen()
    observer = Observer(seen.on_written, seen.on_status)
    urls = as_user(valkey_url, access.JOURNAL), as_user(postgres_url, access.JOURNAL)
    follower = Follower(*urls, shard, observer)
    running = asyncio.create_task(follower.run())
    try:
        yield seen
    finally:
        follower.stop()
        await asyncio.wait_for(running, 20)


@asynccontextmanager
async def writing(postgres_url: str) -> AsyncIterator[JournalWriter]:
    """The writer of shard 0 for as long as the block lasts; closed even when the test fails."""
    writer = await JournalWriter.open(as_user(postgres_url, access.JOURNAL), 0)
    try:
        yield writer
    finally:
        await writer.close()


async def start_again(server: RunningServer) -> None:
    """Start a server that was ended; not in a thread, whose end would be the server's too."""
    _spawn(server)
    await server.server.wait()


def _spawn(server: RunningServer) -> None:
    with server.log.open("ab") as log:
        server.process = subprocess.Popen(
            server.server.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=server.server.env
        )


def condition(test: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """A plain test as ``wait_until`` wants it."""

    async def answer() -> bool:
        return test()

    return answer
