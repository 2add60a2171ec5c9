"""Nothing is changed in a ledger that has lost what its journal has, by whichever process (P9, DESIGN 5 and 8)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import nats
import pytest
from feeding import an_event, encoded
from ledgers import Clock, Shop
from nats.js.api import ConsumerInfo
from redis.asyncio import Redis
from servers import RunningServer, as_owner, as_user, settings_as
from waiting import wait_until

from availability import access, doctor, ingest, keeper
from availability.feeds.stream import STREAM
from availability.journal_watch import NOT_COMPARED, JournalWatch, compared, watched_ledger
from availability.settings import Settings
from ledger import (
    Follower,
    Journal,
    JournalEnd,
    Ledger,
    Location,
    Observer,
    Place,
    PutLocation,
    Read,
    ReadItem,
    Standing,
    Unavailable,
    Unknown,
    migrate,
)

pytestmark = pytest.mark.anyio


class Ends:
    """A journal that ends where the test says; while ``down`` it is away."""

    def __init__(self) -> None:
        self.answer = JournalEnd(Place(1, 7), b"seventh")
        self.down = False

    async def end(self, _shard: int) -> JournalEnd:
        if self.down:
            raise ConnectionRefusedError
        return self.answer


class Stands:
    """A ledger that stands where the test says."""

    def __init__(self) -> None:
        self.answer = Standing("run-1", Place(1, 9), b"seventh")

    shards = 1

    async def standing(self, _shard: int, _at: Place) -> Standing:
        return self.answer


async def test_a_ledger_is_refused_until_it_was_compared() -> None:
    journal, ledger = Ends(), Stands()
    watch = JournalWatch(journal)
    assert watch.refusal(0, "") == watch.refusal(0, "run-1") == NOT_COMPARED

    assert await watch.compare(ledger) is None
    assert watch.refusal(0, "run-1") is None
    assert watch.refusal(0, "run-2") == NOT_COMPARED, "a server that was started again may have less"


FLAWS = {
    "behind": Standing("run-1", Place(1, 6), None),
    "empty": Standing("run-1", Place(0, 0), None),
    "behind, but with entries of its own since": Standing("run-1", Place(1, 9), b"another seventh"),
    "an older epoch": Standing("run-1", Place(0, 99), None),
}


@pytest.mark.parametrize("flawed", FLAWS.values(), ids=FLAWS)
async def test_a_ledger_that_lost_entries_is_refused_until_it_has_them(flawed: Standing) -> None:
    journal, ledger = Ends(), Stands()
    watch = JournalWatch(journal)
    ledger.answer = flawed
    for _ in range(2):
        assert "journal" in str(await watch.compare(ledger))
        assert "put the newest data folder of its Valkey back" in str(watch.refusal(0, "run-1"))

    ledger.answer = Standing("run-2", Place(1, 7), b"seventh")
    assert await watch.compare(ledger) is None
    assert watch.refusal(0, "run-2") is None


async def test_a_ledger_of_a_newer_epoch_and_one_without_a_journal_are_compared() -> None:
    for end, standing in (
        (JournalEnd(Place(1, 7), b"seventh"), Standing("run-1", Place(2, 0), None)),
        (JournalEnd(Place(0, 0), None), Standing("run-1", Place(0, 0), None)),
        (JournalEnd(Place(0, 0), None), Standing("run-1", Place(1, 3), None)),
    ):
        journal, ledger = Ends(), Stands()
        journal.answer, ledger.answer = end, standing
        assert await JournalWatch(journal).compare(ledger) is None


async def test_without_postgres_what_was_compared_goes_on_and_what_was_not_waits() -> None:
    journal, ledger = Ends(), Stands()
    journal.down = True
    watch = JournalWatch(journal)
    watching = asyncio.create_task(watch.watch(ledger))

    async def refuses_for_want_of_postgres() -> bool:
        return "Postgres cannot be asked" in str(watch.refusal(0, "run-1"))

    async def accepts() -> bool:
        return watch.refusal(0, "run-1") is None

    await wait_until(refuses_for_want_of_postgres)
    journal.down = False
    await wait_until(accepts)
    journal.down = True
    with pytest.raises(ConnectionRefusedError):
        await watch.compare(ledger)
    assert watch.refusal(0, "run-1") is None
    watching.cancel()


@asynccontextmanager
async def at_work(run: Callable[[Settings], Coroutine[Any, Any, None]], settings: Settings) -> AsyncIterator[None]:
    work = asyncio.create_task(run(settings))
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await work


async def move_cursor(postgres_url: str, seq: int) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "insert into availability.cursor (shard, epoch, seq) values (0, 1, $1)"
        " on conflict (shard) do update set seq = excluded.seq",
        seq,
    )
    await connection.close()


async def test_ingest_leaves_events_in_the_stream(valkey_url: str, nats_url: str, postgres_url: str) -> None:
    await migrate(postgres_url)
    await move_cursor(postgres_url, 1_000)
    plain = Ledger(valkey_url)
    await plain.put_location(PutLocation("tests", Location("DC-1")))
    publisher = await nats.connect(nats_url)
    streams = publisher.jetstream()

    async def waits() -> bool:
        info: ConsumerInfo = await streams.consumer_info(STREAM, "ingest")
        return info.num_ack_pending == 2

    async def on_hand() -> int:
        positions = await plain.read(Read([ReadItem("SKU-1", ["DC-1"])]))
        return sum(at.position.on_hand for at in positions.items[0].positions)

    async with at_work(ingest.run, settings_as(access.INGEST, valkey_url, postgres_url, nats_url)):

        async def published() -> bool:
            await streams.publish("stock.wms.counts", encoded(an_event()))
            return True

        await wait_until(published)
        await streams.publish("stock.wms.counts", b"bad")
        await wait_until(waits)
        journal = await Journal.open(as_user(postgres_url, access.API))
        assert ((await journal.status()).quarantine_open, await on_hand()) == (0, 0)
        await move_cursor(postgres_url, 1)
        await wait_until(on_hand)
        await journal.close()
    await publisher.close()
    await plain.close()


async def test_the_keeper_ends_nothing(valkey_url: str, postgres_url: str) -> None:
    await migrate(postgres_url)
    clock = Clock()
    shop = Shop(Ledger(valkey_url, now_ms=clock), clock)
    clock.now_ms = 1  # so that every hold is overdue by the server's own clock
    await shop.open()
    await shop.stock("A", 5)
    await shop.hold(("A", 2))
    await move_cursor(postgres_url, 1_000)
    settings = settings_as(access.KEEPER, valkey_url, postgres_url)

    async def entries() -> int:
        async with Redis.from_url(as_owner(valkey_url)) as client:
            length: int = await client.xlen("{s0}:journal")
            return length

    before = await entries()
    async with watched_ledger(settings) as ledger, at_work(keeper.run, settings):

        async def is_behind() -> bool:
            return any("behind its journal" in reason for reason in (await ledger.check()).reasons)

        async def is_ended() -> bool:
            return await entries() == before + 1

        await wait_until(is_behind)
        assert await entries() == before
        [told] = [found for found in await doctor.examine(settings) if found.subject == "the ledger"]
        assert (told.verdict, "is behind its journal" in str(told)) == ("unsafe", True)
        await move_cursor(postgres_url, 1)
        await wait_until(is_ended)
    assert await compared(settings) == []
    await shop.ledger.close()


async def test_a_server_that_comes_back_with_less_is_refused_from_its_first_operation(
    valkey_server: RunningServer, valkey_url: str, postgres_url: str
) -> None:
    """P9: the check is not "now and then": no hold slips in between the server's return and the next comparison."""
    await migrate(postgres_url)
    observer = Observer(lambda _shard, _written: None, lambda _shard, _status: None)
    follower = Follower(as_user(valkey_url, access.JOURNAL), as_user(postgres_url, access.JOURNAL), 0, observer)
    following = asyncio.create_task(follower.run())
    journal = await Journal.open(as_user(postgres_url, access.API))

    async def journaled() -> bool:
        return (await journal.cursor(0)).place == Place(1, 2)

    async with watched_ledger(settings_as(access.API, valkey_url, postgres_url)) as ledger:

        async def is_ready() -> bool:
            return (await ledger.check()).ready

        await wait_until(is_ready)
        for location in ("S1", "S2"):
            await ledger.put_location(PutLocation("ops", Location(location)))
        await wait_until(journaled)
        follower.stop()
        await following

        async with Redis.from_url(as_owner(valkey_url)) as client:
            await client.flushall()
        valkey_server.kill()
        await valkey_server.restart()
        with pytest.raises(Unavailable, match="journal"):
            await change_when_connected(ledger)

        async def is_behind() -> bool:
            return any("behind its journal (at 0-0, the journal at 1-2)" in reason for reason in ledger.state().reasons)

        await wait_until(is_behind)
        with pytest.raises(Unavailable, match="behind its journal"):
            await ledger.put_location(PutLocation("ops", Location("S3")))
        # As an expiry that was looked at would: the numbers catch up, the entries differ.
        plain = Ledger(valkey_url)
        for location in ("S3", "S4", "S5"):
            await plain.put_location(PutLocation("ops", Location(location)))
        await plain.close()

        async def is_another() -> bool:
            return any("entries 1-2 differ" in reason for reason in ledger.state().reasons)

        await wait_until(is_another)
    await journal.close()


async def change_when_connected(ledger: Ledger) -> None:
    """Change something as soon as the server answers again."""
    while True:
        with suppress(Unknown):  # the connection to the server that was killed
            await ledger.put_location(PutLocation("ops", Location("S9")))
