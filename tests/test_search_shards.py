"""The search over several shards: a reservation is found once and whole, whichever shard was indexed first."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from searched import Searched, contents, stocked
from servers import as_user
from waiting import wait_until

from availability import access, app
from availability.settings import Settings
from ledger import Filters
from ledger import messages as m
from ledger.coalescer import Coalescer
from ledger.journal.index import Index
from ledger.keys import shard_of

pytestmark = pytest.mark.anyio

SHARDS = 4
BASKET = ("SHOE", 3, "S1"), ("BOOT", 2, "S1"), ("SHOE", 1, "S2"), ("SOCK", 4, "S2")
TABLES = ("reservation", "reservation_line", "reservation_part")


@pytest.fixture
async def searched(valkey_url: str, postgres_url: str) -> AsyncIterator[Searched]:
    """A ledger of four shards; each SKU is on its own."""
    assert len({shard_of(sku, SHARDS) for sku in ("SHOE", "BOOT", "SOCK")}) == 3
    async with stocked(valkey_url, postgres_url, shards=SHARDS) as made:
        yield made


async def life(searched: Searched) -> list[str]:
    """Every verb on reservations over three shards, on some lines or all, and one reservation that has one shard."""
    shop = searched.shop
    ids = [await searched.held(*BASKET, customer="C-1", ttl_ms=60_000) for _ in range(8)]
    ids.append(await searched.held(("SHOE", 1, "S1"), ttl_ms=60_000))
    for number, id_ in enumerate(ids[:5]):
        await searched.commit(id_, f"O-{number}")
    await shop.pick(ids[0], (4, 2))
    await shop.ship(ids[0], (2, 2), (4, 1))
    await shop.ship(ids[1])
    await shop.give_back(ids[1], (1, 1), (2, 1))
    await shop.cancel(ids[2], (3, 1))
    await shop.cancel(ids[3])
    await shop.move(ids[4], 2, "S2")
    await shop.release(ids[5])
    await shop.release(ids[6], (4, 4))
    await shop.extend(ids[6], 600_000)
    searched.clock.now_ms += 60_000
    await searched.ledger.expire(m.Expire())
    return ids


async def test_each_is_found_once_and_whole_as_the_ledger_has_it(
    searched: Searched, database: asyncpg.Connection
) -> None:
    ids = await life(searched)
    await searched.journal()

    found = await searched.found()
    assert [each.id for each in found] == ids[::-1]
    lines = set()
    for id_, shard, reservation in found:
        live = await searched.ledger.find(m.Find(id_, "web"))
        assert isinstance(live, m.Found)
        assert (live.shard, live.reservation) == (shard, reservation)
        assert len(reservation.lines) == (1 if id_ == ids[8] else 4)
        lines |= {(line.sku, line.location, id_) for line in reservation.lines}
    rows = await database.fetch("select sku, location, id from availability.reservation_line")
    assert lines == {tuple(row) for row in rows}, "what moved is found where it is now, and there alone"


async def test_the_filters_are_of_the_whole(searched: Searched) -> None:
    """Each is found by its one status, by every one of its lines, and in pages of any size."""
    ids = await life(searched)
    await searched.journal()
    statuses = {each.id: each.reservation.status for each in await searched.found()}
    assert set(statuses.values()) == {"committed", "shipped", "cancelled", "released", "expired", "held"}

    for status in sorted(set(statuses.values())):
        expected = [id_ for id_ in ids[::-1] if statuses[id_] == status]
        assert expected == await searched.ids(status=status), status
        assert [id_ for id_ in expected if id_ != ids[8]] == await searched.ids(status=status, sku="SOCK")
    assert ids[:8][::-1] == await searched.ids(sku="BOOT", customer="C-1")
    assert [ids[4]] == await searched.ids(sku="BOOT", location="S2")
    assert [ids[0]] == await searched.ids(order_id="O-0", sku="SOCK", location="S2")
    for limit, filters in itertools.product((1, 2, 3), ({}, {"sku": "SHOE"}, {"location": "S1"})):
        pages = await searched.pages(limit, **filters)
        assert list(itertools.chain(*pages)) == ids[::-1], (limit, filters)


async def test_it_is_whole_when_the_last_part_is_indexed_and_not_before(searched: Searched) -> None:
    """Whichever shard is the last; its status is then that of all its parts."""
    id_ = await searched.held(*BASKET)
    await searched.shop.release(id_, (1, 3), (2, 2), (3, 1))
    await searched.write()
    for shard in (0, 1, 3):
        assert await searched.ids() == []
        await searched.index(shard)

    assert [id_] == await searched.ids(status="held")
    assert await searched.ids(status="released") == []


async def test_any_order_of_the_shards_and_again_from_the_start_give_the_same(
    searched: Searched, database: asyncpg.Connection
) -> None:
    """One entry of a shard at a time, in turn, or one shard after the other, or over what is there already."""
    await life(searched)
    await searched.journal()
    in_order = await contents(database, TABLES)

    await database.execute(f"truncate {', '.join(f'availability.{table}' for table in TABLES)}")
    await database.execute("update availability.search_cursor set epoch = 0, seq = 0")
    indexes = [await Index.open(as_user(searched.postgres_url, access.JOURNAL), shard) for shard in (3, 0, 2, 1)]
    while sum([await index.advance(entries_max=1) for index in indexes]):
        pass
    for index in indexes:
        await index.close()
    in_turn = await contents(database, TABLES)

    await database.execute("update availability.search_cursor set epoch = 0, seq = 0")
    await searched.index(2, 1, 3, 0)

    assert in_order == in_turn
    assert in_order == await contents(database, TABLES)


async def test_over_old_entries_again_it_does_not_go_back_in_time(
    searched: Searched, database: asyncpg.Connection
) -> None:
    await life(searched)
    await searched.journal()
    found = await searched.found()

    for shard in range(SHARDS):
        await database.execute("update availability.search_cursor set epoch = 0, seq = 0 where shard = $1", shard)
        index = await Index.open(as_user(searched.postgres_url, access.JOURNAL), shard)
        while await index.advance(entries_max=1):
            assert found == await searched.found()
        await index.close()


async def test_two_indexers_at_once_do_not_miss_each_others_part(
    searched: Searched, database: asyncpg.Connection
) -> None:
    """One has stored the last but one part and not ended its transaction when the other comes with the last."""
    await searched.journal()
    id_ = await searched.held(("SHOE", 1, "S1"), ("BOOT", 1, "S1"))
    await searched.write()
    await database.execute(
        "create function at_gate() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(77); return new; end $$;"
        " create trigger gate before update of seq on availability.search_cursor for each row"
        " when (new.shard = 0) execute function at_gate(); select pg_advisory_lock(77)"
    )
    indexes = [await Index.open(as_user(searched.postgres_url, access.JOURNAL), shard) for shard in (0, 1)]

    async def waiting(count: int) -> bool:
        return bool(await database.fetchval("select count(*) = $1 from pg_locks where not granted", count))

    first = asyncio.create_task(indexes[0].advance())
    await wait_until(lambda: waiting(1))
    second = asyncio.create_task(indexes[1].advance())

    async def second_ended_or_waits() -> bool:
        return second.done() or await waiting(2)

    await wait_until(second_ended_or_waits)
    await database.execute("select pg_advisory_unlock(77)")
    await asyncio.gather(first, second)
    for index in indexes:
        await index.close()

    assert [id_] == await searched.ids()


class Died(BaseException):
    """The coordinator is gone, and sees to nothing any more."""


async def test_a_claim_that_did_not_become_a_hold_is_never_found(
    searched: Searched, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped at once, or left behind by a coordinator that died before or between the seals; its key is free again."""
    shop, submit = searched.shop, Coalescer.submit
    await shop.stock("SOCK", 3, "S2")
    refused = await shop.hold(*BASKET, key="again")
    assert isinstance(refused, m.Insufficient)
    await searched.journal()
    assert await searched.ids() == []

    await shop.stock("SOCK", 1_000, "S2", at_ms=searched.clock.now_ms + 1)
    seals_left = 0

    def dies_at_a_seal(self: Coalescer, operation: m.Operation) -> Any:
        nonlocal seals_left
        if isinstance(operation, m.Seal):
            seals_left -= 1
            if seals_left < 0:
                raise Died
        return submit(self, operation)

    # The keeper comes when the claims that were not sealed have ended, or when the sealed ones would have as well.
    for seals, keeper_comes_after_ms in ((0, 6_001), (1, 6_001), (1, 60_001)):
        assert await database.fetchval("select count(*) from availability.reservation_part") == 0
        seals_left = seals
        with monkeypatch.context() as patched:
            patched.setattr(Coalescer, "submit", dies_at_a_seal)
            with pytest.raises(Died):
                await shop.hold(*BASKET, key="again")
        await searched.journal()
        assert await searched.ids() == []
        searched.clock.now_ms += keeper_comes_after_ms
        await searched.ledger.expire(m.Expire())
        await searched.journal()
        assert await searched.ids() == []

    done = await shop.hold(*BASKET, key="again")
    assert isinstance(done, m.Done)
    await searched.journal()
    [found] = await searched.found()
    assert (found.id, found.reservation) == (done.id, done.reservation)


async def test_the_slowest_shard_tells_the_age_of_a_page(searched: Searched, database: asyncpg.Connection) -> None:
    async def as_of_ms() -> int | None:
        return (await searched.search.search("web", Filters())).as_of_ms

    id_ = await searched.held(*BASKET)
    await searched.journal()
    await database.execute("insert into availability.journal_status values (0, 0, 0, false, $1)", 2_000_000_000_000)
    first_ms = await as_of_ms()
    assert first_ms is not None
    assert first_ms <= searched.clock.now_ms, "nobody has looked at the streams of the other shards"

    searched.clock.now_ms += 5_000
    await searched.commit(id_, "O-1")
    await searched.write()
    await searched.index(0, 1)
    assert await as_of_ms() == first_ms
    await database.execute("delete from availability.cursor where shard = 3")
    assert await as_of_ms() is None, "of one shard it is not known"
    async with app._journal(Settings(postgres_url=searched.postgres_url, shards=SHARDS)) as (*_, of_the_api):  # noqa: SLF001
        assert (await of_the_api.search("web", Filters())).as_of_ms is None
