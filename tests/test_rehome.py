"""The ledger with another number of shards: what it knew it knows, what it did it does not do again (P3, P5 to P8)."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import msgspec
import pytest
from books import live_shortages
from folding import assert_folds
from journal_entries import following
from ledgers import START_MS, Clock, Shop
from msgspec.structs import replace
from redis import Redis
from servers import as_owner, as_user
from waiting import wait_until

from availability import access
from availability.event_shapes import events_of
from ledger import (
    Filled,
    FillPlan,
    FillRefused,
    Filters,
    Journal,
    Ledger,
    NotFilled,
    Place,
    Reservations,
    Unavailable,
    fill_anew,
    migrate,
)
from ledger import messages as m
from ledger.identity import event_key
from ledger.journal.epochs import Epochs
from ledger.journal.index import Index
from ledger.keys import shard_of
from ledger.shard import Limits, Shard

pytestmark = pytest.mark.anyio

SKUS = ["A", "B:{}%1", "E", "SHOE"]


@pytest.fixture
def client(valkey_url: str) -> Redis:
    return Redis.from_url(as_owner(valkey_url))


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Shops:
    """One shop after the other, each with a ledger of another number of shards."""

    def __init__(self, valkey_url: str, postgres_url: str, clock: Clock) -> None:
        self.urls = valkey_url, postgres_url
        self.clock = clock
        self.client = Redis.from_url(as_owner(valkey_url))
        self.ledger: Ledger | None = None
        self.configured = 1

    async def open(self, shards: int) -> Shop:
        await self.close()
        self.ledger = Ledger(self.urls[0], shards=shards, now_ms=self.clock)
        return Shop(self.ledger, self.clock)

    async def direct(self, shard: int, *operations: m.Operation) -> list[Any]:
        """What one shard answers."""
        limits = Limits(10**6, 5, 5_000, 10**6, 10**6, 4)
        link = Shard(
            *(self.urls[0], shard, limits),
            now_ms=self.clock,
            observe=lambda _operations, _seconds: None,
            refusal=lambda _shard, _run: None,
        )
        answers = [(await link.send([operation]))[0] for operation in operations]
        await link.close()
        return answers

    async def close(self) -> None:
        if self.ledger is not None:
            await self.ledger.close()
            self.ledger = None

    async def fill(
        self,
        shards: int,
        reason: Any = "rehome",
        progress: Callable[[str, int, int], None] | None = None,
        *,
        damaged: bool = False,
    ) -> Filled:
        await self.close()
        await migrate(self.urls[1])  # the operator's tools find the schema there
        plan = FillPlan(
            as_user(self.urls[0], access.OPERATOR),
            as_user(self.urls[1], access.OPERATOR),
            shards,
            reason,
            self.configured,
            damaged,
        )
        return await fill_anew(plan, progress or (lambda _step, _done, _total: None))

    async def journal(self, shards: int) -> None:
        """Postgres gets all that these shards have done."""
        await migrate(self.urls[1])
        journal = await Journal.open(self.urls[1])
        for shard in range(shards):
            last: Any = self.client.xrevrange(f"{{s{shard}}}:journal", count=1)
            goal = last[0][0].decode() if last else str(Place(0, 0))

            async def has_all(shard: int = shard, goal: str = goal) -> bool:
                return str((await journal.cursor(shard)).place) == goal

            async with following(*self.urls, shard):
                await wait_until(has_all)
        await journal.close()

    async def rehome(self, shards: int) -> Shop:
        filled = await self.fill(shards)
        assert filled.shards == shards
        for shard in range(shards):
            if self.client.xlen(f"{{s{shard}}}:journal"):
                assert_folds(self.client, shard, filled.epoch)
        return await self.open(shards)


@pytest.fixture
async def shops(valkey_url: str, postgres_url: str, clock: Clock) -> AsyncIterator[Shops]:
    shops = Shops(valkey_url, postgres_url, clock)
    yield shops
    await shops.close()


class Life:
    """One of everything that a ledger knows; ``check`` asks for all of it."""

    async def begin(self, shop: Shop) -> None:
        for location in ("S1", "S2:%"):
            await shop.open(location)
        for sku in SKUS:
            await shop.stock(sku, 100, id=f"opening {sku}", at_ms=START_MS - 100_000)
        await shop.event("delta", "A", -7, id="sale", at_ms=START_MS - 50_000)
        await shop.event("delta", "A", -2, id="wrong", at_ms=START_MS - 40_000)
        await shop.event("move", "E", 3, id="damage", at_ms=START_MS - 1_000, to_bucket="damaged")
        self.counted = await shop.ledger.count(count())
        await shop.open("S3", authority="wms")
        await shop.stock("SHOE", 40, "S3", source="erp", id="what erp thinks", at_ms=START_MS)
        await shop.stock("LOST", 5)
        await shop.hold(("LOST", 4))
        await shop.event("delta", "LOST", -4, at_ms=START_MS + 1)
        await shop.ledger.put_safety_stock(
            m.PutSafetyStock("ops", [m.SafetyStock("A", "S1", 3), m.SafetyStock("later", "S1", 2)])
        )
        self.basket = (await shop.hold(*((sku, 10) for sku in SKUS), key="basket", customer="ann")).id
        await shop.commit(self.basket, (1, 8), (2, 8), (3, 8), (4, 8), key="basket commit")
        await shop.pick(self.basket, (1, 6), (2, 6), key="basket pick")
        await shop.ship(self.basket, (1, 5), (4, 2), key="basket ship", occurred_at_ms=START_MS - 20_000)
        await shop.give_back(self.basket, (1, 2), (4, 1), key="basket return")
        await shop.cancel(self.basket, (3, 8), key="basket cancel")
        self.short = (await shop.hold(("A", 5), ("B:{}%1", 1), key="short", ttl_ms=5_000)).id
        self.ended = (await shop.hold(("A", 1), ("E", 2), key="ended")).id
        await shop.release(self.ended, key="ended release")
        self.single = (await shop.hold(("SHOE", 4), key="single", client="app:%")).id
        await shop.extend(self.single, 70_000, key="single extend", client="app:%")
        self.seen = await self.see(shop)

    async def see(self, shop: Shop) -> dict[str, Any]:
        """What clients can see, without receipts."""
        found = {}
        for id_, owner in ((self.basket, "web"), (self.short, "web"), (self.ended, "web"), (self.single, "app:%")):
            answer = await shop.ledger.find(m.Find(id_, owner))
            record = answer.reservation
            found[id_] = [
                getattr(record, name) for name in record.__struct_fields__ if name not in ("epoch", "seq", "span")
            ]
        items = [m.ReadItem(sku) for sku in [*SKUS, "LOST", "never"]]
        locations = await shop.ledger.locations(m.Locations())
        views = await shop.ledger.views(m.Views("SHOE"))
        assert [view.quantity for view in views.views] == [40]
        return {
            "views": views,
            "found": found,
            "items": (await shop.ledger.read(m.Read(items))).items,
            "locations": locations,
        }

    async def check(self, shop: Shop) -> None:
        assert await self.see(shop) == self.seen
        await self.check_replays(shop)
        assert (await shop.event("delta", "A", -7, id="sale", at_ms=START_MS - 50_000)).outcome == "duplicate"
        assert (await shop.event("delta", "A", -8, id="sale", at_ms=START_MS - 50_000)).reason == "conflict"
        assert isinstance(await shop.ledger.count(count(fingerprint="call:other")), m.KeyReused)
        again = await shop.ledger.count(count())
        assert (again.replayed, [result.outcome for result in again.results]) == (True, ["duplicate"] * 3)
        assert await self.see(shop) == self.seen

    async def check_replays(self, shop: Shop) -> None:
        """P3: every key is known, with its own request and no other."""
        replays = [
            await shop.hold(*((sku, 10) for sku in SKUS), key="basket", customer="ann"),
            await shop.commit(self.basket, (1, 8), (2, 8), (3, 8), (4, 8), key="basket commit"),
            await shop.pick(self.basket, (1, 6), (2, 6), key="basket pick"),
            await shop.ship(self.basket, (1, 5), (4, 2), key="basket ship", occurred_at_ms=START_MS - 20_000),
            await shop.give_back(self.basket, (1, 2), (4, 1), key="basket return"),
            await shop.cancel(self.basket, (3, 8), key="basket cancel"),
            await shop.release(self.ended, key="ended release"),
            await shop.extend(self.single, 70_000, key="single extend", client="app:%"),
        ]
        assert all(isinstance(replay, m.Done) and replay.replayed for replay in replays)
        assert isinstance(await shop.hold(("A", 1), key="basket", fingerprint="call:other"), m.KeyReused)
        assert isinstance(await shop.pick(self.basket, key="basket commit"), m.KeyReused)


def count(fingerprint: str = "call:count") -> m.Count:
    events = [
        m.StockEvent(event_key("ann", f"count {sku}"), "ann", f"count {sku}", "snapshot", sku, "S2:%", 5, START_MS - 10)
        for sku in SKUS[:3]
    ]
    return m.Count(fingerprint, "ann", "S2:%", "monday", events)


async def test_all_that_a_ledger_knows_survives_every_change_of_its_shards(shops: Shops) -> None:
    """P3, P5, P6, P7, P8."""
    assert len({shard_of(sku, 4) for sku in SKUS}) == 4
    life = Life()
    await life.begin(await shops.open(1))
    for shards in (4, 2, 1):
        shop = await shops.rehome(shards)
        await life.check(shop)
    shop = await shops.rehome(4)
    await life.check(shop)
    await check_stock_goes_on(shop)
    await check_safety_stock_goes_on(shop, shops.client)
    await check_reservations_go_on(shop, life)


async def check_stock_goes_on(shop: Shop) -> None:
    """P8: the window is the same, to the last event."""
    before = (await shop.position("A")).on_hand
    retraction = await shop.event(
        "delta", "A", -2, id="wrong again", at_ms=START_MS, reverses=event_key("wms", "wrong")
    )
    assert (retraction.outcome, (await shop.position("A")).on_hand) == ("applied", before + 2)
    # A snapshot of before the sale and the shipment: both are added to it again, and what came back.
    assert (await shop.stock("A", 50, at_ms=START_MS - 60_000)).on_hand == 50 - 7 - 5 + 2
    assert (await shop.stock("A", 50, at_ms=START_MS - 200_000)).outcome == "superseded"


async def check_safety_stock_goes_on(shop: Shop, client: Redis) -> None:
    """P1: what is overcommitted is so since when it was, and what waits for its first count still waits."""
    assert live_shortages(client, shard_of("LOST", 4)) == {("LOST", "S1"): (3, START_MS)}
    await shop.stock("later", 9)
    assert ((await shop.position("later")).available, (await shop.position("A")).safety_stock) == (7, 3)


async def check_reservations_go_on(shop: Shop, life: Life) -> None:
    """P5: deadlines are kept, and every verb goes on where it was."""
    assert (await shop.position("B:{}%1")).held == 3
    shop.clock.now_ms += 5_000
    assert (await shop.position("B:{}%1")).held == 2
    found = await shop.ledger.find(m.Find(life.short, "web"))
    assert found.reservation.status == "expired"
    committed = await shop.commit(life.short, reacquire=True)
    assert isinstance(committed, m.Done)
    shipped = await shop.ship(life.basket)
    assert [line.shipped for line in shipped.reservation.lines] == [6, 8, 0, 7]
    returned = await shop.give_back(life.basket, (2, 1))
    assert returned.reservation.lines[1].returned == 1
    assert (await shop.move(life.basket, 3, "S2:%")).reservation.lines[2].location == "S2:%"
    await shop.ledger.expire(m.Expire())


async def test_a_count_that_was_half_taken_is_finished_by_its_repetition(shops: Shops) -> None:
    """P3, P8: the portions are others now, so each of its events is looked at again."""
    await Life().begin(await shops.open(4))
    whole = m.Count(
        "call:half",
        "ann",
        "S1",
        "tuesday",
        [
            m.StockEvent(event_key("ann", f"half {sku}"), "ann", f"half {sku}", "snapshot", sku, "S1", 77, START_MS)
            for sku in SKUS
        ],
    )
    home = shard_of("S1 ann tuesday", 4)
    here = [event for event in whole.events if shard_of(event.sku, 4) == home]
    (first,) = await shops.direct(home, replace(whole, events=here))
    assert isinstance(first, m.Counted)
    shop = await shops.rehome(1)
    counted = await shop.ledger.count(whole)
    assert [result.outcome for result in counted.results].count("applied") == len(SKUS) - len(here)
    assert (await shop.ledger.count(whole)).replayed


async def test_windows_that_were_folded_and_parts_that_were_dropped_fold_too(shops: Shops) -> None:
    """P7: what is gone is gone from the fold as well."""
    shop = await shops.open(4)
    await shop.open()
    events = [
        m.StockEvent(f"key{number}", "wms", f"sale {number}", "delta", "A", "S1", 1, START_MS + number)
        for number in range(600)
    ]
    await shop.ledger.apply(m.Apply("feed", events))
    shard = shard_of("A", 4)
    assert shops.client.hlen(f"{{s{shard}}}:feed:A:S1") < 600
    line = m.PartLine(1, "A", "S1", 5, 5)
    prepared, dropped = await shops.direct(
        shard,
        m.Prepare("dropped", "call:a", "web", "token", [line], [0, shard], None, None, m.TIME_MS_MAX),
        m.Drop("dropped", "token"),
    )
    assert (type(prepared), type(dropped)) == (m.Done, m.Finished)
    assert_folds(shops.client, shard)
    shop = await shops.rehome(1)
    assert (await shop.position("A")).available == 600
    assert (await shop.event("delta", "A", 1, at_ms=START_MS + 1)).reason == "late"


async def test_the_journal_has_no_gap_and_each_epoch_tells_all(shops: Shops, postgres_url: str) -> None:
    """P7."""
    life = Life()
    await life.begin(await shops.open(1))
    for shards in (4, 2):
        shop = await shops.rehome(shards)
        await shop.stock("A", 90, at_ms=START_MS + shards)
    await shops.close()
    await shops.journal(4)
    journal = await Journal.open(as_user(postgres_url, access.API))
    for shard in range(4):
        assert await journal.verify_chain(shard) == []
        entries = [entry async for entry in journal.entries(shard)]
        for epoch in {entry.epoch for entry in entries}:
            assert [e.seq for e in entries if e.epoch == epoch] == list(
                range(1, 1 + sum(e.epoch == epoch for e in entries))
            )
    await journal.close()


async def test_processes_of_other_settings_are_refused(shops: Shops, valkey_url: str, clock: Clock) -> None:
    """P9: by what the ledger itself says, whether they were connected before or not."""
    old = await shops.open(1)
    await Life().begin(old)
    ledger, shops.ledger = shops.ledger, None
    with pytest.raises(FillRefused, match="stop `serve`"):
        await shops.fill(4)
    assert isinstance(await old.hold(("A", 1)), m.Done)

    await shops.fill(4, reason="rebuild")  # which does not mind them
    with pytest.raises(Unavailable, match="the ledger has 4 shards, the settings say 1: set shards = 4, or run"):
        await old.hold(("A", 1))
    assert ledger is not None
    assert not (await ledger.check()).ready
    await ledger.close()
    await shops.open(4)
    for said, there in ((2, 4), (5, 4), (4, 2)):
        if there == 2:
            await shops.fill(2)
        other = Ledger(valkey_url, shards=said, now_ms=clock)
        state = await other.check()
        assert [f"the ledger has {there} shards" in reason for reason in state.reasons] == [True] * said
        await other.close()


async def test_a_new_ledger_has_the_shards_of_who_wrote_first(valkey_url: str, clock: Clock) -> None:
    """P9: also those of its shards that have nothing yet refuse others."""
    one, four = Ledger(valkey_url, now_ms=clock), Ledger(valkey_url, shards=4, now_ms=clock)
    await Shop(one, clock).open()
    with pytest.raises(Unavailable, match="has 1 shards"):
        await four.read(m.Read([m.ReadItem(sku) for sku in SKUS]))
    await one.close()
    await four.close()


async def test_what_makes_no_sense_is_refused(shops: Shops) -> None:
    with pytest.raises(FillRefused, match="is empty"):
        await shops.fill(4)
    await Life().begin(await shops.open(1))
    with pytest.raises(FillRefused, match="has 1 shards already"):
        await shops.fill(1)


async def test_what_is_put_back_is_no_news_and_is_found_where_it_is(shops: Shops, postgres_url: str) -> None:
    """No event tells of it again, and the search has one row of each reservation, of the shard that has it now."""
    life = Life()
    await life.begin(await shops.open(1))
    for shards in (4, 2):
        await shops.fill(shards)
    await shops.journal(4)
    journal = await Journal.open(as_user(postgres_url, access.API))
    entries = [entry async for entry in journal.entries(1, after=Place(3, 0))]
    assert entries
    assert events_of(1, entries, stale_after_ms=1) == []
    await journal.close()
    for shard in range(4):
        index = await Index.open(as_user(postgres_url, access.JOURNAL), shard)
        while await index.advance():
            pass
        await index.close()
    reservations = await Reservations.open(as_user(postgres_url, access.API), shards=2)
    page = await reservations.search("app:%", Filters(sku="SHOE", status="held"))
    await reservations.close()
    assert [(found.id, found.shard, found.reservation.lines[0].held) for found in page.reservations] == [
        (life.single, shard_of("SHOE", 2), 4)
    ]


class Killed(BaseException):
    """Stands for kill -9: nothing is cleaned up on purpose after it."""


@pytest.mark.parametrize("step", ["drain", "fold", "clear", "restore", "journal", "compare"])
async def test_killed_at_any_step_it_ends_right_when_begun_again(shops: Shops, step: str) -> None:
    """P7."""
    life = Life()
    await life.begin(await shops.open(1))

    def kill(at: str, _done: int, _total: int) -> None:
        if at == step:
            raise Killed

    with pytest.raises((Killed, BaseExceptionGroup)):
        await shops.fill(4, progress=kill)
    old = await shops.open(1)
    with pytest.raises(Unavailable, match="being filled anew"):
        await old.hold(("A", 1))
    await life.check(await shops.rehome(4))


async def has_epochs(postgres_url: str) -> Epochs:
    """As one that fills the ledger has them."""
    epochs = await Epochs.open(as_user(postgres_url, access.OPERATOR))
    assert isinstance(epochs, Epochs)
    return epochs


async def test_what_a_killed_one_left_at_postgres_is_waited_for_and_else_named(
    shops: Shops, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P7: its session, and the lock with it, may live a moment longer than its process."""
    life = Life()
    await life.begin(await shops.open(1))
    left = await has_epochs(postgres_url)
    steps: list[str] = []

    def end_it(step: str, _done: int, _total: int) -> None:
        if step == "wait" and step not in steps:
            asyncio.get_running_loop().create_task(left.close())
        steps.append(step)

    await shops.fill(2, progress=end_it)
    assert (steps[0], steps[-1]) == ("wait", "compare")

    monkeypatch.setattr("ledger.journal.epochs.WAIT_S", 0.2)
    other = await has_epochs(postgres_url)
    with pytest.raises(
        FillRefused, match=r"is under way: Postgres's session (\d+), from 127.0.0.1:\d+, since 20"
    ) as told:
        await shops.fill(4)
    session = re.search(r"pg_terminate_backend\((\d+)\)", str(told.value))
    assert session is not None
    database = await asyncpg.connect(postgres_url)
    assert await database.fetchval("select pg_terminate_backend($1)", int(session[1]))
    await database.close()
    await life.check(await shops.rehome(4))
    await other.close()


async def test_what_is_not_what_was_folded_is_not_opened(shops: Shops, client: Redis) -> None:
    """P7: as when a bit turned over while it was put back."""
    life = Life()
    await life.begin(await shops.open(1))

    def change_a_position(at: str, _done: int, _total: int) -> None:
        if at == "journal":
            [location, *_] = client.hkeys("{s0}:sku:A")
            packed: Any = client.hget("{s0}:sku:A", location)
            position = msgspec.msgpack.decode(packed)
            client.hset("{s0}:sku:A", location, msgspec.msgpack.encode([position[0] + 1, *position[1:]]))

    with pytest.raises(NotFilled, match="1 positions differ"):
        await shops.fill(1, "rebuild", change_a_position)
    old = await shops.open(1)
    with pytest.raises(Unavailable, match="being filled anew"):
        await old.hold(("A", 1))
    await shops.fill(1, "rebuild")
    await life.check(await shops.open(1))


@pytest.mark.parametrize(
    ("removal", "told"),
    [
        ("delete from availability.entry where seq = 3", "its entry 1-4 follows a gap"),
        ("update availability.entry set body = body || '\\x00' where seq = 3", "its entry 1-3 is not what the chain"),
        ("delete from availability.entry where seq > (select max(seq) - 3 from availability.entry)", "it ends at 1-"),
        ("delete from availability.entry", "it ends at 1-0, and its cursor is at"),
    ],
)
async def test_a_damaged_journal_is_not_taken_for_the_truth(
    shops: Shops, client: Redis, database: asyncpg.Connection, removal: str, told: str
) -> None:
    """P2: what was acknowledged and is missing there would be undone."""
    life = Life()
    await life.begin(await shops.open(1))
    await shops.close()
    await shops.journal(1)
    client.xtrim("{s0}:journal", maxlen=2, approximate=False)
    await database.execute(removal)
    for shards, reason in ((1, "rebuild"), (2, "rehome")):
        with pytest.raises(FillRefused, match=told):
            await shops.fill(shards, reason)
    await life.check(await shops.open(1))  # it goes on as it was
    filled = await shops.fill(1, "rebuild", damaged=True)
    assert filled.damages > 0


async def test_what_the_stream_still_has_is_taken_from_there(shops: Shops, database: asyncpg.Connection) -> None:
    """P2."""
    life = Life()
    await life.begin(await shops.open(1))
    await shops.close()
    await shops.journal(1)
    await database.execute("delete from availability.entry where seq > (select max(seq) - 3 from availability.entry)")
    filled = await shops.fill(1, "rebuild")
    assert filled.damages == 0
    await life.check(await shops.open(1))


async def test_a_ledger_that_was_lost_is_rebuilt_from_its_journal(shops: Shops, client: Redis) -> None:
    """P7."""
    life = Life()
    await life.begin(await shops.open(4))
    await shops.close()
    await shops.journal(4)
    client.flushall()
    with pytest.raises(FillRefused, match="set shards = 4"):
        await shops.fill(4, reason="rebuild")
    shops.configured = 4
    filled = await shops.fill(4, reason="rebuild")
    assert (filled.shards, filled.reservations) == (4, 5)
    await life.check(await shops.open(4))
