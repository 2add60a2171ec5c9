"""The search for reservations: what the ledger's own script did, through journal and index, found by every filter."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from typing import Any

import asyncpg
import msgspec
import pytest
from api_world import World
from journal_entries import AT_MS, encoded, entry, operation, reservation
from ledgers import START_MS
from searched import Searched, contents, stocked
from servers import as_user
from waiting import wait_until

from availability import access
from ledger import Filters, JournalWriter
from ledger import messages as m
from ledger.journal import JOURNAL_FAILED, BadCursor, Indexer, Place
from ledger.journal.index import Index, Superseded
from ledger.journal.records import RawEntry
from ledger.journal.search import query_of

pytestmark = pytest.mark.anyio

TABLES = ("reservation", "reservation_line", "search_cursor", "claimed_line", "overcommitted")


@pytest.fixture
async def searched(valkey_url: str, postgres_url: str) -> AsyncIterator[Searched]:
    """A ledger of one shard."""
    async with stocked(valkey_url, postgres_url) as made:
        yield made


async def life(searched: Searched) -> None:
    """Every verb, several on one reservation, in more than one call."""
    shop = searched.shop
    ids = [
        await searched.held(("SHOE", 3, "S1"), ("BOOT", 2, "S2"), customer=f"C-{number}", ttl_ms=60_000)
        for number in range(12)
    ]
    for number, id_ in enumerate(ids[:9]):
        await searched.commit(id_, f"O-{number}")
    await shop.extend(ids[10], 600_000)
    await shop.release(ids[11], (1, 1))
    for id_ in ids[:6]:
        await shop.pick(id_, (1, 2))
    for id_ in ids[:4]:
        await shop.ship(id_)
    await shop.give_back(ids[0], (1, 1))
    await shop.cancel(ids[5])
    await shop.move(ids[7], 1, "S2")
    await shop.move(ids[8], 1, "S2")
    await shop.move(ids[8], 1, "S1")
    searched.clock.now_ms += 60_001
    await searched.ledger.expire(m.Expire())


def fits(found: m.Reservation, filters: dict[str, Any]) -> bool:
    """The rule of the filters, said once more."""
    line_filters = {name: filters[name] for name in ("sku", "location") if name in filters}
    others = {name: value for name, value in filters.items() if name not in line_filters}
    return all(getattr(found, name) == value for name, value in others.items()) and any(
        all(getattr(line, name) == value for name, value in line_filters.items()) for line in found.lines
    )


def combinations(values: dict[str, list[str]]) -> Iterable[dict[str, Any]]:
    """Every choice of a value, or none, for each filter."""
    choices = [[(name, value) for value in (None, *given)] for name, given in values.items()]
    for chosen in itertools.product(*choices):
        yield {name: value for name, value in chosen if value is not None}


async def test_every_filter_alone_and_combined_finds_what_fits_and_nothing_else(searched: Searched) -> None:
    made: list[str] = []
    for number in range(8):
        lines = [("SHOE", 1, f"S{1 + number % 2}"), ("BOOT", 1, "S2"), ("SHOE", 1, "S1")][: 1 + number % 3]
        made.append(await searched.held(*lines, customer="C-1" if number % 2 else None))
    for number, id_ in enumerate(made[:4]):
        await searched.commit(id_, f"O-{number % 2}")
    await searched.shop.ship(made[0])
    await searched.held(("SHOE", 1, "S1"), client="app", customer="C-1")
    await searched.journal()
    live = {id_: await searched.live(id_) for id_ in reversed(made)}

    seen = set()
    for filters in combinations(
        {
            "order_id": ["O-0", "O-9"],
            "customer": ["C-1"],
            "sku": ["SHOE", "BOOT", "SOCK"],
            "location": ["S1", "S2", "S3"],
            "status": ["held", "committed", "shipped", "expired"],
        }
    ):
        expected = [id_ for id_, found in live.items() if fits(found, filters)]
        assert expected == await searched.ids(**filters), filters
        in_pages = [expected[at : at + 2] for at in range(0, len(expected), 2)] or [[]]
        assert in_pages == await searched.pages(2, **filters), filters
        seen.add(len(expected))
    assert {0, 1, 2, 8} <= seen
    assert all(found == live[id_] for id_, _, found in await searched.found())


async def test_sku_and_location_are_of_one_line(searched: Searched) -> None:
    crossed = await searched.held(("SHOE", 1, "S1"), ("BOOT", 1, "S2"), customer="C-1")
    await searched.journal()

    for more in ({}, {"customer": "C-1"}):
        assert [crossed] == await searched.ids(sku="SHOE", location="S1", **more)
        assert await searched.ids(sku="SHOE", location="S2", **more) == []


async def test_after_every_verb_it_is_what_the_ledger_has(searched: Searched, database: asyncpg.Connection) -> None:
    await life(searched)
    await searched.journal()

    found = await searched.found()
    assert len(found) == 12
    lines = set()
    for id_, shard, reservation_ in found:
        assert (0, await searched.live(id_)) == (shard, reservation_)
        assert id_ in await searched.ids(status=reservation_.status)
        lines |= {(line.sku, line.location, id_) for line in reservation_.lines}
    rows = await database.fetch("select sku, location, id from availability.reservation_line")
    assert lines == {tuple(row) for row in rows}, "what moved is found where it is now, and there alone"


async def test_one_batch_or_many_or_again_from_the_start_give_the_same(
    searched: Searched, database: asyncpg.Connection
) -> None:
    """Journaled after each operation and indexed one entry at a time, or all in one, or over what is there already."""
    await life(searched)
    await searched.journal()
    at_once = await contents(database, TABLES)

    await database.execute(
        "truncate availability.reservation, availability.reservation_line, availability.search_cursor"
    )
    index = await Index.open(as_user(searched.postgres_url, access.JOURNAL), 0)
    index._entries_max = 1  # noqa: SLF001
    while await index.advance():
        index._entries_max = 1  # noqa: SLF001
    await index.close()
    one_by_one = await contents(database, TABLES)

    await database.execute("update availability.search_cursor set epoch = 0, seq = 0")
    await searched.index()

    assert at_once == one_by_one
    assert at_once == await contents(database, TABLES)


async def test_an_older_state_never_replaces_a_newer_one(searched: Searched, database: asyncpg.Connection) -> None:
    """While the index goes over old entries again, what it shows does not go back in time."""
    id_ = await searched.held(("SHOE", 1, "S1"))
    await searched.journal()
    hold_at = await database.fetchval("select seq from availability.search_cursor")
    await searched.commit(id_, "O-1")
    await searched.journal()

    await database.execute("update availability.search_cursor set seq = $1", hold_at - 1)
    index = await Index.open(as_user(searched.postgres_url, access.JOURNAL), 0)
    assert await index.advance(entries_max=1) == 1
    await index.close()

    assert [id_] == await searched.ids(order_id="O-1")


async def test_rows_and_cursor_are_one_transaction(searched: Searched, database: asyncpg.Connection) -> None:
    """The server ends the session when all rows are written and only the cursor is missing: nothing of it stays."""
    await searched.held(("SHOE", 1, "S1"))
    await database.execute(
        "create function die() returns trigger language plpgsql as"
        " $$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$;"
        " create trigger die before update of seq on availability.search_cursor for each row execute function die()"
    )
    with pytest.raises(JOURNAL_FAILED):
        await searched.journal()
    assert await searched.ids() == []

    await database.execute("drop trigger die on availability.search_cursor")
    await searched.index()
    assert len(await searched.ids()) == 1


async def test_a_second_indexer_changes_nothing_behind_the_first_ones_back(
    searched: Searched, database: asyncpg.Connection
) -> None:
    await searched.held(("SHOE", 1, "S1"))
    await searched.journal()
    await searched.held(("SHOE", 1, "S1"))
    index = await Index.open(as_user(searched.postgres_url, access.JOURNAL), 0)
    await database.execute("update availability.search_cursor set seq = seq - 1")
    await searched.write()

    with pytest.raises(Superseded):
        await index.advance()
    await index.close()
    await searched.index()

    assert len(await searched.ids()) == 2


async def test_pages_have_no_gap_and_no_double_while_new_ones_arrive(searched: Searched) -> None:
    made = [await searched.held(("SHOE", 1, "S1"), customer="C-1") for _ in range(9)]
    searched.clock.now_ms -= 1
    made += [await searched.held(("SHOE", 1, "S1"), customer="C-1")]  # in the same millisecond as the one before
    await searched.journal()
    kinds = Filters(), Filters(sku="SHOE"), Filters(location="S1"), Filters(sku="SHOE", location="S1")
    for number, filters in enumerate((*kinds, Filters(customer="C-1"))):
        first = await searched.search.search("web", filters, limit=3)
        seen, after = [found.id for found in first.reservations], first.next
        newest = [await searched.held(("SHOE", 1, "S1"), customer="C-1") for _ in range(2)]
        await searched.commit(made[number], "O-1")
        await searched.journal()
        while after is not None:
            page = await searched.search.search("web", filters, limit=3, after=after)
            seen += [found.id for found in page.reservations]
            after = page.next

        assert len(seen) == len(set(seen))
        assert set(made) == set(seen), filters
        made += newest


async def test_a_page_that_ends_where_all_ends_leads_nowhere(searched: Searched) -> None:
    for _ in range(4):
        await searched.held(("SHOE", 1, "S1"))
    await searched.journal()

    assert [len(page) for page in await searched.pages(2)] == [2, 2]


async def test_another_clients_are_invisible(searched: Searched) -> None:
    theirs = await searched.held(("SHOE", 1, "S1"), client="app", customer="C-1")
    await searched.journal()

    assert [theirs] == await searched.ids("app")
    for filters in ({}, {"customer": "C-1"}, {"sku": "SHOE"}, {"location": "S1"}, {"status": "held"}):
        assert await searched.ids("web", **filters) == []


async def test_an_overdue_hold_is_held_until_its_expiry_is_journaled(searched: Searched) -> None:
    id_ = await searched.held(("SHOE", 1, "S1"), ttl_ms=1_000)
    searched.clock.now_ms += 1_000
    await searched.journal()
    assert [id_] == await searched.ids(status="held")

    await searched.ledger.expire(m.Expire())
    await searched.journal()

    assert ([], [id_]) == (await searched.ids(status="held"), await searched.ids(status="expired"))


async def test_what_is_bad_is_passed_over_and_the_rest_is_found(
    searched: Searched, database: asyncpg.Connection
) -> None:
    """An entry that is no entry, one whose record is none, and one that Postgres refuses."""
    unstorable = msgspec.structs.replace(reservation(), customer="a\0b")
    bodies = [
        encoded(entry(1)),
        b"\xc1",
        encoded(entry(3, operations=[operation("hold", "no-record", m.Location("W1"))])),
        encoded(entry(4, operations=[operation("hold", "refused", unstorable)])),
        encoded(entry(5)),
    ]
    writer = await JournalWriter.open(as_user(searched.postgres_url, access.JOURNAL), 0)
    await writer.write([RawEntry(Place(1, seq), body) for seq, body in enumerate(bodies, 1)])
    await writer.close()

    await searched.index()

    assert {"reservation-1-0", "reservation-5-0"} == set(await searched.ids())
    assert await database.fetchval("select seq from availability.search_cursor") == 5


@pytest.mark.parametrize("after", ["", "not-one", "MTIz", "MTIzIA", "ä", "====", "MSAKCg", "LTEgYQ"])
async def test_a_cursor_that_no_page_gave_is_refused(searched: Searched, after: str) -> None:
    with pytest.raises(BadCursor):
        await searched.search.search("web", Filters(), after=after)


async def test_the_age_of_a_page_is_told(searched: Searched, database: asyncpg.Connection) -> None:
    async def age() -> tuple[int | None, int | None]:
        page = await searched.search.search("web", Filters())
        return page.as_of_ms, page.lag_ms

    assert await age() == (None, None), "no journaler has ever looked"
    await searched.held(("SHOE", 1, "S1"))
    await searched.journal()
    indexed_ms = START_MS + 1
    assert (await age())[0] == indexed_ms, "nobody has looked at the stream: the last entry is all that is known"

    checked_ms = indexed_ms + 5_000
    await database.execute("insert into availability.journal_status values (0, 0, 0, false, $1)", checked_ms)
    assert (await age())[0] == checked_ms, "nothing was missing when the stream was last looked at"
    await database.execute("update availability.journal_status set backlog_entries = 2, lag_ms = 300")
    assert (await age())[0] == checked_ms - 300, "what is missing is that old"
    await database.execute("update availability.cursor set seq = seq + 1")
    assert (await age())[0] == indexed_ms, "the journal has more than can be searched"

    await database.execute("update availability.search_cursor set at_ms = 1000")
    as_of_ms, lag_ms = await age()
    assert as_of_ms == 1_000
    assert lag_ms is not None
    assert lag_ms > AT_MS - 86_400_000 * 1_000


async def test_the_process_indexes_what_comes_and_survives_the_loss_of_its_session(
    searched: Searched, database: asyncpg.Connection
) -> None:
    indexer = Indexer(as_user(searched.postgres_url, access.JOURNAL), 0)
    running = asyncio.create_task(indexer.run())

    async def write() -> None:
        await searched.write()
        indexer.wake()

    async def found(count: int) -> bool:
        return len(await searched.ids()) == count

    await searched.held(("SHOE", 1, "S1"))
    await write()
    await wait_until(lambda: found(1))
    await database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'availability journal'"
    )
    await searched.held(("SHOE", 1, "S1"))
    await write()
    await wait_until(lambda: found(2))

    indexer.stop()
    await asyncio.wait_for(running, 10)


async def test_over_http(searched: Searched) -> None:
    """The real search behind the API: the same reservation that the ledger answers, and a bad cursor is a 400."""
    world = World()
    world.api.edge.reservations = searched.search
    ids = [await searched.held(("SHOE", 1, "S1"), customer="C-1") for _ in range(3)]
    await searched.journal()

    first = (await world.call("GET", "/v1/reservations?customer=C-1&limit=2")).json()
    second = (await world.call("GET", f"/v1/reservations?customer=C-1&limit=2&after={first['next']}")).json()
    bad = await world.call("GET", "/v1/reservations?after=not-one")

    assert ids[::-1] == [found["id"] for page in (first, second) for found in page["reservations"]]
    assert second["next"] is None
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (400, "after")


async def test_a_page_is_found_without_a_scan(searched: Searched, database: asyncpg.Connection) -> None:
    """However many fit, a page reads little more than itself: of 20,000 reservations of a hot SKU, never analysed."""
    await database.execute("alter table availability.reservation set (autovacuum_enabled = off)")
    await database.execute("alter table availability.reservation_line set (autovacuum_enabled = off)")
    writer = await JournalWriter.open(as_user(searched.postgres_url, access.JOURNAL), 0)
    for seq in range(1, 101):
        holds = [operation("hold", f"r-{seq:03}-{number:03}", hot(seq)) for number in range(200)]
        await writer.write([RawEntry(Place(1, seq), encoded(entry(seq, operations=holds)))])
    await writer.close()
    await searched.index()

    for filters in (
        Filters(),
        Filters(status="held"),
        Filters(customer="guest"),
        Filters(order_id="none"),
        Filters(sku="HOT"),
        Filters(location="W1"),
        Filters(sku="HOT", location="W1"),
        Filters(sku="HOT", status="held"),
        Filters(sku="HOT", location="W1", status="held"),
        Filters(location="W1", status="held"),
        Filters(location="W1", customer="guest"),
    ):
        query, values = query_of(filters)
        for before in ((2**62, ""), (AT_MS + 50, "r-050-100")):
            [plan] = msgspec.json.decode(
                await database.fetchval(f"explain (analyze, buffers, format json) {query}", "web", *before, 51, *values)
            )
            blocks = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
            assert blocks < 1_000, filters


def hot(seq: int) -> m.Reservation:
    """One of the many for a SKU that everybody wants."""
    return msgspec.structs.replace(reservation(seq, "HOT"), created_at_ms=AT_MS + seq, customer="guest")
