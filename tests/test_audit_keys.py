"""The audit compares windows, views, counts and the keys of operations, too, and goes on from a checkpoint (P3, P7)."""

import asyncpg
import msgspec
import pytest
from ledgers import Clock, Shop
from redis import Redis
from servers import as_owner
from test_audit import TAG, announced, audited, found, journaled, reservation

from ledger import SCOPES, Done, Kind, StockEvent, event_key, make_checkpoint
from ledger import messages as m

pytestmark = pytest.mark.anyio

pack = msgspec.msgpack.encode
Planted = set[tuple[Kind, str]]


async def tell_everything(shop: Shop) -> tuple[str, str]:
    """Something of each key; the ids of a commit and of an extension."""
    await shop.open(authority="wms")
    for name, units in (("e1", 10), ("e2", 11)):
        await shop.stock("A", units, id=name)
        shop.clock.now_ms += 1_000
    await shop.event("delta", "A", -2, id="e3")
    assert (await shop.stock("A", 99, source="erp")).reason == "not-authoritative"
    counted = StockEvent(event_key("ann", "c1"), "ann", "c1", "snapshot", "C:%", "S1", 7, shop.clock.now_ms)
    await shop.ledger.count(m.Count("f", "ann", "S1", "c1", [counted]))
    await shop.keep("NEVER", 3)
    await shop.stock("B", 2)
    await reservation(shop, "B")
    shop.clock.now_ms += 1_000
    await shop.stock("B", 1)
    ids = []
    for _ in range(2):
        held = await shop.hold(("A", 1))
        assert isinstance(held, Done)
        extended = shop.key(f"extend-{held.id}")
        await shop.extend(held.id, 90_000, key=f"extend-{held.id}")
        ids.append(extended)
        await shop.release(held.id)  # what has ended answers replays for another day
    return ids[0], ids[1]


def plant(client: Redis, lost: str, changed: str) -> Planted:
    client.hdel(TAG + "feed:A:S1", event_key("wms", "e1"))
    client.hset(TAG + "feed:B:S1", "ghost", pack([1, 2, 3]))
    client.hset(TAG + "feed:C%3A%25:S1", "", pack([1]))
    client.hset(TAG + "view:A", "S1", pack([]))
    client.hset(TAG + "view:B", "S1", pack([]))
    [count] = list(client.scan_iter(TAG + "count:*"))
    client.set(count, "g")
    client.hset(TAG + "safety_stock", "NEVER:S1", pack(4))
    client.delete(TAG + "overcommitted")
    client.hset(TAG + "locations", "S1", pack(["S1", None, "store"]))
    client.copy(TAG + f"op:{lost}", TAG + "op:ghost")
    client.delete(TAG + f"op:{lost}")
    record: list[str] = msgspec.msgpack.decode(client.get(TAG + f"op:{changed}"))  # type: ignore[arg-type]
    client.set(TAG + f"op:{changed}", pack([*record[:2], "another", record[3]]))
    return {
        ("window-differs", "A@S1"),
        ("window-differs", "B@S1"),
        ("window-differs", "C:%@S1"),
        ("view-differs", "A"),
        ("view-differs", "B"),
        ("count-differs", count.decode().removeprefix(TAG)),
        ("safety-stock-differs", "safety_stock"),
        ("overcommitted-differs", "overcommitted"),
        ("location-differs", "locations"),
        ("operation-differs", lost),
        ("operation-differs", changed),
        ("operation-unjournaled", "ghost"),
    }


async def test_each_key_that_is_not_what_the_journal_says_is_told(
    valkey_url: str, postgres_url: str, database: asyncpg.Connection
) -> None:
    """From the start, as the keeper does it, and from a checkpoint on, which reads nothing of before."""
    clock = Clock()
    async with journaled(valkey_url, postgres_url, clock) as shop:
        lost, changed = await tell_everything(shop)
    made = await make_checkpoint(postgres_url, 1)
    await announced(database)
    async with audited(valkey_url, postgres_url) as audit:
        assert await found(audit) == set()
        with Redis.from_url(as_owner(valkey_url)) as client:
            planted = plant(client, lost, changed)
        assert await found(audit) == planted
        told = {difference.subject: difference for difference in audit.differences}
    window = told["A@S1"]
    assert (window.live, window.journal) == ({"fields": 3}, {"fields": 4, "not in the ledger": 1})
    assert told["B@S1"].live == {"fields": 4, "not in the journal": ["ghost"]}
    key, none = told[changed], told[lost]
    assert key.live is not None
    assert key.journal is not None
    assert (key.live["fingerprint"], key.journal["verb"], none.live) == ("another", "extend", None)
    assert len(key.entries) == 1

    async with audited(valkey_url, postgres_url, scopes=SCOPES) as audit:
        assert await found(audit, SCOPES) == planted

    async with audited(valkey_url, postgres_url) as audit:
        assert await audit.begin_from_checkpoint(postgres_url) == made.number
        of_before = {("operation-differs", lost), ("operation-differs", changed)}
        assert await found(audit) == planted - of_before
        assert audit.entries == 0


async def test_what_a_checkpoint_lacks_is_folded(
    valkey_url: str, postgres_url: str, database: asyncpg.Connection
) -> None:
    clock = Clock()
    async with journaled(valkey_url, postgres_url, clock) as shop:
        await tell_everything(shop)
    async with audited(valkey_url, postgres_url) as audit:
        assert await audit.begin_from_checkpoint(postgres_url) is None
    await make_checkpoint(postgres_url, 1)
    async with journaled(valkey_url, postgres_url, clock) as shop:
        clock.now_ms += 1_000
        await shop.open("S2")  # 1
        await shop.stock("A", 40, source="erp")  # 2
        await shop.stock("B", 50, id="e4")  # 3
        await shop.event("delta", "B", -1, reverses=event_key("wms", "e4"))  # 4
        await shop.commit(await reservation(shop, "A"))  # 5, 6
    await announced(database)
    async with audited(valkey_url, postgres_url) as audit:
        await audit.begin_from_checkpoint(postgres_url)
        assert await found(audit) == set()
        assert audit.entries == 6
