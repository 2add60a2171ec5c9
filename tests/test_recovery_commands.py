"""``checkpoint``, ``conflicts`` and ``republish`` as an operator runs them, and checkpoints that come by themselves."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from click.testing import CliRunner, Result
from journal_entries import encoded, entry, writing
from ledgers import Clock
from redis import Redis
from servers import as_owner, as_user
from test_rehome import Shops
from waiting import wait_until

from availability.checkpoint_command import Maker
from availability.cli import main
from availability.journal_report import journal_said
from availability.settings import Settings
from bench.ledger_dump import dump, times_of_entries
from ledger import ROLES, CursorMoved, FillRefused, Journal, Outbox, Place, migrate
from ledger.journal.records import RawEntry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shops(valkey_url: str, postgres_url: str) -> AsyncIterator[Shops]:
    shops = Shops(valkey_url, postgres_url, Clock())
    shop = await shops.open(1)
    await shop.open()
    await shop.stock("A", 10)
    await shop.hold(("A", 1))
    await shops.journal(1)
    yield shops
    await shops.close()


async def run(postgres_url: str, *arguments: str, answer: str = "") -> Result:
    environment = {"AVAILABILITY_POSTGRES_URL": postgres_url}
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, input=answer, env=environment)


async def test_a_checkpoint_is_made_and_told(shops: Shops) -> None:
    url = shops.urls[1]
    made = await run(url, "checkpoint")
    assert made.exit_code == 0
    assert made.stdout.startswith("checkpoint 1: 2 movements folded from the epoch's start on, in ")
    assert "what the journal got since is folded" in made.stderr
    again = await run(url, "checkpoint")
    assert (again.exit_code, again.stdout) == (0, "checkpoint 1 has all that is in the journal\n")


async def test_without_a_journal_there_is_none(postgres_url: str) -> None:
    await migrate(postgres_url)
    empty = await run(postgres_url, "checkpoint")
    assert (empty.exit_code, empty.stderr) == (1, "no checkpoint was made: the journal is empty\n")
    gone = await run("postgresql://nobody@127.0.0.1:1/none", "checkpoint")
    assert gone.exit_code == 2


async def test_one_is_made_by_itself_when_it_is_due(shops: Shops, database: asyncpg.Connection) -> None:
    """In a process of its own, while this one goes on."""
    settings = Settings(redis_url=shops.urls[0], postgres_url=shops.urls[1], checkpoint_movements=3)
    maker = Maker(settings, looked_every_s=0.02)
    running = asyncio.create_task(maker.run())
    shop = await shops.open(1)
    await shop.hold(("A", 1))  # the third movement
    await shops.journal(1)

    async def made() -> bool:
        return bool(await database.fetchval("select count(*) from availability.checkpoint where movements = 3"))

    await wait_until(made, 20)
    maker.stop()
    await asyncio.wait_for(running, 10)
    assert await database.fetchval("select count(*) from availability.checkpoint") == 1


async def test_events_are_announced_again_by_command(shops: Shops) -> None:
    url = shops.urls[1]
    nothing = await run(url, "republish", "--since", "2026-01-01T00:00:00Z", "--yes")
    assert (nothing.exit_code, nothing.stdout) == (0, "nothing was announced since 2026-01-01T00:00:00Z\n")
    journal = await Journal.open(url)
    end = (await journal.cursor(0)).place
    await journal.close()
    outbox = await Outbox.open(url, 0)
    await outbox.done(end)
    declined = await run(url, "republish", "--since", "2026-01-01T00:00:00Z", answer="n\n")
    assert (declined.exit_code, f"events of {end.seq} journal entries" in declined.stderr) == (1, True)
    done = await run(url, "republish", "--since", "2026-01-01T00:00:00Z", "--yes")
    assert (done.exit_code, done.stdout) == (0, f"shard 0: {end.seq} entries behind 0-0 are announced again\n")
    with pytest.raises(CursorMoved):
        await outbox.take(1, after=end)
    await outbox.close()
    wrong = await run(url, "republish", "--since", "yesterday", "--yes")
    assert (wrong.exit_code, wrong.stderr) == (2, "yesterday is no time: write it like 2026-11-24T12:00:00Z\n")


async def test_a_conflict_is_shown_and_settled(shops: Shops) -> None:
    """A rebuild would drop what the ledger did since, if it is the journal that is damaged: somebody must look."""
    url = shops.urls[1]
    none = await run(url, "conflicts")
    assert (none.exit_code, none.stdout) == (0, "the ledger and its journal do not contradict each other\n")
    async with writing(url) as writer:
        written = await writer.write([RawEntry(Place(1, 2), encoded(entry(2)))])
    assert written.conflicts == 1

    for role in ROLES:  # each of them asks for the API's warnings, or runs `doctor`
        [told] = await journal_said(as_user(url, role.removeprefix("availability_")), 10)
        assert (told.verdict, told.stops) == ("unsafe", False)
        assert str(told).startswith("the journal of shard 0 has stopped at entry 1-2, where the ledger contradicts it;")
        assert "`availability conflicts` shows" in str(told)
    doctor = await run(url, "doctor")
    assert (doctor.exit_code, "unsafe     the journal of shard 0 has stopped" in doctor.stdout) == (1, True)

    shown = await run(url, "conflicts")
    assert shown.exit_code == 1
    assert "shard 0, entry 1-2, " in shown.stdout
    assert "the journal has other content under this number" in shown.stdout
    with pytest.raises(FillRefused, match="contradicts it"):
        await shops.fill(1, "rebuild")
    shop = await shops.open(1)  # it goes on as it was
    await shop.hold(("A", 1))
    assert (await run(url, "conflicts", "--settle", answer="n\n")).exit_code == 1
    settled = await run(url, "conflicts", "--settle", "--yes")
    assert (settled.exit_code, "1 settled" in settled.stdout) == (0, True)
    await shops.journal(1)
    assert (await run(url, "conflicts")).exit_code == 0
    assert await journal_said(url, 10) == []


async def test_the_bench_sees_every_key_that_is_not_what_it_was(shops: Shops, database: asyncpg.Connection) -> None:
    before = await dump(as_owner(shops.urls[0]), await times_of_entries(database, 1))
    assert before.kinds == {"sku": 1, "feed": 1, "locations": 1, "client": 1, "reservation": 1}
    filled = await shops.fill(1, "rebuild")
    times = await times_of_entries(database, filled.epoch)
    assert await dump(as_owner(shops.urls[0]), times) == before
    with Redis.from_url(as_owner(shops.urls[0])) as client:
        for key in before.digests:
            kept = client.dump(key)
            assert isinstance(kept, bytes)
            client.delete(key)
            assert (await dump(as_owner(shops.urls[0]), times)).digests.keys() == before.digests.keys() - {key}
            client.restore(key, 0, kept)
        position = client.hget("{s0}:sku:A", "S1")
        assert isinstance(position, bytes)
        client.hset("{s0}:sku:A", "S1", position.replace(b"\x0a", b"\x0b", 1))
    assert (await dump(as_owner(shops.urls[0]), times)).digests != before.digests
