"""What only a real server can show: the window of events, the clock, full memory, a lost library, a lost reply."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator

import pytest
from books import assert_books_balance
from ledgers import CLIENT, START_MS, Clock, Shop
from redis import Redis
from servers import RunningServer, as_owner
from waiting import wait_until

from ledger import messages as m
from ledger.errors import Overloaded, Unavailable, Unknown
from ledger.keyspace import Keyspace
from ledger.library import library
from ledger.store import Ledger

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop(valkey_url: str) -> AsyncIterator[Shop]:
    clock = Clock()
    ledger = Ledger(valkey_url, now_ms=clock)
    shop = Shop(ledger, clock)
    await shop.open()
    yield shop
    await ledger.close()


@pytest.fixture
def client(valkey_url: str) -> Redis:
    return Redis.from_url(as_owner(valkey_url))


# --- the window of events (P8) ----------------------------------------------------------------------------------


async def test_a_full_window_folds_its_oldest_events_and_the_horizon_moves(shop: Shop, client: Redis) -> None:
    """P8: the number stays, memory is bounded, and what comes from before the horizon is quarantined."""
    await shop.stock("A", 1_000, at_ms=START_MS)
    for minute in range(1, 600):
        await shop.event("delta", "A", -1, at_ms=START_MS + minute * 60_000, id=f"sale-{minute}")

    assert (await shop.position("A")).on_hand == 401
    assert client.hlen("{s0}:feed:A:S1") <= 513
    assert (await shop.event("delta", "A", -1, at_ms=START_MS + 61_000)).reason == "late"
    assert (await shop.stock("A", 5, at_ms=START_MS + 61_000)).reason == "late"
    assert (await shop.event("delta", "A", -1, at_ms=START_MS + 599 * 60_000, id="sale-599")).outcome == "duplicate"
    assert_books_balance(client)


async def test_a_folded_count_keeps_its_name(shop: Shop) -> None:
    """P8: one of the same time, whose id is smaller, is superseded by it, not too late to be judged."""
    await shop.stock("A", 1_000, at_ms=START_MS, id="n")
    for minute in range(1, 600):
        await shop.event("delta", "A", -1, at_ms=START_MS + minute * 60_000, id=f"sale-{minute}")

    assert (await shop.event("snapshot", "A", 5, at_ms=START_MS, id="m")).outcome == "superseded"
    assert (await shop.event("snapshot", "A", 5, at_ms=START_MS, id="o")).reason == "late"


async def test_a_snapshot_inside_the_window_still_gets_its_later_deltas(shop: Shop) -> None:
    """P8."""
    for minute in range(1, 600):
        await shop.event("delta", "A", 1, at_ms=START_MS + minute * 60_000)

    assert (await shop.stock("A", 0, at_ms=START_MS + 550 * 60_000)).on_hand == 49


async def test_events_received_long_ago_fold_too(shop: Shop, client: Redis) -> None:
    """P8: a quiet position does not keep its history for ever."""
    await shop.stock("A", 10, at_ms=START_MS)
    await shop.event("delta", "A", -1, at_ms=START_MS + 1)
    shop.clock.now_ms += 50 * 3_600_000
    await shop.event("delta", "A", -1)

    assert (await shop.position("A")).on_hand == 8
    assert client.hlen("{s0}:feed:A:S1") == 2


# --- the keeper -------------------------------------------------------------------------------------------------


async def test_the_keeper_forgets_where_nothing_is_held_any_more(shop: Shop, client: Redis) -> None:
    await shop.stock("A", 10)
    held = await shop.hold(("A", 1), ttl_ms=1)
    await shop.commit(held.id)
    shop.clock.now_ms += 1
    await shop.ledger.expire(m.Expire())

    assert client.zcard("{s0}:deadlines") == 0


# --- the clock (P5) ---------------------------------------------------------------------------------------------


async def test_the_servers_own_clock_is_used(valkey_url: str) -> None:
    """P5."""
    ledger = Ledger(valkey_url)
    shop = Shop(ledger, Clock())
    await shop.open()
    await shop.stock("A", 1)
    held = await shop.hold(("A", 1), ttl_ms=60_000)

    assert abs(held.reservation.created_at_ms - time.time_ns() // 1_000_000) < 10_000
    await ledger.close()


# --- failures ---------------------------------------------------------------------------------------------------


async def test_a_server_without_the_library_gets_it_from_a_user_who_may(client: Redis, valkey_url: str) -> None:
    """What other users wait for is in test_access_valkey.py."""
    clock = Clock()
    ledger = Ledger(as_owner(valkey_url), now_ms=clock)
    shop = Shop(ledger, clock)
    await shop.open()
    await shop.stock("A", 5)
    client.function_flush("SYNC")

    assert isinstance(await shop.hold(("A", 1)), m.Done)
    await ledger.close()


async def test_full_memory_refuses_holds_and_still_releases(shop: Shop, client: Redis) -> None:
    """P9: what frees goes on, and who has held can pay; nothing is half done."""
    await shop.stock("A", 50)
    held = [await shop.hold(("A", 1)) for _ in range(20)]
    await shop.commit(held[0].id)
    lapsed = await shop.hold(("A", 1), ttl_ms=1_000)
    shop.clock.now_ms += 1_001
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(Overloaded):
            await shop.hold(("A", 1))
        assert (await shop.release(held[1].id)).reservation.status == "released"
        assert (await shop.ship(held[0].id)).reservation.status == "shipped"
        assert (await shop.commit(held[2].id)).reservation.status == "committed"
        assert (await shop.pick(held[2].id)).reservation.lines[0].picked == 1
        with pytest.raises(Overloaded):
            await shop.commit(lapsed.id, reacquire=True)
        assert (await shop.position("A")).held == 17
    finally:
        client.config_set("maxmemory", "0")
    assert_books_balance(client)


async def test_an_unsafe_server_is_not_promised_on(shop: Shop, client: Redis, valkey_url: str) -> None:
    """P2, P9: the reason and the remedy are told."""
    client.config_set("appendfsync", "everysec")
    try:
        ledger = Ledger(valkey_url)
        state = await ledger.check()
        assert not state.ready
        remedy = "set it to always, an acknowledged operation must have reached the disk"
        assert state.reasons == [f"its server's appendfsync is everysec: {remedy}"]
        with pytest.raises(Unavailable):
            await Shop(ledger, shop.clock).hold(("A", 1))
        await ledger.close()
    finally:
        client.config_set("appendfsync", "always")


async def test_an_operation_that_breaks_a_rule_fails_alone(shop: Shop) -> None:
    """A bug in one caller's operation must not fail the others of its batch."""
    await shop.stock("A", 5)
    outcomes: list[object] = await asyncio.gather(shop.hold(("A", 2**40)), shop.hold(("A", 1)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [AssertionError, m.Done]


async def test_another_clients_reservation_is_neither_seen_nor_changed(shop: Shop) -> None:
    """P10: not even told apart from one that was never made."""
    await shop.stock("A", 5)
    held = await shop.hold(("A", 2))

    assert await shop.ledger.find(m.Find(held.id, "app")) == m.NotFound()
    assert await shop.release(held.id, client="app") == m.NotFound()
    assert (await shop.position("A")).held == 2


async def test_who_knows_another_epoch_is_refused(shop: Shop, valkey_url: str) -> None:
    """P7: a writer of before a recovery changes nothing by what it knew."""
    await shop.stock("A", 5)
    keyspace = await Keyspace.open(valkey_url, 0)
    await keyspace.fence(shards=1, epoch=2)
    await keyspace.close()

    with pytest.raises(Unavailable, match="EPOCH"):
        await shop.hold(("A", 1))


async def test_a_look_at_a_doubtful_ledger_changes_nothing(shop: Shop, client: Redis, valkey_url: str) -> None:
    """P9: not even by ending what is overdue; the answer counts it as ended all the same."""
    await shop.stock("A", 5)
    await shop.hold(("A", 2), ttl_ms=1_000)
    shop.clock.now_ms += 1_000
    entries = client.xlen("{s0}:journal")
    doubtful = Ledger(valkey_url, now_ms=shop.clock, refusal=lambda _shard, _run: "not compared")

    assert (await Shop(doubtful, shop.clock).position("A")).available == 5
    with pytest.raises(Unavailable):  # P4: "not found" would mean surely not done
        await doubtful.find(m.Find("unknown", CLIENT))
    assert client.xlen("{s0}:journal") == entries
    await doubtful.close()


async def test_a_look_at_a_doubtful_ledger_never_waits_for_what_it_cannot_tidy_up(shop: Shop, valkey_url: str) -> None:
    """P9: more ended holds than one call looks through are listed before the one that is held."""
    await shop.stock("A", 2_200)
    held = await asyncio.gather(*(shop.hold(("A", 1), ttl_ms=60_000 + number) for number in range(2_100)))
    await shop.hold(("A", 100), ttl_ms=90_000)
    await asyncio.gather(*(shop.release(each.id) for each in held))
    await shop.hold(("A", 2_100), ttl_ms=90_000)
    doubtful = Ledger(valkey_url, now_ms=shop.clock, refusal=lambda _shard, _run: "not compared")

    seen = await doubtful.read(m.Read([m.ReadItem("A")]))
    assert (seen.items[0].positions[0].left, seen.items[0].next_expiry_ms) == (0, None)
    assert (await shop.ledger.read(m.Read([m.ReadItem("A")]))).items[0].next_expiry_ms == shop.clock.now_ms + 90_000
    await doubtful.close()


async def test_a_journal_that_is_too_far_ahead_refuses_holds_only(valkey_url: str) -> None:
    """P9."""
    clock = Clock()
    ledger = Ledger(valkey_url, now_ms=clock, backlog_entries_max=4)
    shop = Shop(ledger, clock)
    await shop.open()
    await shop.stock("A", 5)
    held = await shop.hold(("A", 1))
    for _ in range(1_001):  # beyond the tail that the journaler leaves
        await shop.event("delta", "A", 1)
    with pytest.raises(Overloaded):
        await shop.hold(("A", 1))
    with pytest.raises(Overloaded):
        await shop.event("delta", "A", 1)

    assert isinstance(await shop.release(held.id), m.Done)
    await ledger.close()


async def test_many_overdue_holds_never_hide_free_units(shop: Shop) -> None:
    """P5: more than one call may end are in the way, and still the hold is granted."""
    await shop.stock("A", 2_500)
    await asyncio.gather(*(shop.hold(("A", 1), ttl_ms=1_000) for _ in range(2_500)))
    shop.clock.now_ms += 1_000

    assert isinstance(await shop.hold(("A", 2_500)), m.Done)


async def test_an_overdue_flood_at_many_positions_is_ended_in_bounded_calls(shop: Shop) -> None:
    """P5, P9: the bound is the call's, not each position's."""
    skus = [f"S{number}" for number in range(20)]
    for sku in skus:
        await shop.stock(sku, 300)
    await asyncio.gather(*(shop.hold((sku, 1), ttl_ms=1_000) for sku in skus for _ in range(300)))
    shop.clock.now_ms += 1_000

    held = await shop.hold(*((sku, 300) for sku in skus))
    assert isinstance(held, m.Done)


async def test_what_is_granted_of_what_there_is_waits_for_the_overdue_too(shop: Shop) -> None:
    """P5: never undersell, in mode available."""
    await shop.stock("A", 2_500)
    await asyncio.gather(*(shop.hold(("A", 1), ttl_ms=1_000) for _ in range(2_500)))
    shop.clock.now_ms += 1_000

    held = await shop.hold(("A", 9_999), mode="available")
    assert held.reservation.lines[0].quantity == 2_500


async def test_a_reservation_has_a_limit_of_operations(shop: Shop) -> None:
    """Its record would grow without bound."""
    await shop.stock("A", 5)
    held = await shop.hold(("A", 1))
    for _ in range(200):
        await shop.extend(held.id, 60_000)

    assert await shop.extend(held.id, 60_000) == m.OperationsLimit(200)
    assert await shop.commit(held.id, (1, 1)) == m.OperationsLimit(200)
    for ends in (shop.commit, shop.pick, shop.ship, shop.give_back):
        assert isinstance(await ends(held.id), m.Done), "what takes all goes on: every unit comes to its end"


async def test_operations_on_a_reacquired_reservation_live_on_with_it(shop: Shop, client: Redis) -> None:
    """P3: kept for the reservation's life."""
    await shop.stock("A", 5)
    held = await shop.hold(("A", 1), ttl_ms=1_000)
    await shop.extend(held.id, 1_000, key="the-extend")
    shop.clock.now_ms += 1_000
    await shop.ledger.expire(m.Expire())
    assert client.ttl(f"{{s0}}:op:{shop.key('the-extend')}") > 0
    await shop.commit(held.id, reacquire=True)

    assert client.ttl(f"{{s0}}:op:{shop.key('the-extend')}") == -1


async def test_events_that_tell_only_the_day_do_not_push_each_other_out(shop: Shop) -> None:
    """P8: a time folds whole or not at all."""
    for number in range(700):
        outcome = await shop.event("delta", "A", 1, at_ms=START_MS, id=f"sale-{number}")
        assert outcome.outcome == "applied"

    assert (await shop.event("delta", "A", 1, at_ms=START_MS, id="sale-0")).outcome == "duplicate"
    assert (await shop.position("A")).on_hand == 700


async def test_a_server_that_is_only_a_replica_refuses_surely(shop: Shop, client: Redis) -> None:
    """P4: nothing was done, and the reason is told."""
    await shop.stock("A", 5)
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(Unavailable, match="replica"):
            await shop.hold(("A", 1))
    finally:
        client.replicaof("NO", "ONE")
    assert isinstance(await shop.hold(("A", 1)), m.Done)


async def test_a_user_without_rights_is_refused_surely(shop: Shop, client: Redis, valkey_url: str) -> None:
    """P4, P10."""
    client.acl_setuser("weak", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-fcall"])
    ledger = Ledger(as_owner(valkey_url).replace("availability:of-the-tests", "weak:secret"))
    with pytest.raises(Unavailable, match="permission"):
        await Shop(ledger, shop.clock).hold(("A", 1))
    await ledger.close()
    client.acl_deluser("weak")


async def test_a_count_that_is_part_done_is_not_called_undone(valkey_url: str) -> None:
    """P4: after the first portion was taken, a refusal of the rest is an unknown of the whole."""
    clock = Clock()
    ledger = Ledger(valkey_url, now_ms=clock, queue_operations_max=3)
    shop = Shop(ledger, clock)
    await shop.open()
    events = [
        m.StockEvent(f"k{number}", "ann", f"c1:{number}", "snapshot", f"A{number}", "S1", 5, START_MS)
        for number in range(2_000)
    ]
    with pytest.raises(Unknown):
        await ledger.count(m.Count("f", "ann", "S1", "c1", events))

    assert (await shop.position("A0")).on_hand == 5
    await ledger.close()


async def test_a_full_queue_refuses_at_once(valkey_url: str) -> None:
    """It never grows without bound."""
    ledger = Ledger(valkey_url, queue_operations_max=10)
    shop = Shop(ledger, Clock())
    await shop.open()
    outcomes = await asyncio.gather(*(shop.hold(("A", 1)) for _ in range(50)), return_exceptions=True)

    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 40
    await ledger.close()


async def _is_ready(ledger: Ledger) -> bool:
    return (await ledger.check()).ready


async def test_kill_9_loses_no_acknowledged_hold_and_doubles_none(
    valkey_server: RunningServer, valkey_url: str
) -> None:
    """P2, P3, P4: what was answered is there; what was not is settled by its key."""
    ledger = Ledger(valkey_url, timeout_ms=1_000)
    shop = Shop(ledger, Clock())
    await shop.open()
    await shop.stock("A", 1_000_000)
    acknowledged: set[str] = set()
    unknown: set[str] = set()
    stop = asyncio.Event()

    async def buy(caller: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = f"{caller}-{number}"
            try:
                acknowledged.add((await shop.hold(("A", 1), key=key, ttl_ms=3_600_000)).id)
            except Unknown:
                unknown.add(key)
            except Unavailable:
                await asyncio.sleep(0.01)

    async def more_than(count: int) -> bool:
        return len(acknowledged) > count

    buyers = [asyncio.create_task(buy(caller)) for caller in range(32)]
    for _ in range(3):
        enough = functools.partial(more_than, len(acknowledged) + 200)
        await wait_until(enough)
        valkey_server.kill()
        await valkey_server.restart()
    stop.set()
    await asyncio.gather(*buyers)
    await wait_until(functools.partial(_is_ready, ledger))

    async def is_there(id_: str) -> bool:
        return isinstance(await ledger.find(m.Find(id_, "web")), m.Found)

    ids = sorted(acknowledged)
    for start in range(0, len(ids), 1_000):
        assert all(await asyncio.gather(*map(is_there, ids[start : start + 1_000])))
    settled = {shop.key(key) for key in unknown if await is_there(shop.key(key))}
    assert (await shop.position("A")).held == len(acknowledged | settled)
    with Redis.from_url(as_owner(valkey_url)) as client:
        assert_books_balance(client)
    await ledger.close()


async def test_a_server_that_refuses_the_library_is_told_in_words(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = library()._replace(name="broken", text="#!lua name=broken\nthis is no Lua")
    monkeypatch.setattr("ledger.shard.library", lambda: broken)
    ledger = Ledger(as_owner(valkey_url))
    with pytest.raises(Unavailable, match=r"^the ledger's server refuses our library$"):
        await ledger.read(m.Read([m.ReadItem("A", ["S1"])]))
    assert ledger.state().reasons == ["the ledger's server refuses our library"]
    await ledger.close()


def test_the_librarys_name_tells_its_content() -> None:
    assert library().name in library().text
    assert "VERSION" not in library().text


async def test_the_library_writes_only_through_declared_tags(shop: Shop, client: Redis) -> None:
    """Every key carries the shard's hash tag, so that all of a shard share a slot."""
    await shop.stock("A", 5)
    held = await shop.hold(("A", 1))
    await shop.commit(held.id)

    keys = [key.decode() for key in client.scan_iter()]
    assert keys
    assert all(key.startswith("{s0}:") for key in keys)


async def test_only_ended_operations_have_a_time_to_live(shop: Shop, client: Redis) -> None:
    """No stock ever hangs on a key's time to live; what has ended goes after a day."""
    await shop.stock("A", 5)
    live, ended = await shop.hold(("A", 1)), await shop.hold(("A", 1))
    released = await shop.release(ended.id)
    await shop.extend(live.id, 90_000)
    mortal = {key.decode() for key in client.scan_iter() if client.ttl(key) != -1}

    assert mortal == {f"{{s0}}:op:{id_}" for id_ in (ended.id, *released.reservation.operations)}
    assert live.id not in str(mortal)
