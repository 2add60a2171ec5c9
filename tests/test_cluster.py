"""Shards on a Valkey Cluster: each finds its server, and goes on when its slot moves or its server is killed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from books import assert_books_balance, live_positions
from cluster import Cluster, node_id, slot_of
from journal_entries import following
from ledgers import CLIENT, Clock, Shop
from redis import Redis
from waiting import wait_until

from ledger import messages as m
from ledger.coalescer import Coalescer
from ledger.errors import LedgerError, Unavailable, Unknown
from ledger.journal import Place, migrate
from ledger.library import library
from ledger.placement import Placement, server_urls, url_of
from ledger.shard import Limits, Shard

pytestmark = pytest.mark.anyio

CALLERS = 32
SCARCE = 100


Refusal = Callable[[int, str], str | None]


class OneShard:
    """A shard with its queue, spoken to as a ledger: each verb is one message."""

    def __init__(self, url: str, number: int, refusal: Refusal = lambda _shard, _run: None) -> None:
        self.shard = Shard(
            url, number, limits(), now_ms=None, observe=lambda _operations, _seconds: None, refusal=refusal
        )
        self._coalescer = Coalescer(
            self.shard.send, operations_max=256, weight_max=4_096, queue_operations_max=20_000, queue_wait_ms_max=2_000
        )

    def __getattr__(self, _verb: str) -> Callable[[m.Operation], Awaitable[m.Outcome]]:
        return self._coalescer.submit

    async def close(self) -> None:
        await self._coalescer.close()
        await self.shard.close()


def limits() -> Limits:
    return Limits(200_000, 5, 5_000, m.CLIENT_OPEN_RESERVATIONS_MAX, m.CLIENT_HELD_UNITS_MAX, 64)


@asynccontextmanager
async def shops(url: str, *numbers: int) -> AsyncIterator[list[Shop]]:
    """A shop on each of these shards, with stock, and its books in order at the end."""
    async with AsyncExitStack() as stack:
        opened = []
        for number in numbers:
            ledger = OneShard(url, number)
            stack.push_async_callback(ledger.close)
            opened.append(Shop(ledger, Clock()))
            await opened[-1].open()
            await opened[-1].event("snapshot", "MANY", 1_000_000, at_ms=1)
            await opened[-1].event("snapshot", "SCARCE", SCARCE, at_ms=1)
        yield opened


@dataclass
class Load:
    """What 32 callers were told, each of whom holds one unit after the other."""

    shops: list[Shop]
    done: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    undone: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    stopped: bool = False

    async def call(self, caller: int) -> None:
        shop, number = self.shops[caller % len(self.shops)], 0
        while not self.stopped:
            number += 1
            sku = "SCARCE" if number % 2 == 0 else "MANY"
            id_ = shop.key(f"{sku}-{caller}-{number}")
            try:
                outcome = await shop.hold((sku, 1), key=f"{sku}-{caller}-{number}", ttl_ms=3_600_000)
                (self.done if isinstance(outcome, m.Done) else self.refused).add(id_)
            except Unknown:
                self.unknown.add(id_)
            except Unavailable:
                self.undone.add(id_)
                await asyncio.sleep(0.005)

    async def goes_on(self) -> None:
        """Wait until a good many more were done."""
        before = len(self.done)

        async def more() -> bool:
            return len(self.done) > before + 200

        await wait_until(more, 20)

    async def check(self, cluster: Cluster, shard: int) -> None:
        """P1-P4: what was done is there, what was not is not, and the units are those of what is there."""
        shop = self.shops[0]
        assert all([await found(shop, id_) for id_ in self.done])
        assert not any([await found(shop, id_) for id_ in self.undone | self.refused])
        settled = self.done | {id_ for id_ in self.unknown if await found(shop, id_)}
        held = {sku: (await shop.position(sku)).held for sku in ("MANY", "SCARCE")}
        assert held["SCARCE"] == SCARCE
        assert sum(held.values()) == len(settled)
        with cluster.client_of(shard) as client:
            assert_books_balance(client, shard)


async def found(shop: Shop, id_: str) -> bool:
    return isinstance(await shop.ledger.find(m.Find(id_, CLIENT)), m.Found)


@asynccontextmanager
async def under_load(cluster: Cluster, shard: int) -> AsyncIterator[Load]:
    """32 callers over two processes' worth of connections while the block lasts; then everything is checked."""
    async with shops(cluster.url, shard, shard) as opened:
        load = Load(opened)
        callers = [asyncio.create_task(load.call(caller)) for caller in range(CALLERS)]
        try:
            await load.goes_on()
            yield load
            await load.goes_on()
        finally:
            load.stopped = True
            await asyncio.gather(*callers)
        await load.check(cluster, shard)


async def test_shards_live_on_different_servers_and_are_found_from_any(cluster: Cluster) -> None:
    """Each finds its own server, has its library there, and leaves nothing on the others."""
    for node in cluster.nodes:
        async with shops(node.url, 0, 1, 2, 3) as opened:
            held = await asyncio.gather(*(shop.hold(("MANY", 2), key=f"{node.url}-held") for shop in opened))
            done = await asyncio.gather(
                *(shop.commit(one.id) for shop, one in zip(opened, held, strict=True)),
            )
            assert {one.reservation.status for one in done} == {"committed"}
    assert len({cluster.node_of(shard).url for shard in range(4)}) == 3
    for shard in range(4):
        with cluster.client_of(shard) as client:
            assert_books_balance(client, shard)
            assert live_positions(client, shard)["MANY", "S1"].committed == 6
            assert client.function_list(library=library().name)


async def test_a_slot_that_moves_under_load_loses_and_doubles_nothing(cluster: Cluster) -> None:
    """P1-P4, and the shard goes on by itself on each of its new servers."""
    first = cluster.node_of(3)
    second, third = cluster.another_than(first), cluster.another_than(first, cluster.another_than(first))
    async with under_load(cluster, 3) as load:
        for target in (second, third):
            await cluster.migrate(3, target)
            await load.goes_on()
            assert cluster.node_of(3) is target
    assert not load.unknown | load.undone, "who has to wait for a moment is told nothing else"
    for node in (first, second):
        with Redis.from_url(node.url) as client:
            assert not list(client.scan_iter("{s3}*"))


async def test_a_killed_server_takes_only_its_own_shards_and_comes_back_with_all(cluster: Cluster) -> None:
    """P2-P4: the others go on, also for a process that begins now and is named the killed one first."""
    node = cluster.node_of(0)
    others = [shard for shard in range(1, 4) if cluster.node_of(shard) is not node]
    async with shops(cluster.url, *others) as opened, under_load(cluster, 0) as load:
        node.kill()
        try:
            held = await asyncio.gather(*(shop.hold(("MANY", 1)) for shop in opened))
            async with shops(f"{node.url},{cluster.another_than(node).url}", *others) as begun:
                held += await asyncio.gather(*(shop.hold(("MANY", 1)) for shop in begun))
            with pytest.raises(LedgerError):
                await load.shops[0].hold(("MANY", 1))
        finally:
            await cluster.restart(node)
        await load.goes_on()
    assert all(isinstance(outcome, m.Done) for outcome in held)


async def test_a_slot_that_moves_key_by_key_is_refused_until_it_has_moved(cluster: Cluster) -> None:
    """P4, P6: the script touches keys that it does not declare; half of them must never be elsewhere."""
    slot, source = slot_of(2), cluster.node_of(2)
    target = cluster.another_than(source)
    async with shops(cluster.url, 2) as [shop]:
        held = await shop.hold(("MANY", 1))
        with Redis.from_url(source.url) as old, Redis.from_url(target.url) as new:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))
            with pytest.raises(Unavailable, match="key by key"):
                await shop.commit(held.id)
            address = new.connection_pool.connection_kwargs
            to, login = (address["host"], address["port"]), (address["username"], address["password"])
            for key in list(old.scan_iter("{s2}*")):
                old.execute_command("MIGRATE", *to, "", 0, 5_000, "AUTH2", *login, "KEYS", key)
                with pytest.raises(Unavailable, match="key by key"):
                    await shop.commit(held.id)
            for client in (new, old):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", node_id(target))

        assert (await shop.commit(held.id)).reservation.status == "committed"
        with cluster.client_of(2) as client:
            assert cluster.node_of(2) is target
            assert_books_balance(client, 2)


async def test_a_slot_without_a_server_is_refused_surely(cluster: Cluster) -> None:
    """P4: as the server said when it was asked to decide, and as the next one says that is asked who has it."""
    async with shops(cluster.url, 1) as [shop]:
        with Redis.from_url(cluster.node_of(1).url) as owner:
            owner.execute_command("CLUSTER", "DELSLOTS", slot_of(1))
            try:
                with pytest.raises(Unavailable, match="not served"):
                    await shop.hold(("MANY", 1))
                with pytest.raises(Unavailable, match="no server of the cluster has slot"):
                    await shop.hold(("MANY", 1))
            finally:
                owner.execute_command("CLUSTER", "ADDSLOTS", slot_of(1))


async def test_the_servers_run_is_that_of_the_shards_new_server(cluster: Cluster) -> None:
    """P9: so the journal is compared again before anything is changed there."""
    trusted: set[str] = set()
    ledger = OneShard(cluster.url, 1, refusal=lambda _shard, run: None if run in trusted else "not compared")
    shop = Shop(ledger, Clock())
    before = await ledger.shard.standing(Place(0, 0))
    trusted.add(before.run)
    await shop.open()
    await cluster.migrate(1, cluster.another_than(cluster.node_of(1)))
    with pytest.raises(Unavailable, match="not compared"):
        await shop.open()
    after = await ledger.shard.standing(Place(1, 1))

    assert after.run != before.run
    assert (after.place, after.entry is not None) == (Place(1, 1), True)
    trusted.add(after.run)
    await shop.open()
    await ledger.close()


async def test_the_journal_follows_its_shard_through_a_move_and_a_kill(cluster: Cluster, postgres_url: str) -> None:
    """P7: without a gap, and each entry once."""
    await migrate(postgres_url)
    source = cluster.node_of(3)
    target = cluster.another_than(source)
    async with following(cluster.another_than(source, target).url, postgres_url, shard=3) as seen:
        async with under_load(cluster, 3) as load:
            await cluster.migrate(3, target)
            await load.goes_on()
            target.kill()
            await cluster.restart(target)
        with cluster.client_of(3) as client:
            stream: Any = client.xrange("{s3}:journal")

        async def has_all() -> bool:
            return seen.written.entries >= len(stream)

        await wait_until(has_all, 20)
    connection = await asyncpg.connect(postgres_url)
    rows = await connection.fetch("select epoch, seq, body from availability.entry where shard = 3 order by epoch, seq")
    await connection.close()
    assert [(f"{epoch}-{seq}".encode(), {b"e": body}) for epoch, seq, body in rows] == stream
    assert (seen.written.gaps, seen.written.conflicts, seen.written.rejects) == (0, 0, 0)


async def test_servers_that_do_not_agree_are_asked_a_bounded_number_of_times(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: each says that another one has it, so nothing was done."""
    async with shops(cluster.url, 0) as [shop]:
        wrong = cluster.another_than(cluster.node_of(0))
        asked = 0

        async def url(_placement: Placement) -> str:
            nonlocal asked
            asked += 1
            return wrong.url

        await shop.ledger.shard.close()
        monkeypatch.setattr(Placement, "url", url)
        with pytest.raises(Unavailable, match="do not agree"):
            await shop.hold(("MANY", 1))
        assert 1 < asked < 10
        monkeypatch.undo()

        assert isinstance(await shop.hold(("MANY", 1)), m.Done)


async def test_servers_that_are_no_cluster_are_not_taken_for_one(cluster: Cluster, valkey_url: str) -> None:
    """P9: whichever answers first would be the ledger."""
    ledger = OneShard(f"{valkey_url},{cluster.url}", 0)
    with pytest.raises(Unavailable, match="in no cluster"):
        await Shop(ledger, Clock()).open()
    await ledger.close()


def test_a_servers_url_keeps_everything_but_the_place() -> None:
    urls = server_urls("rediss://ann:a%40b,c@one:6379/0?ssl_ca_certs=ca.pem, redis://two,redis://:p@three:1/0")
    assert urls == ["rediss://ann:a%40b,c@one:6379/0?ssl_ca_certs=ca.pem", "redis://two", "redis://:p@three:1/0"]
    assert url_of(urls[0], "10.0.0.1", 7000) == "rediss://ann:a%40b,c@10.0.0.1:7000/0?ssl_ca_certs=ca.pem"
    assert url_of(urls[1], "fe80::1", 7000) == "redis://[fe80::1]:7000"
