"""``availability quarantine``: what could not be applied is looked at, tried again when mended, or settled."""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import pytest
from click.testing import CliRunner, Result
from feeding import NOW_MS, an_event, encoded
from servers import as_user

from availability import access
from availability.cli import main
from availability.feeds.decoding import Undecodable
from availability.feeds.intake import Message, RawEvent, Transport, take_all
from availability.feeds.messages import events_in
from ledger import Ledger, Location, PutLocation, Quarantine, QuarantineRow, Read, ReadItem, migrate

Value = TypeVar("Value")


@dataclass
class World:
    """A ledger without locations, its database, and the command line of whoever looks after them."""

    redis_url: str
    postgres_url: str

    def run(self, *arguments: str, answer: str = "") -> Result:
        environment = {
            "AVAILABILITY_REDIS_URL": as_user(self.redis_url, access.OPERATOR),
            "AVAILABILITY_POSTGRES_URL": as_user(self.postgres_url, access.OPERATOR),
        }
        return CliRunner().invoke(main, ["quarantine", *arguments], input=answer, env=environment)

    def send(self, *events: RawEvent, transport: Transport = "http") -> None:
        """Through the way in that the API and the feed use."""

        async def send(ledger: Ledger, quarantine: Quarantine) -> None:
            await take_all(ledger, quarantine, "shop-7", events, transport)

        self.ask(send)

    def open_shop(self, location: str = "DC-1", authority: str | None = None) -> None:
        async def put(ledger: Ledger, _quarantine: Quarantine) -> None:
            await ledger.put_location(PutLocation("tests", Location(location, authority=authority)))

        self.ask(put)

    def on_hand(self, sku: str = "SKU-1") -> int:
        async def read(ledger: Ledger, _quarantine: Quarantine) -> int:
            positions = await ledger.read(Read([ReadItem(sku, ["DC-1"])]))
            return sum(at.position.on_hand for at in positions.items[0].positions)

        return self.ask(read)

    def waiting(self) -> list[QuarantineRow]:
        return self.ask(lambda _ledger, quarantine: quarantine.list())

    def ask(self, question: Callable[[Ledger, Quarantine], Coroutine[Any, Any, Value]]) -> Value:
        async def ask() -> Value:
            ledger, quarantine = Ledger(self.redis_url), await Quarantine.open(as_user(self.postgres_url, access.API))
            try:
                return await question(ledger, quarantine)
            finally:
                await ledger.close()
                await quarantine.close()

        return asyncio.run(ask())

    def execute(self, statement: str, *values: int) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self.postgres_url)
            try:
                await connection.execute(statement, *values)
            finally:
                await connection.close()

        asyncio.run(execute())


@pytest.fixture
def world(valkey_url: str, postgres_url: str) -> World:
    asyncio.run(migrate(postgres_url))
    return World(valkey_url, postgres_url)


BARE = an_event(id=None, source=None, occurred_at=None)
ATTRIBUTES = {"specversion": "1.0", "id": "ce-1", "source": "wms", "type": "t", "time": "2025-06-01T00:00:00Z"}


def binary(**attributes: str) -> dict[str, str]:
    return {f"ce-{name}": value for name, value in (ATTRIBUTES | attributes).items()}


def raw(**fields: object) -> RawEvent:
    return RawEvent(encoded(an_event(**fields)))


def of_feed(body: object, headers: dict[str, str] | None = None, subject: str = "stock.wms.counts") -> list[RawEvent]:
    """As the feed has them that are in a message with this body."""
    return events_in(Message(body if isinstance(body, bytes) else encoded(body), headers), subject, NOW_MS)


def test_nothing_waits(world: World) -> None:
    for arguments in (["list"], ["replay", "--all"]):
        empty = world.run(*arguments)
        assert (empty.exit_code, empty.stdout) == (0, "the quarantine is empty\n")
    assert world.run("list", "--json").stdout == ""


def test_pages_start_with_the_newest(world: World) -> None:
    world.send(*(raw(id=f"e-{number}") for number in range(1, 6)))

    first = world.run("list", "--limit", "2")
    heading, *rows, more = first.stdout.splitlines()
    assert heading.split() == ["ID", "RECEIVED", "SOURCE", "EVENT", "REASON", "DETAIL"]
    assert [row.split()[3:5] for row in rows] == [["e-5", "unknown-location"], ["e-4", "unknown-location"]]

    *_, before = more.split()
    assert more == f"5 wait; for the next page: --before {before}"
    last = world.run("list", "--json", "--before", before)
    assert [json.loads(line)["event"] for line in last.stdout.splitlines()] == ["e-3", "e-2", "e-1"]
    assert world.run("list", "--before", "1").stdout == "nothing before 1; 5 wait\n"


def test_an_event_is_shown_with_its_bytes(world: World) -> None:
    body = b'{"id": "e-1", "quantity": "\xff\x1b[2J"}'
    world.send(RawEvent(body))
    (row,) = world.waiting()

    shown = world.run("show", str(row.id))
    assert shown.exit_code == 0
    assert "reason       invalid\n" in shown.stdout
    assert shown.stdout.endswith('\n{"id": "e-1", "quantity": "\\xff\\x1b[2J"}\n'), "and no byte acts on the terminal"
    assert world.run("show", str(row.id), "--raw").stdout_bytes == body
    assert "raw_base64" in json.loads(world.run("list", "--json").stdout)
    assert world.run("show", "999").exit_code == 1


def test_what_has_its_cause_mended_is_applied_once(world: World) -> None:
    """P8."""
    world.send(raw(), raw(id="e-2", kind="delta", quantity=2, occurred_at="2025-06-02T00:00:00Z"))
    second, first = (line.split()[0] for line in world.run("list").stdout.splitlines()[1:])
    world.open_shop()

    replayed = world.run("replay", first)
    assert (replayed.exit_code, replayed.stdout) == (0, "1 applied\n")
    assert world.on_hand() == 5
    again = world.run("replay", first)
    assert again.exit_code == 1
    assert again.stderr.startswith(f"{first} was replayed at ")

    world.send(raw(id="e-2", kind="delta", quantity=2, occurred_at="2025-06-02T00:00:00Z"))
    assert world.run("replay", "--all").stdout == "1 duplicate\n"
    assert world.on_hand() == 7
    assert world.waiting() == []
    assert world.run("show", second).stdout.splitlines()[1] == "state        replayed"


def test_what_is_refused_again_stays_with_its_new_reason(world: World) -> None:
    world.send(raw(id="good"), raw(id="bad", location="DC-2"), RawEvent(b"nonsense"))
    good, bad, nonsense = (row.id for row in world.waiting())
    world.open_shop()
    world.execute("update availability.quarantine set reason = 'late' where id = $1", bad)

    replayed = world.run("replay", "--all")
    assert replayed.exit_code == 1
    assert replayed.stdout.splitlines() == [
        f"{bad} stays: unknown-location",
        f"{nonsense} stays: invalid: JSON is malformed: invalid character (byte 4)",
        "1 applied, 2 quarantined",
    ]
    assert [(row.id, row.reason) for row in world.waiting()] == [(bad, "unknown-location"), (nonsense, "invalid")]
    assert world.on_hand() == 5
    assert good < bad


def test_what_has_become_a_view_waits_no_longer(world: World) -> None:
    world.send(raw(source="erp"))
    world.open_shop(authority="wms")
    replayed = world.run("replay", "--all")
    assert (replayed.exit_code, replayed.stdout) == (0, "1 view\n")
    assert (world.waiting(), world.on_hand()) == ([], 0)


def test_a_reason_that_the_same_bytes_wait_with_already_is_not_noted_twice(world: World) -> None:
    world.send(raw())
    world.execute("update availability.quarantine set reason = 'late'")
    world.send(raw())
    assert world.run("replay", "--all").stdout.splitlines()[-1] == "2 quarantined"
    assert [row.reason for row in world.waiting()] == ["late", "unknown-location"]


def test_more_than_a_page_is_replayed(world: World) -> None:
    world.send(*(raw(id=f"e-{number}", kind="delta", quantity=1) for number in range(250)))
    world.open_shop()
    assert world.run("replay", "--all").stdout == "250 applied\n"
    assert world.on_hand() == 250


def test_an_event_of_a_feed_is_still_only_its_source_s(world: World) -> None:
    """P10."""
    world.send(*of_feed(an_event(source="erp")), transport="nats")
    world.open_shop()
    assert (
        world.run("replay", "--all").stdout.splitlines()[0].endswith("stays: source-mismatch: the subject is of `wms`")
    )
    world.send(*of_feed(an_event(id="e-2"), subject="stock.%FF.counts"), transport="nats")
    assert "stays: source-mismatch: the subject names no source" in world.run("replay", "--all").stdout
    assert world.on_hand() == 0


def test_a_message_that_was_not_understood_then_is_taken_apart_now(world: World) -> None:
    """As after an upgrade: the row has the whole message, here a list and CloudEvents."""
    refusal = Undecodable("unsupported", "not yet")
    messages = [
        Message(encoded([an_event(id="e-1"), an_event(id="e-2", sku="SKU-2")])),
        Message(encoded({**ATTRIBUTES, "id": "e-3", "data": BARE | {"sku": "SKU-3"}})),
        Message(encoded(BARE | {"sku": "SKU-4"}), binary(id="e-4")),
        Message(encoded(BARE | {"sku": "SKU-4"}), binary(id="e-5")),
        Message(b'{"specversion":'),
    ]
    subject = "stock.wms.counts"
    refused = [RawEvent(message.body, None, subject, "wms", NOW_MS, refusal, message) for message in messages]
    world.send(*refused, *refused, transport="nats")
    assert len(world.waiting()) == len(messages), "each waits once, and the same bytes in another envelope are another"
    world.open_shop()
    assert world.run("replay", "--all").stdout.splitlines()[-1] == "5 applied, 1 quarantined"
    assert [world.on_hand(f"SKU-{number}") for number in range(1, 5)] == [5] * 4


NOWHERE = {
    "structured": ({**ATTRIBUTES, "data": BARE}, None),
    "structured, in base64": ({**ATTRIBUTES, "data_base64": b64encode(encoded(BARE)).decode()}, None),
    "structured, with its type": (
        {**ATTRIBUTES, "data": BARE},
        {"Content-Type": "application/cloudevents+json", "Nats-Msg-Id": "1"},
    ),
    "binary": (BARE, binary()),
    "a list in one": ({**ATTRIBUTES, "data": [BARE, BARE | {"sku": "SKU-2"}]}, None),
    "a list around one": ([an_event(), an_event(id="e-2", sku="SKU-2")], None),
    "none": (an_event(id="ce-1"), None),
}


@pytest.mark.parametrize(("body", "headers"), NOWHERE.values(), ids=NOWHERE)
def test_what_only_the_envelope_says_is_kept(world: World, body: object, headers: dict[str, str] | None) -> None:
    """P8: an event's id, time and sequence may stand in its CloudEvent alone."""
    world.send(*of_feed(body, headers), transport="nats")
    rows = world.waiting()
    assert {row.reason for row in rows} == {"unknown-location"}
    if len(rows) == 1:
        assert rows[0].raw == encoded(body), "the message as it came"
    world.open_shop()

    assert world.run("replay", "--all").exit_code == 0
    assert world.on_hand() == 5
    world.send(*of_feed(body, headers), transport="nats")
    assert world.waiting() == [], "the feed's own redelivery is known by its id"
    assert "Nats-Msg-Id" not in str([row.envelope for row in rows])


def test_an_event_is_settled_without_being_applied_when_somebody_agrees(world: World) -> None:
    world.send(raw())
    (row,) = world.waiting()

    kept = world.run("discard", str(row.id), answer="n\n")
    assert kept.exit_code == 1
    assert world.run("discard", str(row.id)).exit_code == 1, "nobody answers"
    assert [row] == world.waiting()

    assert world.run("discard", str(row.id), "--yes").exit_code == 0
    assert world.waiting() == []
    for arguments in (["discard", str(row.id), "--yes"], ["replay", str(row.id)]):
        assert world.run(*arguments).stderr.startswith(f"{row.id} was discarded at ")
    for arguments in (["discard", "999", "--yes"], ["replay", "999"]):
        refused = world.run(*arguments)
        assert (refused.exit_code, refused.stderr) == (1, "there is no event 999 in the quarantine\n")


def test_nothing_is_applied_to_a_ledger_that_is_behind_its_journal(world: World) -> None:
    """P9."""
    world.send(raw())
    world.open_shop()
    world.execute("insert into availability.cursor (shard, epoch, seq) values (0, 1, 7)")
    world.execute("insert into availability.journal_status values (0, 0, 0, true, $1)", time.time_ns() // 1_000_000)
    refused = world.run("replay", "--all")
    assert refused.exit_code == 1
    assert "behind its journal" in refused.stderr
    assert world.on_hand() == 0


def test_what_cannot_be_asked_is_not_called_done(world: World) -> None:
    world.send(raw())
    for name, arguments, said in (
        ("postgres_url", ["list"], "Postgres: "),
        ("redis_url", ["replay", "--all"], "the ledger: "),
    ):
        away = World(**{**vars(world), name: f"{'redis' if name == 'redis_url' else 'postgresql'}://127.0.0.1:1"})
        failed = away.run(*arguments)
        assert failed.exit_code == 2, failed.output
        assert failed.stderr.startswith(said)
    assert CliRunner().invoke(main, ["quarantine", "list"]).exit_code == 2
    assert CliRunner().invoke(main, ["quarantine", "list", "--data-dir", "/nowhere"]).exit_code == 2
    assert len(world.waiting()) == 1
