"""What stock feeds and the catalog may rely on over HTTP. Over the plain rules, without servers."""

from typing import Any

import msgspec
import pytest
from api_world import START_MS, World, text_of

from ledger import JOURNAL_FAILED, QuarantinedEvent

pytestmark = pytest.mark.anyio

EVENT = {
    "id": "E1",
    "source": "wms",
    "kind": "snapshot",
    "sku": "SHOE",
    "location": "W1",
    "quantity": 7,
    "occurred_at": text_of(START_MS + 1),
}
COUNT = {"as_of": text_of(START_MS + 1_000), "lines": [{"sku": "SHOE", "quantity": 8}, {"sku": "BOOT", "quantity": 2}]}
COUNTS = "/v1/locations/W1/counts/"


@pytest.fixture
async def world() -> World:
    world = World()
    await world.stock()
    return world


async def results(world: World, *events: object, token: str | None = None) -> Any:
    raw = b'{"events":[' + b",".join(e if isinstance(e, bytes) else msgspec.json.encode(e) for e in events) + b"]}"
    answer = await world.call("POST", "/v1/stock-events", raw=raw, token=token)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


async def test_events_are_judged_one_by_one(world: World) -> None:
    told = await results(
        world,
        EVENT,
        EVENT,
        EVENT | {"id": "E2", "occurred_at": text_of(START_MS)},
        EVENT | {"id": "E3", "kind": "delta", "quantity": -2, "occurred_at": text_of(START_MS + 2)},
        EVENT | {"id": "E4", "location": "NOWHERE"},
    )

    assert told == [
        {"id": "E1", "outcome": "applied"},
        {"id": "E1", "outcome": "duplicate"},
        {"id": "E2", "outcome": "superseded"},
        {"id": "E3", "outcome": "applied"},
        {"id": "E4", "outcome": "quarantined", "reason": "unknown-location"},
    ]
    assert await world.available() == 5


BAD_EVENTS = [
    (b"1", None),
    (b"null", None),
    (b'"text"', None),
    (b"[[[]]]", None),
    (b"{}", None),
    (b'{"id":"B"}', "B"),
    (msgspec.json.encode(EVENT | {"id": "B", "quantity": 2**90}), "B"),
    (msgspec.json.encode(EVENT | {"id": "B", "quantity": 1.0}), "B"),
    (msgspec.json.encode(EVENT | {"id": "B", "quantity": -1}), "B"),
    (msgspec.json.encode(EVENT | {"id": "B", "sku": "A\x00"}), "B"),
    (msgspec.json.encode(EVENT | {"id": "B", "occurred_at": "yesterday"}), "B"),
    (msgspec.json.encode(EVENT | {"id": "B", "more": 1}), "B"),
    (msgspec.json.encode(EVENT | {"id": "B"}).replace(b"SHOE", b"SH\xffOE"), "B"),
    (b"[" * 900 + b"]" * 900, None),
]


@pytest.mark.parametrize(("raw", "event"), BAD_EVENTS)
async def test_a_bad_event_is_kept_raw_and_stops_no_other(world: World, raw: bytes, event: str | None) -> None:
    told = await results(world, EVENT, raw, EVENT | {"id": "E9", "sku": "BOOT"})

    assert [result["outcome"] for result in told] == ["applied", "quarantined", "applied"]
    assert (event, "invalid") == (told[1]["id"], told[1]["reason"])
    assert [(raw, "invalid", "http")] == [(kept.raw, kept.reason, kept.transport) for kept in world.quarantine.events]
    assert (await world.available(), await world.available("BOOT")) == (7, 7)


async def test_without_a_quarantine_nothing_is_called_quarantined(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_events: list[QuarantinedEvent]) -> None:
        raise JOURNAL_FAILED[0]("the disk of db-7 is full")

    monkeypatch.setattr(world.quarantine, "store", fail)
    alone = await world.call("POST", "/v1/stock-events", {"events": [1]})
    mixed = await world.call("POST", "/v1/stock-events", {"events": [EVENT, 1]})

    assert (alone.status_code, alone.json()["type"]) == (503, "/problems/not-ready")
    assert (mixed.status_code, mixed.json()["type"]) == (504, "/problems/unknown")
    assert "db-7" not in alone.text + mixed.text


async def test_a_token_for_some_locations_touches_no_other(world: World) -> None:
    await world.stock("BOOT", "S1", 1)
    token = world.token_for("store-1", locations=["S1"])
    inside = await results(world, EVENT | {"location": "S1"}, b"{}", token=token)
    before = world.everything()
    for events in ([EVENT | {"location": "S1", "id": "E2"}, EVENT], [{"location": "W1"}], [{"location": "NOWHERE"}]):
        answer = await world.call("POST", "/v1/stock-events", {"events": events}, token=token)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
    for allowed in (token, world.token_for("nobody", locations=[])):
        answer = await world.call("PUT", f"{COUNTS}C1", COUNT, token=allowed)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")

    assert [result["outcome"] for result in inside] == ["applied", "quarantined"]
    assert before == world.everything()


async def test_a_count_tells_what_it_changed(world: World) -> None:
    answer = await world.call("PUT", f"{COUNTS}MONDAY", COUNT)

    assert answer.json() == {
        "count_id": "MONDAY",
        "results": [
            {"sku": "SHOE", "outcome": "applied", "on_hand": 8, "previous": 10},
            {"sku": "BOOT", "outcome": "applied", "on_hand": 2, "previous": 0},
        ],
    }
    assert (await world.available(), await world.available("BOOT")) == (8, 2)


async def test_the_same_count_again_is_a_duplicate_and_another_one_is_refused(world: World) -> None:
    await world.call("PUT", f"{COUNTS}MONDAY", COUNT)
    before = world.everything()

    again = await world.call("PUT", f"{COUNTS}MONDAY", COUNT)
    other = await world.call("PUT", f"{COUNTS}MONDAY", COUNT | {"lines": COUNT["lines"][:1]})
    later = await world.call("PUT", f"{COUNTS}MONDAY", COUNT | {"as_of": text_of(START_MS + 2_000)})

    assert [result["outcome"] for result in again.json()["results"]] == ["duplicate"] * 2
    assert (other.status_code, other.json()["errors"][0]["field"]) == (422, "lines")
    assert (later.status_code, later.json()["errors"][0]["field"]) == (422, "as_of")
    assert before == world.everything()


async def test_counts_of_other_places_and_clients_are_other_counts(world: World) -> None:
    await world.stock("SHOE", "W1:a", 1)
    answers = [
        await world.call("PUT", "/v1/locations/W1%3Aa/counts/b", COUNT),
        await world.call("PUT", "/v1/locations/W1/counts/a%3Ab", COUNT),
        await world.call("PUT", "/v1/locations/W1/counts/b", COUNT, token=world.token_for("other")),
    ]

    outcomes = {result["outcome"] for answer in answers for result in answer.json()["results"]}
    assert [answer.status_code for answer in answers] == [200] * 3
    assert "duplicate" not in outcomes


async def test_a_count_at_no_location_is_404(world: World) -> None:
    answer = await world.call("PUT", "/v1/locations/NOWHERE/counts/C1", COUNT)

    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


async def test_a_persons_count_is_believed_where_another_is_the_authority(world: World) -> None:
    await world.call("PUT", "/v1/locations/W1", {"type": "warehouse", "authority": "erp"})

    told = await results(world, EVENT)
    await world.call("PUT", f"{COUNTS}C1", COUNT)

    assert told[0]["outcome"] != "applied"
    assert await world.available() == 8


async def test_locations_are_put_whole_and_listed_by_id(world: World) -> None:
    full = {
        "name": "Köln 1",
        "type": "store",
        "authority": "wms",
        "lat": 50.9,
        "lon": -7,
        "priority": 0,
        "enabled": False,
    }
    first = await world.call("PUT", "/v1/locations/S%2F1", full)
    again = await world.call("PUT", "/v1/locations/S%2F1", full)
    replaced = await world.call("PUT", "/v1/locations/W1", {"type": "dropship"})
    listed = await world.call("GET", "/v1/locations")

    plain = {
        "id": "W1",
        "name": None,
        "type": "dropship",
        "authority": None,
        "lat": None,
        "lon": None,
        "priority": 100,
        "enabled": True,
    }
    assert full | {"id": "S/1"} == first.json() == again.json()
    assert plain == replaced.json()
    assert {"locations": [first.json(), plain]} == listed.json()


async def test_a_location_that_is_not_enabled_promises_nothing(world: World) -> None:
    await world.call("PUT", "/v1/locations/W1", {"type": "warehouse", "enabled": False})

    assert await world.available() == 0
