"""P6, P7: everything that the ledger did is in Postgres once, in order and chained, whatever fails on the way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
from journal_entries import (
    STREAM,
    condition,
    encoded,
    entry,
    following,
    hold,
    operation,
    put,
    put_raw,
    reservation,
    start_again,
    writing,
)
from redis.asyncio import Redis
from servers import RunningServer, as_owner, as_user
from waiting import wait_until

from availability import access
from ledger.journal import JOURNAL_FAILED, Journal, Place, conflicts, migrate, settle_conflicts
from ledger.journal.epochs import Epochs
from ledger.journal.records import RawEntry
from ledger.journal.writer import Fenced
from ledger.messages import Movement

pytestmark = pytest.mark.anyio


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(as_owner(valkey_url)) as client:
        yield client


@pytest.fixture
async def journal_url(postgres_url: str) -> str:
    """A database with the journal's schema."""
    await migrate(postgres_url)
    return postgres_url


@pytest.fixture
async def journal(journal_url: str) -> AsyncIterator[Journal]:
    reader = await Journal.open(as_user(journal_url, access.API))
    yield reader
    await reader.close()


@pytest.fixture
async def postgres(journal_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(journal_url)
    yield connection
    await connection.close()


async def come_to(journal: Journal, place: Place) -> None:
    async def reached() -> bool:
        return (await journal.cursor(0)).place == place

    await wait_until(reached, 20)


async def rejects(postgres: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await postgres.fetch("select seq, reason from availability.reject order by seq, reason")
    return [(row["seq"], row["reason"]) for row in rows]


def raw(seq: int, body: bytes | None = None) -> RawEntry:
    return RawEntry(Place(1, seq), encoded(entry(seq)) if body is None else body)


async def test_entries_are_stored_as_they_came_with_their_movements(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str, postgres: asyncpg.Connection
) -> None:
    two_holds = entry(1, operations=[hold(1, 0), hold(1, 1, sku="SKU-2")])
    await put(redis, two_holds, entry(2))

    async with following(valkey_url, journal_url):
        await come_to(journal, Place(1, 2))

    assert [two_holds, entry(2)] == [one async for one in journal.entries(0)]
    assert [entry(2)] == [one async for one in journal.entries(0, after=Place(1, 1))]
    rows = await postgres.fetch("select * from availability.movement order by seq, operation_index, movement_index")
    assert [row["sku"] for row in rows] == ["SKU-1", "SKU-2", "SKU-1"]
    assert {
        "shard": 0, "epoch": 1, "seq": 1, "operation_index": 1, "movement_index": 0, "at_ms": two_holds.at_ms,
        "sku": "SKU-2", "location": "W1", "from_bucket": "available", "to_bucket": "held", "quantity": 2,
        "verb": "hold", "subject": "reservation-1-1", "client": "web", "reason": "hold", "event": None,
    } == dict(rows[1])  # fmt: skip
    assert await journal.verify_chain(0) == []


async def test_rows_and_cursor_are_one_transaction(
    journal_url: str, journal: Journal, postgres: asyncpg.Connection
) -> None:
    """The server ends the session when all rows are written and only the cursor is missing: nothing of it stays."""
    await postgres.execute(
        "create function die() returns trigger language plpgsql as"
        " $$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$;"
        " create trigger die before update of seq on availability.cursor for each row execute function die()"
    )
    async with writing(journal_url) as writer:
        with pytest.raises(JOURNAL_FAILED):
            await writer.write([raw(1), raw(2)])

    assert [one async for one in journal.entries(0)] == []
    assert (await journal.cursor(0)).place == Place(0, 0)
    await postgres.execute("drop trigger die on availability.cursor")
    async with writing(journal_url) as again:
        assert (await again.write([raw(1), raw(2)])).entries == 2
    assert await journal.verify_chain(0) == []


async def test_commit_whose_answer_was_lost_is_neither_lost_nor_doubled(
    journal_url: str, journal: Journal, postgres: asyncpg.Connection
) -> None:
    async with writing(journal_url) as first:
        await first.write([raw(1), raw(2)])
        await postgres.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'availability journal'"
        )
        with pytest.raises(JOURNAL_FAILED):
            await first.write([raw(3)])

    async with writing(journal_url) as again:
        written = await again.write([raw(1), raw(2), raw(3)])

    assert (written.entries, written.conflicts) == (1, 0)
    assert [one.seq async for one in journal.entries(0)] == [1, 2, 3]


async def test_bad_entries_go_to_rejects_and_the_others_flow(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str, postgres: asyncpg.Connection
) -> None:
    nul = operation("hold", "r-3", reservation(3), [Movement("A\0B", "W1", "available", "held", 2, "hold")])
    strange = operation("hold", "r-4", reservation(4), [Movement("A", "W1", "available", "nowhere", 2, "hold")])
    await put(redis, entry(1))
    await put_raw(redis, 1, 2, b"\xff\x00 not an entry")
    await put(redis, entry(3, operations=[hold(3), nul]), entry(4, operations=[strange]), entry(5))
    await put_raw(redis, 1, 6, encoded(entry(60)))
    await put_raw(redis, 1, 7, b"\x91" * 100_000)
    await put(redis, entry(8))

    async with following(valkey_url, journal_url) as seen:
        await come_to(journal, Place(1, 8))

    assert (await rejects(postgres)) == [
        (2, "unreadable"),
        (3, "unstorable"),
        (4, "unstorable"),
        (6, "unreadable"),
        (7, "unreadable"),
    ]
    assert (seen.written.entries, seen.written.rejects) == (8, 5)
    assert [row["seq"] for row in await postgres.fetch("select seq from availability.movement order by 1")] == [1, 5, 8]
    assert await postgres.fetchval("select raw from availability.reject where seq = 2") == b"\xff\x00 not an entry"
    assert await journal.verify_chain(0) == []


async def test_other_content_under_a_known_number_stops_the_journal(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str, postgres: asyncpg.Connection
) -> None:
    """A ledger that lost its tail and went on: what it now writes is seen, and never mixed with what there was."""
    await put(redis, entry(1), entry(2), entry(3))
    async with following(valkey_url, journal_url):
        await come_to(journal, Place(1, 3))
    await redis.delete(STREAM)
    await put(redis, entry(1), entry(2, sku="OTHER"))

    async with following(valkey_url, journal_url) as seen:
        await wait_until(condition(lambda: any(status.ledger_behind for status in seen.status)))
        await wait_until(condition(lambda: seen.written.conflicts == 1))
        await put(redis, entry(3, sku="OTHER"), entry(4))
        await wait_until(condition(lambda: seen.written.held_back == 1))
    async with writing(journal_url) as writer:  # it is not forgotten by starting anew, nor by who reads no entry again
        assert (await writer.write([RawEntry(Place(1, 4), encoded(entry(4)))])).held_back == 1
    async with following(valkey_url, journal_url) as again:
        await wait_until(condition(lambda: again.written.held_back == 1))
        await wait_until(condition(lambda: any(status.is_stopped for status in again.status)))
        assert (await journal.cursor(0)).place == Place(1, 3)
        assert await rejects(postgres) == [(2, "conflict"), (3, "conflict")]

        assert [conflict.place for conflict in await conflicts(journal_url)] == [Place(1, 2), Place(1, 3)]
        assert await settle_conflicts(journal_url) == 2
        await come_to(journal, Place(1, 4))  # it is the operator's word that this ledger is the right one
        await wait_until(condition(lambda: not again.status[-1].is_stopped))
    assert await conflicts(journal_url) == []
    assert [entry(1), entry(2), entry(3), entry(4)] == [one async for one in journal.entries(0)]
    assert await journal.verify_chain(0) == []


async def test_a_conflict_stops_its_epoch_and_no_newer_one(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str
) -> None:
    """A rebuild ends it: who wrote the other content is not in force any more."""
    await put(redis, entry(1), entry(2))
    async with following(valkey_url, journal_url):
        await come_to(journal, Place(1, 2))
    await redis.delete(STREAM)
    await put(redis, entry(1, sku="OTHER"), entry(2), entry(3), entry(1, epoch=2))

    async with following(valkey_url, journal_url) as seen:
        await come_to(journal, Place(2, 1))

    assert (seen.written.conflicts, seen.written.held_back) == (1, 1)
    assert [entry(1), entry(2), entry(1, epoch=2)] == [one async for one in journal.entries(0)]
    epochs = await Epochs.open(journal_url)
    assert isinstance(epochs, Epochs)
    await epochs.begin(2, 1, "rebuild")
    await epochs.complete(2)
    await epochs.close()
    assert await conflicts(journal_url) == []


async def test_gap_is_seen_and_does_not_stop_the_journal(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str, postgres: asyncpg.Connection
) -> None:
    await put(redis, entry(1), entry(2), entry(5), entry(1, epoch=2), entry(2, epoch=2), entry(3, epoch=3))

    async with following(valkey_url, journal_url) as seen:
        await come_to(journal, Place(3, 3))

    assert (seen.written.entries, seen.written.gaps) == (6, 1)
    assert await rejects(postgres) == [(5, "gap")]
    assert [("gap", Place(1, 5))] == [(problem.kind, problem.place) for problem in await journal.verify_chain(0)]


@pytest.mark.parametrize(
    ("tampering", "kinds"),
    [
        ("update availability.entry set body = body || '\\x00' where seq = 2", ["hash"]),
        ("update availability.entry set hash = sha256('x') where seq = 2", ["hash", "hash"]),
        ("delete from availability.entry where seq = 2", ["gap", "hash"]),
        ("delete from availability.entry where seq = 3", ["cursor"]),
        ("update availability.cursor set seq = 2", ["cursor"]),
    ],
)
async def test_tampering_is_found(
    journal_url: str, journal: Journal, postgres: asyncpg.Connection, tampering: str, kinds: list[str]
) -> None:
    async with writing(journal_url) as writer:
        await writer.write([raw(1), raw(2), raw(3)])
    assert await journal.verify_chain(0) == []

    await postgres.execute(tampering)

    assert kinds == [problem.kind for problem in await journal.verify_chain(0)]


async def test_cursor_that_was_set_back_does_not_stop_the_journal(
    journal_url: str, journal: Journal, postgres: asyncpg.Connection
) -> None:
    async with writing(journal_url) as writer:
        await writer.write([raw(1), raw(2)])
    await postgres.execute("update availability.cursor set epoch = 0, seq = 0, hash = decode(repeat('00', 32), 'hex')")

    async with writing(journal_url) as again:
        await again.write([raw(1), raw(2), raw(3)])

    assert await journal.verify_chain(0) == []


async def test_second_journaler_waits_and_takes_over(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str
) -> None:
    async with following(valkey_url, journal_url) as second:
        async with following(valkey_url, journal_url) as first:
            pass
        await put(redis, entry(1))
        await come_to(journal, Place(1, 1))
    assert (first.written.entries + second.written.entries, first.written.conflicts) == (1, 0)

    async with following(valkey_url, journal_url) as first:
        await wait_until(condition(lambda: len(first.status) > 0))
        async with following(valkey_url, journal_url) as second:
            await put(redis, entry(2), entry(3))
            await come_to(journal, Place(1, 3))
            assert (first.written.entries, second.written.entries) == (2, 0)


async def test_fenced_writer_changes_nothing(journal_url: str, journal: Journal, postgres: asyncpg.Connection) -> None:
    """Another has taken the shard, and this one, cut off for a while, has not noticed."""
    async with writing(journal_url) as writer:
        await writer.write([raw(1)])
        await postgres.execute("update availability.cursor set owner_epoch = owner_epoch + 1")

        with pytest.raises(Fenced):
            await writer.write([raw(2)])

    assert [one.seq async for one in journal.entries(0)] == [1]
    assert await journal.verify_chain(0) == []


async def test_a_batch_under_way_is_fenced_too(
    journal_url: str, journal: Journal, postgres: asyncpg.Connection
) -> None:
    """The rows are on their way when another takes the shard: none of them stays."""
    async with writing(journal_url) as writer:
        await writer.write([raw(1)])
        await postgres.execute("begin; lock table availability.movement in access exclusive mode")
        under_way = asyncio.create_task(writer.write([raw(2)]))

        async def waits() -> bool:
            return bool(await postgres.fetchval("select count(*) from pg_locks where not granted"))

        await wait_until(waits)
        await postgres.execute("update availability.cursor set owner_epoch = owner_epoch + 1; commit")
        with pytest.raises(Fenced):
            await under_way

    assert [one.seq async for one in journal.entries(0)] == [1]
    async with writing(journal_url) as newer:
        assert (await newer.write([raw(1), raw(2)])).entries == 1


async def test_journal_goes_on_after_postgres_was_killed(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str, postgres_server: RunningServer
) -> None:
    async with following(valkey_url, journal_url) as seen:
        await put(redis, *(entry(seq) for seq in range(1, 51)))
        await come_to(journal, Place(1, 50))
        postgres_server.kill()
        await put(redis, *(entry(seq) for seq in range(51, 101)))
        await start_again(postgres_server)
        await put(redis, *(entry(seq) for seq in range(101, 151)))
        await come_to(journal, Place(1, 150))

    assert list(range(1, 151)) == [one.seq async for one in journal.entries(0)]
    assert seen.written.entries <= 150
    assert await journal.verify_chain(0) == []


async def test_journal_goes_on_after_valkey_was_killed(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str, valkey_server: RunningServer
) -> None:
    async with following(valkey_url, journal_url):
        await put(redis, *(entry(seq) for seq in range(1, 51)))
        await come_to(journal, Place(1, 50))
        valkey_server.kill()
        await start_again(valkey_server)
        await redis.connection_pool.disconnect()
        await put(redis, *(entry(seq) for seq in range(51, 101)))
        await come_to(journal, Place(1, 100))

    assert list(range(1, 101)) == [one.seq async for one in journal.entries(0)]
    assert await journal.verify_chain(0) == []


async def test_stream_is_trimmed_only_behind_the_cursor(
    valkey_url: str, redis: Redis, journal: Journal, journal_url: str, postgres: asyncpg.Connection
) -> None:
    body = msgspec.msgpack.encode("x" * 1_000)  # so that a node of the stream is full after a few entries
    async with redis.pipeline(transaction=False) as pipeline:
        for seq in range(1, 2_001):
            pipeline.xadd(STREAM, {"e": encoded(entry(seq)), "x": body}, id=f"1-{seq}")
        await pipeline.execute()

    async def oldest() -> int:
        items: Any = await redis.xrange(STREAM, count=1)
        return int(items[0][0].partition(b"-")[2])

    async def trimmed() -> bool:
        return await oldest() > 1

    async with following(valkey_url, journal_url):
        await come_to(journal, Place(1, 2_000))
        await wait_until(trimmed)
    assert await oldest() <= 1_001

    async with redis.pipeline(transaction=False) as pipeline:
        for seq in range(2_001, 5_001):
            pipeline.xadd(STREAM, {"e": encoded(entry(seq)), "x": body}, id=f"1-{seq}")
        await pipeline.execute()
    await postgres.execute("begin; lock table availability.movement in access exclusive mode")
    async with following(valkey_url, journal_url) as seen:
        await wait_until(condition(lambda: len(seen.status) > 1))
        assert seen.status[-1].backlog_entries == 3_000
        assert await oldest() <= 1_001
        await postgres.execute("rollback")
        await come_to(journal, Place(1, 5_000))
    assert list(range(1, 5_001)) == [one.seq async for one in journal.entries(0)]


async def test_status_tells_lag_and_backlog(valkey_url: str, redis: Redis, journal: Journal, journal_url: str) -> None:
    assert (await journal.status()).shards == []
    await put(redis, entry(1), entry(2))

    async with following(valkey_url, journal_url):
        await come_to(journal, Place(1, 2))

        async def caught_up() -> bool:
            shards = (await journal.status()).shards
            return bool(shards) and shards[0].checked_ms_ago is not None and shards[0].backlog_entries == 0

        await wait_until(caught_up)
    [status] = (await journal.status()).shards
    assert (status.epoch, status.seq, status.lag_ms, status.ledger_behind) == (1, 2, 0, False)


async def test_several_shards_side_by_side(valkey_url: str, redis: Redis, journal: Journal, journal_url: str) -> None:
    await put(redis, entry(1))
    await redis.xadd("{s1}:journal", {"e": encoded(entry(1, sku="IN-SHARD-1"))}, id="1-1")

    async with following(valkey_url, journal_url, shard=0), following(valkey_url, journal_url, shard=1) as seen:
        await come_to(journal, Place(1, 1))
        await wait_until(condition(lambda: seen.written.entries == 1))

    assert [entry(1, sku="IN-SHARD-1")] == [one async for one in journal.entries(1)]
    await asyncio.gather(*(journal.verify_chain(shard) for shard in (0, 1)))
