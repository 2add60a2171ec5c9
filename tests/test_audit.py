"""The audit finds what is planted behind the ledger's back, classes it right, and invents nothing while a sale runs.

P6, P7. Each difference is made in the real Valkey or Postgres, by changing what they have.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest
from journal_entries import entry, following, hold
from ledgers import Clock, Shop
from msgspec.structs import replace
from redis import Redis
from servers import as_owner, as_user
from waiting import wait_until

from availability import access
from ledger import (
    SCOPES,
    WHOLE,
    Audit,
    AuditScope,
    Done,
    FillPlan,
    FillRefused,
    Journal,
    Kind,
    Ledger,
    NotAudited,
    Place,
    fill_anew,
    migrate,
)
from ledger.comparing import Comparison, Told
from ledger.journal.books import Books, Unbalanced
from ledger.keys import shard_of
from ledger.messages import Expire, JournalEntry, PartLine, Prepare

pytestmark = pytest.mark.anyio

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
ON_HAND, HELD = 0, 1
TAG = "{s0}:"


@pytest.fixture(autouse=True)
def nobody_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keeper runs here that could be waited for."""
    monkeypatch.setattr("ledger.shard_audit.LATE_LOOK_S", 0.0)


@asynccontextmanager
async def journaled(valkey_url: str, postgres_url: str, clock: Clock, shards: int = 1) -> AsyncIterator[Shop]:
    """A shop whose ledger is journaled when the block ends."""
    await migrate(postgres_url)
    ledger = Ledger(valkey_url, shards=shards, now_ms=clock)
    journal = await Journal.open(postgres_url)
    try:
        yield Shop(ledger, clock)
        for shard in range(shards):
            place = (await ledger.standing(shard, Place(1, 1))).place

            async def complete(shard: int = shard, place: Place = place) -> bool:
                return (await journal.cursor(shard)).place >= place

            async with following(valkey_url, postgres_url, shard):
                await wait_until(complete)
    finally:
        await ledger.close()
        await journal.close()


@asynccontextmanager
async def audited(
    valkey_url: str, postgres_url: str, shards: int = 1, scopes: Sequence[AuditScope] = WHOLE
) -> AsyncIterator[Audit]:
    urls = as_user(valkey_url, access.KEEPER), as_user(postgres_url, access.KEEPER)
    audit = await Audit.open(*urls, shards, scopes=scopes)
    try:
        yield audit
    finally:
        await audit.close()


async def found(audit: Audit, scopes: Sequence[AuditScope] = WHOLE) -> set[tuple[Kind, str]]:
    """What one round of each scope finds: kinds and subjects."""
    async for _ in audit.round(*scopes):
        pass
    differences = audit.differences
    assert audit.counts == Counter(difference.kind for difference in differences)
    return {(difference.kind, difference.subject) for difference in differences}


async def announced(database: asyncpg.Connection) -> None:
    """As if the outbox had come to the end."""
    await database.execute("delete from availability.outbox_cursor")
    await database.execute("insert into availability.outbox_cursor select shard, epoch, seq from availability.cursor")


def change(client: Redis, key: str, location: str, edit: Callable[[list[Any]], None]) -> None:
    """Write a packed array of a hash anew, as nobody but the script may."""
    packed: Any = client.hget(TAG + key, location)
    fields = unpack(packed)
    edit(fields)
    client.hset(TAG + key, location, pack(fields))


def add(index: int, units: int) -> Callable[[list[Any]], None]:
    def edit(fields: list[Any]) -> None:
        fields[index] += units

    return edit


async def reservation(shop: Shop, sku: str, **fields: Any) -> str:
    held = await shop.hold((sku, 2), **fields)
    assert isinstance(held, Done)
    return held.id


async def test_each_planted_difference_is_found_and_classed(
    valkey_url: str, postgres_url: str, database: asyncpg.Connection
) -> None:
    clock = Clock()
    async with journaled(valkey_url, postgres_url, clock) as shop:
        await shop.open()  # 1
        await shop.open("S2")  # 2
        for sku in ("A", "B", "C", "D"):
            await shop.stock(sku, 10)  # 3 to 6
        await shop.open("S2", name="moved")  # 7
        await shop.stock("E:{}%", 10)  # 8
        overdue = await reservation(shop, "C", ttl_ms=1_000)
        clock.now_ms += 120_000
        changed, lost, copied = [await reservation(shop, sku, client=sku) for sku in ("D", "D", "E:{}%")]
    async with audited(valkey_url, postgres_url) as audit:
        late: set[tuple[Kind, str]] = {("hold-overdue", overdue), ("events-behind", "shard 0")}
        assert await found(audit) == late
        await announced(database)
        late.remove(("events-behind", "shard 0"))
        assert await found(audit) == late

    with Redis.from_url(as_owner(valkey_url)) as client:
        change(client, "sku:A", "S1", add(ON_HAND, 5))
        client.hdel(TAG + "sku:B", "S1")
        client.hset(TAG + "sku:GHOST", "S1", pack([1] + [0] * 9))
        record: Any = client.get(TAG + "op:" + changed)
        fields = unpack(record)
        fields[11][0][4] += 1
        client.set(TAG + "op:" + changed, pack(fields))
        client.delete(TAG + "op:" + lost)
        client.copy(TAG + "op:" + copied, TAG + "op:invented")
        client.set(TAG + "client:E%3A%7B%7D%25", pack([1, 9]))
    body = await database.fetchval("select body from availability.entry where seq = 4")
    await database.execute("update availability.entry set body = $1 where seq = 4", body.replace(b"wms", b"WMS"))
    await database.execute("delete from availability.entry where seq = 7")
    await database.execute("delete from availability.movement where seq = 3")
    await database.execute("update availability.movement set client = 'x' where seq = 5")
    await database.execute("update availability.cursor set seq = seq - 1")
    planted = late | {
        ("position-differs", "A@S1"),
        ("position-lost", "B@S1"),
        ("position-unjournaled", "GHOST@S1"),
        ("reservation-differs", changed),
        ("claim-without-reservation", lost),
        ("operation-differs", lost),
        ("location-differs", "locations"),  # of which an entry is missing
        ("reservation-unjournaled", "invented"),
        ("client-differs", "E:{}%"),
        ("journal-altered", "1-4"),
        ("journal-gap", "1-8"),
        ("movements-differ", "1-3"),
        ("movements-differ", "1-5"),
        ("journal-cursor", "1-11"),
    }
    async with audited(valkey_url, postgres_url) as audit:
        assert await found(audit) == planted
        assert await found(audit) == planted  # and not twice as many
        by_subject = {(difference.kind, difference.subject): difference for difference in audit.differences}
    async with audited(valkey_url, postgres_url, scopes=SCOPES) as audit:  # as the keeper does
        assert await found(audit, SCOPES) == planted
    position = by_subject["position-differs", "A@S1"]
    assert (position.live, position.journal) == ({"on_hand": 15}, {"on_hand": 10, "claimed by reservations": 0})
    assert position.entries == []  # its only movement was taken away
    line = by_subject["reservation-differs", changed]
    assert line.entries == ["1-10"]
    assert line.live is not None
    assert line.journal is not None
    assert (line.live["line 1"]["held"], line.journal["line 1"]["held"]) == (3, 2)


async def sell(shop: Shop, chance: random.Random, done: asyncio.Event, skus: list[str]) -> int:
    """Everything that a sale does, as fast as it is answered; how much it was."""
    count = 0
    while not done.is_set():
        count += 1
        lines = [(sku, chance.randint(1, 3)) for sku in chance.sample(skus, chance.randint(1, 3))]
        held = await shop.hold(*lines, ttl_ms=chance.choice((1, 60_000)), client=chance.choice(("web", "app")))
        if not isinstance(held, Done):
            await shop.stock(chance.choice(skus), 500)
            continue
        client = held.reservation.client
        follow = chance.choice(("commit", "release", "extend", ""))
        if follow == "extend":
            await shop.extend(held.id, 5_000, client=client)
        elif follow == "release":
            await shop.release(held.id, client=client)
        elif follow == "commit":
            await shop.commit(held.id, client=client)
            await chance.choice((shop.ship, shop.pick, shop.cancel))(held.id, client=client)
        if chance.random() < 0.1:
            await shop.event("delta", chance.choice(skus), chance.randint(-2, 2))
        shop.clock.now_ms += 1
    return count


@pytest.mark.parametrize(("shards", "scopes"), [(1, SCOPES), (2, WHOLE)])
async def test_nothing_is_invented_while_a_sale_runs(
    valkey_url: str, postgres_url: str, shards: int, scopes: Sequence[AuditScope], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several shards, too, where parts are prepared, sealed, pinned and dropped meanwhile."""
    monkeypatch.setattr("ledger.shard_audit.SUSPECTS_MAX", 5)  # so that there is room for few of those that there are
    if scopes == SCOPES:  # as in a sale that the audit of claims cannot follow
        monkeypatch.setattr("ledger.shard_audit.FAR_BEHIND_ENTRIES", 0)
    await migrate(postgres_url)
    clock, done, chance = Clock(), asyncio.Event(), random.Random(5)  # noqa: S311
    skus = [f"SKU-{number}" for number in range(30)]
    async with (
        Ledgers(valkey_url, shards, clock) as ledger,
        audited(valkey_url, postgres_url, shards, scopes) as audit,
    ):
        shop = Shop(ledger, clock)
        await shop.open()
        for sku in skus:
            await shop.stock(sku, 500)
        async with AsyncExitStack() as followers:
            for shard in range(shards):
                await followers.enter_async_context(following(valkey_url, postgres_url, shard))
            buyers = [asyncio.create_task(sell(shop, random.Random(number), done, skus)) for number in range(8)]  # noqa: S311
            rounds: list[set[tuple[Kind, str]]] = []
            left_out = scopes != SCOPES
            while (audit.settled < 40 or len(rounds) < 4 or not left_out) and not any(rounds):
                rounds.append(await found(audit, scopes))
                left_out = left_out or audit.left_out("claims") > 0
                assert not any(buyer.done() for buyer in buyers), [buyer for buyer in buyers if buyer.done()]
                await asyncio.sleep(0.001 * chance.random())
            done.set()
            sold = sum(await asyncio.gather(*buyers))
    assert [one for one in rounds if one] == []
    assert sold > 40


class Ledgers(AbstractAsyncContextManager[Ledger]):
    """A ledger for as long as the block lasts."""

    def __init__(self, url: str, shards: int, clock: Clock) -> None:
        self._ledger = Ledger(url, shards=shards, now_ms=clock)

    async def __aenter__(self) -> Ledger:
        return self._ledger

    async def __aexit__(self, *_: object) -> None:
        await self._ledger.close()


async def test_entries_that_never_came_to_the_journal_are_no_work_of_postgres(
    valkey_url: str, postgres_url: str, database: asyncpg.Connection
) -> None:
    """P7: Valkey lost them before; a new epoch begins with what there is, and nothing is held against it."""
    async with journaled(valkey_url, postgres_url, Clock()) as shop:
        await shop.open()  # 1
        for sku in ("A", "B", "C"):
            await shop.stock(sku, 10)  # 2 to 4
        with Redis.from_url(as_owner(valkey_url)) as client:
            client.xdel(TAG + "journal", "1-3")
    await announced(database)
    async with audited(valkey_url, postgres_url) as audit:
        skipped = await found(audit)
        assert ("journal-skipped", "1-4") in skipped
        assert "journal-gap" not in {kind for kind, _ in skipped}
    urls = as_user(valkey_url, access.OPERATOR), as_user(postgres_url, access.OPERATOR)
    with pytest.raises(FillRefused, match="its entry 1-4 follows a gap"):
        await fill_anew(FillPlan(*urls, None, "rebuild", 1))
    await fill_anew(FillPlan(*urls, None, "rebuild", 1, damaged=True))
    await announced(database)
    async with audited(valkey_url, postgres_url) as audit:
        assert await found(audit) == set()


async def test_a_journal_without_its_end_is_told_and_not_waited_for(
    valkey_url: str, postgres_url: str, database: asyncpg.Connection
) -> None:
    async with journaled(valkey_url, postgres_url, Clock()) as shop:
        await shop.open()
        for sku in ("A", "B", "C"):
            await shop.stock(sku, 10)
    await announced(database)
    await database.execute("update availability.outbox_cursor set seq = seq + 50")
    async with audited(valkey_url, postgres_url) as audit:
        assert await found(audit) == {("events-skipped", "1-54")}
    await database.execute("update availability.outbox_cursor set seq = seq - 50")
    await database.execute("delete from availability.entry where seq > 2")
    for scopes in (WHOLE, SCOPES):
        async with audited(valkey_url, postgres_url, scopes=scopes) as audit:
            assert ("journal-gap", "1-4") in await found(audit, scopes)


async def test_what_came_due_while_all_stood_still_is_no_difference(
    valkey_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, database: asyncpg.Connection
) -> None:
    """It is the keeper's to end, which has just started."""
    monkeypatch.setattr("ledger.shard_audit.LATE_LOOK_S", 60.0)
    monkeypatch.setattr("ledger.shard_audit.LATE_POLL_S", 0.01)
    clock = Clock()
    async with journaled(valkey_url, postgres_url, clock) as shop:
        await shop.open()
        await shop.stock("A", 10)
        await reservation(shop, "A", ttl_ms=1_000)
        clock.now_ms += 120_000
        await shop.stock("B", 10)  # by which the ledger knows the time
    await announced(database)
    looks = 0
    async with Ledgers(valkey_url, 1, clock) as ledger, audited(valkey_url, postgres_url) as audit:
        async for step in audit.round():
            if step.name == "late":
                looks += 1
                await ledger.expire(Expire())
        assert looks > 0
        assert audit.differences == []


async def test_a_ledger_that_lost_entries_is_told(valkey_url: str, postgres_url: str) -> None:
    async with journaled(valkey_url, postgres_url, Clock()) as shop:
        await shop.open()
        await shop.stock("A", 10)
    with Redis.from_url(as_owner(valkey_url)) as client:
        client.flushall()
    async with audited(valkey_url, postgres_url) as audit:
        assert ("ledger-behind", "shard 0") in await found(audit)


async def test_an_entry_that_cannot_be_read_or_does_not_add_up_is_told(
    valkey_url: str, postgres_url: str, database: asyncpg.Connection
) -> None:
    async with journaled(valkey_url, postgres_url, Clock()) as shop:
        await shop.open()  # 1
        for sku in ("A", "B", "C"):
            await shop.stock(sku, 10)  # 2 to 4
    body = await database.fetchval("select body from availability.entry where seq = 3")
    whole = unpack(body, type=JournalEntry)
    moved_nothing = replace(whole, operations=[replace(each, movements=[]) for each in whole.operations])
    change_body = "update availability.entry set body = $2 where seq = $1"
    await database.execute(change_body, 3, pack(moved_nothing))
    await database.execute(change_body, 4, b"no entry")
    async with audited(valkey_url, postgres_url) as audit:
        assert {("entry-unbalanced", "1-3 B@S1"), ("entry-unreadable", "1-4")} <= await found(audit)


async def test_what_cannot_be_compared_is_told_in_words(
    valkey_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: a journal that stands still, and a ledger of another number of shards."""
    monkeypatch.setattr("ledger.shard_audit.NO_PROGRESS_S", 0.1)
    async with journaled(valkey_url, postgres_url, Clock()) as shop:
        await shop.open()
        await shop.stock("A", 10)
    async with Ledgers(valkey_url, 1, Clock()) as ledger:
        await Shop(ledger, Clock()).stock("A", 11)
    async with audited(valkey_url, postgres_url) as audit:
        with pytest.raises(NotAudited, match="the journal comes no further than 1-2, the ledger is at 1-3"):
            await found(audit)
    async with audited(valkey_url, postgres_url, shards=2) as audit:
        with pytest.raises(NotAudited, match="the ledger has 1 shards, the settings say 2"):
            await found(audit)


async def test_a_change_over_shards_that_nobody_finished_is_told(valkey_url: str, postgres_url: str) -> None:
    clock = Clock()
    async with journaled(valkey_url, postgres_url, clock, shards=2) as shop:
        await shop.open()
        id_ = shop.key(None)
        await shop.stock("A", 10)
        shard = shard_of("A", 2)
        lines = [PartLine(1, "A", "S1", 1, 1)]
        prepare = Prepare(id_, "f", "web", "token", lines, [0, 1], None, None, clock.now_ms + 5_000)
        await shop.ledger._coalescers[shard].submit(prepare)  # noqa: SLF001 what a coordinator that dies has sent
        clock.now_ms += 120_000
        await shop.open("S2")
    async with audited(valkey_url, postgres_url, shards=2) as audit:
        assert ("spanning-leftover", id_) in await found(audit)


def folded(*entries: JournalEntry) -> list[Unbalanced]:
    books = Books()
    return [flaw for entry in entries for flaw in books.take(entry)]


def test_an_entry_must_lead_from_the_positions_before_it_to_those_after_it() -> None:
    """P6. After a gap nobody knows from where it leads."""
    first, second = sold(1), sold(2)
    assert folded(first, second) == []
    assert folded(first, sold(3)) == []
    none = replace(second, operations=[])
    [flaw] = folded(first, none)
    assert (flaw.sku, flaw.said, flaw.moved) == ("SKU-1", BOOKED | {"held": 4}, BOOKED | {"held": 2})
    [flaw] = folded(first, replace(second, positions=[]))
    assert (flaw.said, flaw.moved["held"]) == (None, 2)


BOOKED = dict.fromkeys(("on_hand", "held", "committed", "picked", "damaged", "quality_hold", "in_transit"), 0)


def sold(seq: int) -> JournalEntry:
    """Two units more are held."""
    held = entry(seq)
    [after] = held.positions
    return replace(held, positions=[replace(after, position=replace(after.position, on_hand=0))])


def test_claims_are_those_of_the_reservations() -> None:
    """P6. What a reservation says is counted once, however often it is told."""
    books = Books()
    books.take(sold(1))
    comparison = Comparison(0, books)
    told = Told(Place(1, 1), 0, "sku", "SKU-1", {"W1": pack(sold(1).positions[0].position)})
    assert comparison.differences(told) == []
    again = replace(sold(2), positions=sold(1).positions, operations=[replace(hold(1), movements=[])])
    assert books.take(again) == []
    assert comparison.differences(told) == []
    more = replace(sold(3), positions=sold(1).positions, operations=[replace(hold(3), movements=[])])
    books.take(more)
    [difference] = comparison.differences(told)
    assert difference.kind == "claims-unbalanced"
    assert difference.journal == {"held": 4, "committed": 0, "picked": 0}
