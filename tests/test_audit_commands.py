"""``availability audit`` and ``explain`` as an operator runs them, and what the keeper and ``doctor`` say of it."""

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from journal_entries import following
from ledgers import START_MS, Clock, Shop
from prometheus_client import CollectorRegistry
from redis import Redis
from servers import as_owner, as_user, settings_as
from waiting import wait_until, wait_until_plain

from availability import access, doctor
from availability.audit_report import audit_said
from availability.auditor import AuditFigures, Auditor
from availability.cli import main
from availability.shapes import time_text
from ledger import (
    SCOPES,
    AuditStatus,
    ClaimsStanding,
    Done,
    Finding,
    Journal,
    Ledger,
    Outbox,
    Place,
    make_checkpoint,
    migrate,
)

MINUTE_MS = 60_000


@dataclass
class World:
    """A ledger with a short story, its journal, and the command line."""

    redis_url: str
    postgres_url: str
    reservation: str = ""

    async def live(self) -> None:
        clock = Clock()
        await migrate(self.postgres_url)
        ledger = Ledger(self.redis_url, now_ms=clock)
        journal = await Journal.open(self.postgres_url)
        shop = Shop(ledger, clock)
        await shop.open()
        await shop.stock("MUG", 12, id="count-1", at_ms=START_MS - MINUTE_MS)
        clock.now_ms += MINUTE_MS
        await shop.event("delta", "MUG", -2, id="sale-1")
        held = await shop.hold(("MUG", 2), ttl_ms=30 * MINUTE_MS)
        assert isinstance(held, Done)
        self.reservation = held.id
        clock.now_ms += MINUTE_MS
        ordered = await shop.hold(("MUG", 1), client="app")
        assert isinstance(ordered, Done)
        await shop.commit(ordered.id, client="app", order_id="ORDER-1")
        await shop.keep("MUG", 3)
        await shop.stock("MUG", 5, location="S1-NOT-THERE")
        place = (await ledger.standing(0, Place(1, 1))).place

        async def complete() -> bool:
            return (await journal.cursor(0)).place == place

        async with following(self.redis_url, self.postgres_url):
            await wait_until(complete)
        outbox = await Outbox.open(self.postgres_url, 0)
        await outbox.done(place)  # as if it had been announced
        await outbox.close()
        await ledger.close()
        await journal.close()

    def run(self, *arguments: str) -> Result:
        urls = as_user(self.redis_url, access.OPERATOR), as_user(self.postgres_url, access.OPERATOR)
        environment = dict(zip(("AVAILABILITY_REDIS_URL", "AVAILABILITY_POSTGRES_URL"), urls, strict=True))
        return CliRunner().invoke(main, arguments, env=environment)

    def change(self, units: int) -> None:
        """More of the mug at S1 than anybody told."""
        with Redis.from_url(as_owner(self.redis_url)) as client:
            packed: Any = client.hget("{s0}:sku:MUG", "S1")
            fields = msgspec.msgpack.decode(packed)
            fields[0] += units
            client.hset("{s0}:sku:MUG", "S1", msgspec.msgpack.encode(fields))


@pytest.fixture
def world(valkey_url: str, postgres_url: str) -> World:
    world = World(valkey_url, postgres_url)
    asyncio.run(world.live())
    return world


def test_the_audit_tells_what_differs_and_what_to_do(world: World) -> None:
    """P7."""
    agrees = world.run("audit")
    assert (agrees.exit_code, agrees.stdout) == (
        0,
        "the ledger is what its journal says: 1 positions and 2 reservations, 7 journal entries\n",
    )
    made = asyncio.run(make_checkpoint(world.postgres_url, 1))
    since = f"0 journal entries since checkpoint {made.number} (`--from-start` reads all)\n"
    assert world.run("audit").stdout.endswith(since)
    assert world.run("audit", "--from-start").stdout == agrees.stdout
    world.change(5)
    differs = world.run("audit")
    assert differs.exit_code == 1
    assert "position-differs: MUG@S1 (shard 0, at 1-7)" in differs.stdout
    assert 'found: {"on_hand": 15}' in differs.stdout
    assert 'the journal: {"on_hand": 10, "claimed by reservations": 3}' in differs.stdout
    assert "last touched by entries 1-6, 1-5, 1-4" in differs.stdout
    assert "then `availability rebuild` makes the ledger from the journal" in differs.stdout
    told = json.loads(world.run("audit", "--json").stdout)
    assert (told["agrees"], told["counts"]) == (False, {"position-differs": 1})
    assert told["differences"][0]["subject"] == "MUG@S1"
    assert world.run("rebuild", "--yes").exit_code == 0
    assert world.run("audit").exit_code == 0


def test_what_cannot_be_audited_ends_with_2(world: World) -> None:
    nowhere = World("redis://127.0.0.1:1", world.postgres_url).run("audit")
    assert (nowhere.exit_code, "not audited" in nowhere.stderr) == (2, True)
    nowhere = World(world.redis_url, "postgresql://nobody@127.0.0.1:1/none").run("audit")
    assert (nowhere.exit_code, "not audited" in nowhere.stderr) == (2, True)


def test_a_position_is_explained_by_its_parts(world: World) -> None:
    """P6: on hand, claims and safety stock are those of the answer, and add up."""
    lines = world.run("explain", "MUG", "S1").stdout.splitlines()
    assert lines[0].startswith("4 are available of MUG at S1, at ")
    assert lines[0].endswith(" (as entry 1-7 of shard 0 left it)")
    shown = [" ".join(line.split()) for line in lines]
    assert shown[2:13] == [
        "on hand 10",
        f"12 snapshot of {time_text(START_MS - MINUTE_MS)}, count-1 of wms",
        f"+ -2 delta of {time_text(START_MS + MINUTE_MS)}, sale-1 of wms",
        "- held 2",
        f"2 reservation {world.reservation} of web, until {time_text(START_MS + 31 * MINUTE_MS)}",
        "- committed 1",
        shown[8],
        "- picked 0",
        "- safety stock 3",
        "= available 4",
        "",
    ]
    assert shown[8].endswith("of app, order ORDER-1")
    assert shown[13:16] == [
        "the newest movements:",
        "TIME VERB FROM TO QUANTITY WHAT AUTHOR ENTRY",
        shown[15],
    ]
    assert shown[15].startswith(f"{time_text(START_MS + 2 * MINUTE_MS)} commit held committed 1 reservation ")
    assert shown[-1] == f"{time_text(START_MS)} apply outside on_hand 12 event count-1 of wms feed 1-2"


def test_a_position_is_explained_as_it_was(world: World) -> None:
    """Then, and when a hold's time was over although no entry said so yet."""
    before = world.run("explain", "MUG", "S1", "--at", time_text(START_MS + MINUTE_MS - 1), "--json")
    told = json.loads(before.stdout)["explanation"]
    assert (told["available"], told["position"]["on_hand"], told["claims"]) == (12, 12, [])
    later = json.loads(world.run("explain", "MUG", "S1", "--at", "2028-01-01T00:00:00Z", "--json").stdout)
    told = later["explanation"]
    assert (told["available"], told["overdue"], told["other"]) == (6, 2, 0)
    assert (told["position"]["held"], [claim["is_overdue"] for claim in told["claims"]]) == (2, [True, False])


def test_a_rebuilt_ledger_is_explained_as_before(world: World) -> None:
    """P6: by the events and movements that people know, and not by the rebuild's."""

    def explained(*more: str) -> Any:
        return json.loads(world.run("explain", "MUG", "S1", "--json", *more).stdout)["explanation"]

    before = explained()
    for shards in ((), ("--shards", "4")):
        assert world.run("rehome" if shards else "rebuild", "--yes", *shards).exit_code == 0
        after = explained()
        assert after.pop("entry") != before["entry"]
        apart = ("entry", "at_ms", "shard")
        assert [after[name] for name in before if name not in apart] == [
            before[name] for name in before if name not in apart
        ]
    at_ms = START_MS + 2 * MINUTE_MS
    then = explained("--at", time_text(at_ms))
    assert (then["available"], then["movements"]) == (before["available"], before["movements"])


def test_what_is_not_known_is_said_kindly(world: World) -> None:
    for arguments, code, text in (
        (("MUG", "S9"), 1, "nobody had told of MUG at S9\nit was known at S1"),
        (("MUGS", "S1"), 1, "nor anywhere else"),
        (("MUG", "S1", "--at", "2026-01-01T00:00:00Z"), 1, "the journal begins at 2027-01-15T08:00:00.000Z"),
        (("MUG", "S1", "--at", "yesterday"), 2, "yesterday is no time"),
        (("MUG", "S1", "--at", "2028-01-01"), 2, "2028-01-01 is no time"),
    ):
        told = world.run("explain", *arguments)
        assert (told.exit_code, text in told.output) == (code, True), told.output


def test_the_keeper_audits_on_and_on_and_doctor_tells(world: World, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_as(access.KEEPER, world.redis_url, world.postgres_url)
    registry = CollectorRegistry()
    auditor = Auditor(settings, AuditFigures(registry), round_pause_s=0.05)

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"availability_audit_{name}", labels) or 0.0

    def rounds(count: float) -> bool:
        return all(value("rounds_total", scope=scope) >= count for scope in SCOPES)

    def finding(subject: str = "the audit") -> tuple[str, str]:
        return next((one.verdict, one.text) for one in asyncio.run(doctor.examine(settings)) if one.subject == subject)

    thread = threading.Thread(target=auditor.run)
    thread.start()
    try:
        wait_until_plain(lambda: rounds(2))
        assert value("differences", kind="position-differs") == 0
        assert finding()[0] == "ok"
        assert finding("the audit of reservations")[0] == "ok"
        assert (value("behind_entries", scope="claims"), value("behind_seconds", scope="claims")) == (0, 0)
        world.change(5)
        wait_until_plain(lambda: value("differences", kind="position-differs") == 1)
        verdict, text = wait_until_plain(lambda: finding() if finding()[0] == "unsafe" else None) or ("", "")
        assert (verdict, "found 1 position-differs" in text, "run `availability audit`" in text) == (
            "unsafe",
            True,
            True,
        )
        world.change(-5)
        wait_until_plain(lambda: value("differences", kind="position-differs") == 0)
    finally:
        auditor.stop()
        thread.join()
    assert 0 < value("cpu_seconds_total") < 5
    assert "position-differs: MUG@S1 in shard 0" in caplog.text
    assert "the audit finds nothing wrong any more (differences)" in caplog.text


def test_how_far_the_audit_of_reservations_is_behind_is_told(world: World) -> None:
    """P9: while a sale is faster than it, and nothing is wrong with the stock."""
    settings = settings_as(access.KEEPER, world.redis_url, world.postgres_url)

    async def told() -> list[Finding]:
        status = await AuditStatus.open(settings.postgres_url)
        await status.tell({}, [], ClaimsStanding(1_000_000, 120_000, 7), "stock")
        first = await audit_said(settings.postgres_url)
        await status.tell({}, [], ClaimsStanding(9, 1_000, 7), "claims")
        second = await audit_said(settings.postgres_url)
        await status.close()
        return [*first, *second]

    stock, behind, same, near = asyncio.run(told())
    assert (stock.verdict, same.verdict) == ("ok", "ok")
    assert str(behind).startswith(
        "the audit of reservations was never complete, and is 1,000,000 entries (120 s) behind"
    )
    assert behind.verdict == "warning"
    assert near.verdict == "ok"
    assert "9 entries (1 s) behind the ledger; 7 that changed meanwhile were left to the next round" in near.text
