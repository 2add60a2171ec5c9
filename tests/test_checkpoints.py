"""Checkpoints: a fold from one on is the fold from the start, and one that is not what it was is never used (P7)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import fields
from typing import Any

import asyncpg
import pytest
from folding import assert_folds
from ledgers import START_MS, Clock, Shop
from test_rehome import SKUS, Life, Shops

from ledger import CheckpointRefused, Journal, Place, make_checkpoint
from ledger import messages as m
from ledger.journal.checkpoints import Checkpoints
from ledger.journal.fold import FORGOTTEN_AFTER_MS
from ledger.journal.folding import Folding, fold_epoch
from ledger.journal.reader import Generation

pytestmark = pytest.mark.anyio

SHARDS = 4
DAY_MS = 24 * 3_600_000


class World:
    """A ledger of several shards with one of everything, and its journal."""

    def __init__(self, shops: Shops, database: asyncpg.Connection) -> None:
        self.shops = shops
        self.database = database
        self.life = Life()
        self.url = shops.urls[1]

    async def begin(self) -> Shop:
        shop = await self.shops.open(SHARDS)
        await self.life.begin(shop)
        await self.shops.journal(SHARDS)
        return shop

    async def begin_small(self) -> Shop:
        """Something in each shard."""
        shop = await self.shops.open(SHARDS)
        await shop.open()
        for sku in SKUS:
            await shop.stock(sku, 100)
        await self.shops.journal(SHARDS)
        return shop

    async def checkpoint(self) -> int:
        made = await make_checkpoint(self.url, SHARDS)
        assert made.number is not None
        return made.number

    async def newest(self) -> Folding | None:
        checkpoints, journal = await Checkpoints.open(self.url), await Journal.open(self.url)
        try:
            return await checkpoints.newest(journal, 1, SHARDS)
        finally:
            await journal.close()
            await checkpoints.close()

    async def folded(self) -> list[Any]:
        journal = await Journal.open(self.url)
        folds = await fold_epoch(journal, 1, SHARDS)
        await journal.close()
        return [plain(fold) for fold in folds]

    async def ids(self) -> list[int]:
        return [row["id"] for row in await self.database.fetch("select id from availability.checkpoint order by id")]


def plain(fold: Any) -> dict[str, Any]:
    """All of a fold, with the order of what must be in the order of time."""
    told = {each.name: getattr(fold, each.name) for each in fields(fold) if each.name != "siblings"}
    return told | {name: list(told[name].items()) for name in ("ended", "counts")}


@pytest.fixture
async def shops(valkey_url: str, postgres_url: str) -> AsyncIterator[Shops]:
    shops = Shops(valkey_url, postgres_url, Clock())
    shops.configured = SHARDS
    yield shops
    await shops.close()


@pytest.fixture
async def world(shops: Shops, database: asyncpg.Connection) -> World:
    return World(shops, database)


async def live_on(world: World, shop: Shop) -> None:
    """Something of each kind goes on, some of it ends, and a day passes."""
    await shop.release(world.life.single, key="on", client="app:%")
    world.shops.clock.now_ms += DAY_MS // 2
    kept = (await shop.hold(*((sku, 1) for sku in SKUS), key="kept", ttl_ms=DAY_MS)).id
    await shop.commit(kept, key="kept commit")
    await shop.event("delta", "A", -1, id="later", at_ms=START_MS + 5)
    await shop.stock("SHOE", 41, "S3", source="erp", id="erp again", at_ms=START_MS + 9)
    await shop.keep("B:{}%1", 2)
    world.shops.clock.now_ms += FORGOTTEN_AFTER_MS - DAY_MS // 2 + 1
    await shop.ledger.expire(m.Expire())
    await shop.stock("SHOE", 44)
    await world.shops.journal(SHARDS)


OF_ANOTHER = (
    "update availability.checkpoint_chunk as chunk set body = other.body from availability.checkpoint_chunk as other"
    " where other.checkpoint = 1 and chunk.checkpoint = 2 and other.shard = 0 and chunk.shard = 0"
    " and other.number = 1 and chunk.number = 1"
)
A_BIT = (
    "update availability.checkpoint_chunk set body = set_byte(body, 20, get_byte(body, 20) # 1)"
    " where checkpoint = 2 and shard = 1 and number = 0"
)
SPOILED = {
    A_BIT: "chunk 0 of shard 1 is damaged",
    OF_ANOTHER: "it is damaged: its hash is another",
    "delete from availability.checkpoint_chunk where checkpoint = 2 and number = 0": "chunk 0 of shard 0 is missing",
    "update availability.checkpoint set places = set_byte(places, 1, 200) where id = 2": "it is damaged",
    "update availability.checkpoint set hash = sha256('x') where id = 2": "it is damaged: its hash is another",
    "update availability.checkpoint set folded_by = 'older' where id = 2": "another version of this program made it",
}
"""What is done to the newest one, and what is said of it then."""


async def test_a_fold_from_a_checkpoint_on_is_the_fold_from_the_start(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    shop = await world.begin()
    assert await world.checkpoint() == 1
    at_first = await world.newest()
    assert at_first is not None
    assert [plain(fold) for fold in at_first.folds] == await world.folded()
    await live_on(world, shop)
    right = await world.folded()

    made = await make_checkpoint(world.url, SHARDS)

    assert (made.number, made.based_on, made.entries > 0) == (2, 1, True)
    at_second = await world.newest()
    assert at_second is not None
    assert [plain(fold) for fold in at_second.folds] == right
    assert any(world.life.single in fold.reservations for fold in at_first.folds)
    assert not any(world.life.single in fold["reservations"] for fold in right)  # it ended too long ago
    again = await make_checkpoint(world.url, SHARDS)
    assert (again.number, again.based_on, again.entries) == (None, 2, 0)
    await check_spoiled(world, caplog, right)


async def check_spoiled(world: World, caplog: pytest.LogCaptureFixture, right: list[Any]) -> None:
    """One that is not what it was is passed over with a word, whatever is wrong with it, and soon removed."""
    await world.database.execute(
        "create table whole as table availability.checkpoint;create table chunks as table availability.checkpoint_chunk"
    )
    for statement, word in SPOILED.items():
        await world.database.execute(
            "delete from availability.checkpoint; insert into availability.checkpoint table whole;"
            "delete from availability.checkpoint_chunk; insert into availability.checkpoint_chunk table chunks"
        )
        caplog.clear()
        assert (await world.database.execute(statement)).split()[1] != "0"
        folding = await world.newest()
        assert folding is not None, statement
        assert folding.checkpoint == 1, statement
        assert f"checkpoint 2 is not used: {word}" in caplog.text
    made = await make_checkpoint(world.url, SHARDS)
    assert (made.number, made.based_on) == (3, 1)
    folding = await world.newest()
    assert folding is not None
    assert [plain(fold) for fold in folding.folds] == right
    assert await world.ids() == [1, 3]


async def test_a_ledger_is_rebuilt_from_a_checkpoint_and_what_came_after_it(world: World) -> None:
    shop = await world.begin()
    number = await world.checkpoint()
    assert (await shop.hold(("A", 1), key="after it", ttl_ms=DAY_MS)).id
    await world.shops.journal(SHARDS)
    told: dict[str, int] = {}
    world.shops.client.flushall()

    filled = await world.shops.fill(SHARDS, "rebuild", lambda step, done, _total: told.__setitem__(step, done))

    assert (filled.checkpoint, filled.movements, filled.reservations, filled.damages) == (number, 1, 6, 0)
    assert {"load", "fold", "clear", "restore", "journal", "compare"} <= told.keys()
    for shard in range(SHARDS):
        assert_folds(world.shops.client, shard, filled.epoch)
    shop = await world.shops.open(SHARDS)
    assert (await shop.hold(("A", 1), key="after it", ttl_ms=DAY_MS)).replayed
    await world.life.check_replays(shop)
    await check_the_next_epoch(world, filled.epoch)


async def check_the_next_epoch(world: World, epoch: int) -> None:
    """One of an epoch of before, or of another number of shards, is not used, and goes with the next that is made."""
    checkpoints, journal = await Checkpoints.open(world.url), await Journal.open(world.url)
    assert await checkpoints.newest(journal, epoch, SHARDS) is None
    assert await checkpoints.newest(journal, 1, SHARDS - 1) is None
    assert await journal.generation(1) == Generation(epoch, SHARDS)
    made = await make_checkpoint(world.url, 1)
    assert (made.based_on, await world.ids()) == (None, [made.number])
    await checkpoints.close()
    await journal.close()


async def test_one_of_another_journal_is_not_used(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The entry at its place is another, as after a backup of Postgres was put back."""
    await world.begin_small()
    await world.checkpoint()
    await world.database.execute(
        "update availability.entry set hash = sha256('x') where shard = 2"
        " and seq = (select max(seq) from availability.entry where shard = 2)"
    )
    assert await world.newest() is None
    assert "the journal of shard 2 is not the one that it was made from" in caplog.text
    with pytest.raises(CheckpointRefused, match="the journal is damaged in 1 places"):
        await world.checkpoint()


async def test_there_is_one_maker_at_a_time_and_two_checkpoints_are_kept(world: World) -> None:
    shop = await world.begin_small()
    other = await Checkpoints.open(world.url)
    assert await other.be_the_maker()
    with pytest.raises(CheckpointRefused, match="another checkpoint is being made"):
        await world.checkpoint()
    await other.close()
    await world.database.execute("insert into availability.checkpoint_chunk values (7, 0, 0, 'broken off')")
    for number in range(8, 12):
        assert await _when_free(world.checkpoint) == number
        await shop.hold(("A", 1))
        await world.shops.journal(SHARDS)
    await check_due(world, shop)
    assert await world.ids() == [10, 11]
    kept = await world.database.fetch("select distinct checkpoint from availability.checkpoint_chunk order by 1")
    assert [row["checkpoint"] for row in kept] == [10, 11]


async def _when_free(make: Callable[[], Awaitable[int]]) -> int:
    """The session that had the lock may take a moment to end."""
    while True:
        try:
            return await make()
        except CheckpointRefused:
            continue


async def check_due(world: World, shop: Shop) -> None:
    """After so many movements."""
    checkpoints = await Checkpoints.open(world.url)
    assert await checkpoints.movements() == await world.database.fetchval("select count(*) from availability.movement")
    assert await checkpoints.movements_since() == 1
    await shop.hold(("A", 1))
    await world.shops.journal(SHARDS)
    assert await checkpoints.movements_since() == 2
    await checkpoints.close()


async def test_an_empty_journal_has_none(world: World) -> None:
    await world.shops.journal(0)
    with pytest.raises(CheckpointRefused, match="the journal is empty"):
        await world.checkpoint()


async def test_shards_are_folded_up_to_where_all_have_told_all(world: World) -> None:
    """What one shard tells later than the others must still be taken before what these told after it."""
    shop = await world.begin_small()
    last = {shard: await _end(world, shard) for shard in range(SHARDS)}
    world.shops.clock.now_ms += 1_000
    await shop.hold(("A", 1))
    await world.shops.journal(SHARDS)
    await world.checkpoint()
    folding = await world.newest()
    assert folding is not None
    assert {shard: cursor.place for shard, cursor in enumerate(folding.cursors)} == last
    world.shops.clock.now_ms += 61_000  # the others are taken to be idle
    await shop.hold(("A", 1))
    await world.shops.journal(SHARDS)
    await world.checkpoint()
    folding = await world.newest()
    assert folding is not None
    assert {shard: cursor.place for shard, cursor in enumerate(folding.cursors)} != last
    assert [plain(fold) for fold in folding.folds] == await world.folded()


async def _end(world: World, shard: int) -> Place:
    journal = await Journal.open(world.url)
    cursor = await journal.cursor(shard)
    await journal.close()
    return cursor.place
