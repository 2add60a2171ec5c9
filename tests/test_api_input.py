"""What bad input gets: a 4xx that names the field, never a 5xx, and nothing changed. Over the plain rules."""

from typing import Any

import msgspec
import pytest
from api_world import START_MS, World, text_of

pytestmark = pytest.mark.anyio

DEEP = b"[" * 100_000
NAME_64 = "N" * 64
TIME = text_of(START_MS)
LINE = {"sku": "SHOE", "quantity": 1, "location": "W1"}
NOT_NAMES = ["", " SHOE", "SHOE ", "SHOE\n", "SH\x00OE", "SHÖE", "SHOE\u200b", "N" * 65, None, 7, ["SHOE"]]
NOT_QUANTITIES = [0, -1, 1_000_001, 2**31, 2**53 + 1, 2**63, 2**90, -(2**90), 1.0, 1.5, 1e300, "1", True, None, [], {}]
NOT_DISPOSITIONS: list[object] = ["", "Sellable", "on_hand", "sellable\n", None, 1, []]
NOT_TIMES = [
    "",
    "2026-11-23",
    "2026-11-23T10:00:00",
    "2026-02-30T10:00:00Z",
    "1969-12-31T23:59:59Z",
    1_795_429_200,
    None,
]


@pytest.fixture
async def world() -> World:
    world = World()
    await world.stock()
    world.held = (await world.hold())["id"]
    return world


def hold_with(**changed: Any) -> dict[str, Any]:
    return {"lines": [LINE], **changed}


def line_with(**changed: Any) -> dict[str, Any]:
    return hold_with(lines=[LINE, LINE | changed])


HOLDS = [
    *((line_with(sku=name), "lines[1].sku") for name in NOT_NAMES),
    *((line_with(quantity=quantity), "lines[1].quantity") for quantity in NOT_QUANTITIES),
    *((line_with(location=name), "lines[1].location") for name in NOT_NAMES if name is not None),
    *((hold_with(channel=name), "channel") for name in NOT_NAMES if name is not None),
    *((hold_with(ttl_seconds=seconds), "ttl_seconds") for seconds in (0, -1, 86_401, 1.0, "600", True, None, 2**90)),
    (line_with(extra=1), "lines[1].extra"),
    ({"lines": [LINE, {"sku": "SHOE"}]}, "lines[1].quantity"),
    ({"lines": [LINE, {"quantity": 1}]}, "lines[1].sku"),
    ({"lines": []}, "lines"),
    ({"lines": [LINE] * 101}, "lines"),
    ({"lines": {}}, "lines"),
    ({"lines": None}, "lines"),
    ({}, "lines"),
    ([LINE], "body"),
    ("text", "body"),
    (None, "body"),
    (hold_with(extra=1), "extra"),
    (hold_with(expires_at=TIME), "expires_at"),
    (hold_with(client="app"), "client"),
    (hold_with(**{"x" * 40_000: 1}), "x" * 300),
    (hold_with(customer="C" * 129), "customer"),
    (hold_with(customer="C\x00"), "customer"),
    (hold_with(mode="some"), "mode"),
    (hold_with(strategy="best"), "strategy"),
    (hold_with(max_splits=-1), "max_splits"),
    (hold_with(max_splits=2**90), "max_splits"),
    (hold_with(by="23.11.2026"), "by"),
    (hold_with(by="2026-02-30"), "by"),
    (hold_with(by="2026-11-22"), "by"),
    (hold_with(by=TIME), "by"),
    (hold_with(near={"lat": 91, "lon": 0}), "near.lat"),
    (hold_with(near={"lat": 0, "lon": "0"}), "near.lon"),
    (hold_with(near={"lat": 0}), "near.lon"),
]

RAW = [
    (b"", "body"),
    (b" ", "body"),
    (b"{", "body"),
    (b'{"lines":[}', "body"),
    (b"\xff\xfe", "body"),
    (b"\xef\xbb\xbf{}", "body"),
    (b'{"lines":[{"sku":"\xff","quantity":1}]}', "body"),
    (b'{"lines":[{"sku":"\\ud800","quantity":1}]}', "body"),
    (b'{"lines":[{"sku":"A","quantity":NaN}]}', "body"),
    (b'{"lines":[{"sku":"A","quantity":1e400}]}', "lines[0].quantity"),
    (b'{"lines":' + DEEP[:50_000], "lines[0]"),
    (b'{"lines":[]} trailing', "lines"),
    (b'{"lines":[{"sku":"A","quantity":1}]} trailing', "body"),
    (b'{"by":' + DEEP[:60_000], "by"),
]

VERBS = [
    *(("extend", {"ttl_seconds": seconds}, "ttl_seconds") for seconds in (0, 86_401, 1.0, "1", True, None)),
    ("extend", {}, "ttl_seconds"),
    ("extend", {"ttl_seconds": 1, "ttl_ms": 1}, "ttl_ms"),
    *(("commit", {"order_id": order}, "order_id") for order in ("", " O", "O" * 129, "O\x00", 7, None)),
    ("commit", {"order_id": "O", "reacquire": 1}, "reacquire"),
    ("commit", {}, "order_id"),
    *(("release", {"lines": [{"line": line, "quantity": 1}]}, "lines[0].line") for line in (0, -1, 2**90, 1.0, "1")),
    *(("release", {"lines": [{"line": 1, "quantity": many}]}, "lines[0].quantity") for many in NOT_QUANTITIES),
    ("release", {"lines": []}, "lines"),
    ("release", {"lines": [{"line": 1, "quantity": 1}] * 2}, "lines[1].line"),
    ("release", {"order_id": "O"}, "order_id"),
    ("commit", {"order_id": "O", "lines": []}, "lines"),
    ("commit", {"order_id": "O", "lines": [{"line": 1, "quantity": 0}]}, "lines[0].quantity"),
    ("commit", {"order_id": "O", "lines": [{"line": 1, "quantity": 1}] * 2}, "lines[1].line"),
    *(
        (verb, body, field)
        for verb in ("pick", "ship", "cancel", "return")
        for body, field in [
            ({"lines": [{"line": 1}]}, "lines[0].quantity"),
            ({"lines": []}, "lines"),
            ({"lines": [{"line": 1, "quantity": 1}] * 2}, "lines[1].line"),
            ({"lines": [{"line": line, "quantity": 1} for line in range(1, 102)]}, "lines"),
            ({"order_id": "O"}, "order_id"),
            *(({"disposition": to}, "disposition") for to in NOT_DISPOSITIONS),
            *(({"occurred_at": at}, "occurred_at") for at in NOT_TIMES if at is not None),
            ({"occurred_at": text_of(START_MS + 300_001)}, "occurred_at"),
        ]
    ),
    *(("move", {"line": line, "location": "W1"}, "line") for line in (0, -1, 2**90, 1.0, "1", True, None)),
    *(("move", {"line": 1, "location": name}, "location") for name in NOT_NAMES),
    ("move", {"line": 1}, "location"),
    ("move", {"location": "W1"}, "line"),
    ("move", {"line": 1, "location": "W1", "quantity": 1}, "quantity"),
]

QUERIES = [
    ("", "sku"),
    ("sku=", "sku"),
    ("sku=%20SHOE", "sku"),
    ("sku=SHOE%0A", "sku"),
    ("sku=SH%00OE", "sku"),
    ("sku=%FF", "query"),
    ("sku=%zz", "query"),
    ("&&sku=SHOE", "query"),
    ("=SHOE", "query"),
    ("sku=" + "N" * 65, "sku"),
    ("sku=SHOE&sku=SHOE", "sku"),
    ("sku=SHOE&color=red", "color"),
    ("sku=SHOE&location=W1&location=", "location[1]"),
    ("sku=SHOE" + "&location=W1" * 201, "location"),
    ("sku=SHOE&channel=%09", "channel"),
    *((f"sku=SHOE&quantity={text}", "quantity") for text in ("0", "-1", "1.0", "1e1", "+1", "01", "1000001", "", "x")),
    (f"sku=SHOE&quantity={2**90}", "quantity"),
    *((f"sku=SHOE&by={text}", "by") for text in ("", "today", "2026-02-30", "2026-11-22", TIME)),
]

SEARCHES = [
    *((f"{field}={text}", field) for field in ("sku", "location") for text in ("", "%20A", "A%00", "%C3%A4", "N" * 65)),
    *((f"{field}={text}", field) for field in ("order_id", "customer") for text in ("", "A%0A", "R" * 129)),
    *((f"status={text}", "status") for text in ("", "HELD", "picked", "1")),
    *((f"limit={text}", "limit") for text in ("", "0", "101", "-1", "1.0", "1e1", "9" * 90)),
    *((f"after={text}", "after") for text in ("", "a" * 257, "not-one", "%F0%9F%91%9F")),
    ("sku=A&sku=B", "sku"),
    ("sort=old", "sort"),
    ("sku=%FF", "query"),
]

ATPS = [
    *(({"items": [{"sku": name}]}, "items[0].sku") for name in NOT_NAMES),
    *(({"items": [{"sku": "A", "quantity": many}]}, "items[0].quantity") for many in NOT_QUANTITIES),
    ({"items": []}, "items"),
    ({"items": [{"sku": "A"}] * 501}, "items"),
    ({"items": [{"sku": "A", "by": "2026-12-24"}]}, "items[0].by"),
    ({"items": [{"sku": "A", "location": ["W1"]}]}, "items[0].location"),
    ({"items": [{"sku": "A"}], "by": "2026-11-22"}, "by"),
    ({}, "items"),
]

NOT_COUNTED = [-1, 1_000_000_001, 2**90, 1.0, "1", True, None]
COUNTS = [
    *(({"as_of": at, "lines": [{"sku": "A", "quantity": 1}]}, "as_of") for at in NOT_TIMES),
    ({"as_of": text_of(START_MS + 300_001), "lines": [{"sku": "A", "quantity": 1}]}, "as_of"),
    ({"lines": [{"sku": "A", "quantity": 1}]}, "as_of"),
    ({"as_of": TIME, "lines": []}, "lines"),
    ({"as_of": TIME, "lines": [{"sku": "A", "quantity": 1}] * 2}, "lines[1].sku"),
    ({"as_of": TIME, "lines": [{"sku": f"A{number}", "quantity": 1} for number in range(10_001)]}, "lines"),
    *(({"as_of": TIME, "lines": [{"sku": "A", "quantity": many}]}, "lines[0].quantity") for many in NOT_COUNTED),
    *(({"as_of": TIME, "lines": [{"sku": name, "quantity": 1}]}, "lines[0].sku") for name in NOT_NAMES),
]

LOCATIONS = [
    ({}, "type"),
    ({"type": "shop"}, "type"),
    ({"type": "store", "id": "S2"}, "id"),
    ({"type": "store", "name": ""}, "name"),
    ({"type": "store", "name": "a\nb"}, "name"),
    ({"type": "store", "name": "n" * 201}, "name"),
    ({"type": "store", "authority": " wms"}, "authority"),
    ({"type": "store", "lat": 1}, "body"),
    ({"type": "store", "lat": 91, "lon": 1}, "lat"),
    ({"type": "store", "lat": 1, "lon": -181}, "lon"),
    ({"type": "store", "lat": "1", "lon": 1}, "lat"),
    ({"type": "store", "priority": -1}, "priority"),
    ({"type": "store", "priority": 2**90}, "priority"),
    ({"type": "store", "enabled": "yes"}, "enabled"),
]

PATHS = [
    ("PUT", "/v1/locations/%20", {"type": "store"}, "id"),
    ("PUT", "/v1/locations/%00", {"type": "store"}, "id"),
    ("PUT", "/v1/locations/%FF", {"type": "store"}, "id"),
    ("PUT", "/v1/locations/%2", {"type": "store"}, "id"),
    ("PUT", "/v1/locations/" + "N" * 65, {"type": "store"}, "id"),
    ("PUT", "/v1/locations/%20/counts/C", {"as_of": TIME, "lines": [{"sku": "A", "quantity": 1}]}, "location"),
    ("PUT", "/v1/locations/W1/counts/%0A", {"as_of": TIME, "lines": [{"sku": "A", "quantity": 1}]}, "count_id"),
    ("GET", "/v1/operations/" + "k" * 256, None, "key"),
    ("GET", "/v1/operations/%C3%A4", None, "key"),
    ("GET", "/v1/operations/%FF", None, "key"),
    ("GET", "/v1/reservations/%FF", None, "id"),
    ("GET", "/v1/locations?page=2", None, "page"),
    ("GET", "/v1/operations/k?%FF", None, "%FF"),
    ("POST", "/v1/reservations?dry=1", hold_with(), "dry"),
]

NOT_KEYS: list[object] = ["", " ", "a b", "k" * 256, "kä", "a\x7f", "a\n", "a\x00", None, 7, ["K"]]

BATCH_ITEMS: list[tuple[object, str]] = [
    *(({"key": "K", **body} if isinstance(body, dict) else body, field) for body, field in HOLDS),
    *((hold_with(key=key), "key") for key in NOT_KEYS),
    (hold_with(), "key"),
    (hold_with(key="K", ttl_ms=1), "ttl_ms"),
]

BATCHES = [
    ({}, "reservations"),
    ({"reservations": []}, "reservations"),
    ({"reservations": {}}, "reservations"),
    ({"reservations": None}, "reservations"),
    ({"reservations": [{}] * 257}, "reservations"),
    ({"reservations": [{}], "mode": "all"}, "mode"),
    ([], "body"),
    (None, "body"),
]

EVENTS = [
    ({}, "events"),
    ({"events": []}, "events"),
    ({"events": {}}, "events"),
    ({"events": [1] * 1_001}, "events"),
    ({"events": [1], "more": 1}, "more"),
    ([], "body"),
]


def rows() -> list[tuple[str, str, bytes | None, str]]:
    """Every bad request: method, path, body, the field that is wrong."""
    counts = "/v1/locations/W1/counts/C1"
    found: list[tuple[str, str, object, str]] = [
        *(("POST", "/v1/reservations", body, field) for body, field in HOLDS),
        *(("POST", "/v1/reservations/{held}/" + verb, body, field) for verb, body, field in VERBS),
        *(("GET", f"/v1/atp?{query}", None, field) for query, field in QUERIES),
        *(("GET", f"/v1/reservations?{query}", None, field) for query, field in SEARCHES),
        *(("POST", "/v1/atp", body, field) for body, field in ATPS),
        *(("POST", "/v1/reservations/batch", body, field) for body, field in BATCHES),
        *(("POST", "/v1/stock-events", body, field) for body, field in EVENTS),
        *(("PUT", counts, body, field) for body, field in COUNTS),
        *(("PUT", "/v1/locations/S1", body, field) for body, field in LOCATIONS),
        *PATHS,
    ]
    encoded = [
        (method, path, None if method == "GET" else msgspec.json.encode(body), field)
        for method, path, body, field in found
    ]
    return encoded + [("POST", "/v1/reservations", raw, field) for raw, field in RAW]


async def test_what_is_wrong_in_form_is_400_with_the_field_and_changes_nothing(world: World) -> None:
    """One test for the table, as each row takes a millisecond; a failure tells all rows that fail."""
    before = world.everything()
    wrong = []
    for method, path, raw, field in rows():
        answer = await world.call(method, path.replace("{held}", world.held), raw=raw)
        told = [fault["field"] for fault in answer.json().get("errors", [])]
        if answer.status_code != 400 or told != [field] or world.everything() != before:
            wrong.append((method, path[:80], (raw or b"")[:80], f"expected {field}", answer.status_code, told))

    assert not wrong
    assert len(rows()) > 150


async def test_an_item_of_a_batch_that_is_wrong_in_form_names_the_field_and_stops_no_other(world: World) -> None:
    before = world.everything()
    for start in range(0, len(BATCH_ITEMS), 256):
        part = BATCH_ITEMS[start : start + 256]
        answer = await world.call("POST", "/v1/reservations/batch", {"reservations": [item for item, _ in part]})
        results = answer.json()["results"]
        told = [(result["status"], [fault["field"] for fault in result["body"]["errors"]]) for result in results]
        assert told == [(400, [field]) for _, field in part]
    assert before == world.everything()

    items = [BATCH_ITEMS[0][0], hold_with(key="K"), BATCH_ITEMS[1][0]]
    answer = await world.call("POST", "/v1/reservations/batch", {"reservations": items})
    assert [result["status"] for result in answer.json()["results"]] == [400, 201, 400]


@pytest.mark.parametrize("key", ["", '""', " ", "a b", "k" * 256, "kä", '"k' + "k" * 255 + '"', "a\x7f"])
async def test_a_key_is_1_to_255_visible_ascii_characters(world: World, key: str) -> None:
    before = world.everything()
    sent = key.encode()
    answer = await world.call("POST", "/v1/reservations", hold_with(), headers={"Idempotency-Key": sent})

    assert answer.status_code == 400
    assert answer.json()["type"] in ("/problems/invalid-request", "/problems/missing-idempotency-key")
    assert before == world.everything()


@pytest.mark.parametrize("key", ["k", "k" * 255, '"' + "k" * 255 + '"', '"', '{"}', "~!"])
async def test_every_other_key_is_taken(world: World, key: str) -> None:
    assert (await world.call("POST", "/v1/reservations", hold_with(), key=key)).status_code == 201


@pytest.mark.parametrize("verb", ["", *sorted({f"/{verb}" for verb, _, _ in VERBS})])
async def test_every_verb_needs_a_key(world: World, verb: str) -> None:
    path = f"/v1/reservations/{world.held}{verb}" if verb else "/v1/reservations"
    answer = await world.call("POST", path, {}, headers={"Idempotency-Key": ""})

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/missing-idempotency-key")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/jsonx", "application/json; charset=latin-1"])
async def test_only_json_is_taken(world: World, content_type: str) -> None:
    answer = await world.call("POST", "/v1/reservations", hold_with(), headers={"Content-Type": content_type})

    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")


@pytest.mark.parametrize("content_type", ["Application/JSON", 'application/json; charset="UTF-8"', "application/json;"])
async def test_json_may_be_spelt_as_http_allows(world: World, content_type: str) -> None:
    answer = await world.call("POST", "/v1/reservations", hold_with(), headers={"Content-Type": content_type})

    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "bytes_max"),
    [
        ("POST", "/v1/reservations", 65_536),
        ("POST", "/v1/reservations/{held}/release", 65_536),
        ("POST", "/v1/reservations/{held}/return", 65_536),
        ("PUT", "/v1/locations/W1", 65_536),
        ("POST", "/v1/atp", 2_097_152),
        ("POST", "/v1/reservations/batch", 2_097_152),
        ("POST", "/v1/stock-events", 2_097_152),
        ("PUT", "/v1/locations/W1/counts/C1", 2_097_152),
    ],
)
async def test_no_more_than_the_limit_is_read_whatever_the_length_says(
    world: World, method: str, path: str, bytes_max: int
) -> None:
    path = path.replace("{held}", world.held)
    fits = await world.call(method, path, raw=b" " * bytes_max)
    over = await world.call(method, path, raw=b" " * (bytes_max + 1))
    claimed = await world.call(method, path, raw=b"{}", headers={"Content-Length": "9" * 30})
    streamed = await world.stream(method, path, [b" " * 65_536] * (bytes_max // 65_536 + 1))

    assert fits.status_code == 400
    assert [answer.status_code for answer in (over, claimed, streamed)] == [413] * 3


async def test_the_longest_of_everything_is_taken() -> None:
    world = World(client_held_units_max=100_000_000)
    world.token = world.token_for("c" * 128)
    await world.stock(NAME_64, "L" * 64, 1_000_000_000)
    lines = [{"sku": NAME_64, "quantity": 1_000_000, "location": "L" * 64}] * 100
    answer = await world.call(
        "POST",
        "/v1/reservations",
        {"lines": lines, "channel": NAME_64, "customer": "C" * 128, "ttl_seconds": 86_400, "by": "9999-12-31"},
        key="k" * 255,
    )

    assert (answer.status_code, len(answer.json()["lines"])) == (201, 100)


async def test_a_json_key_given_twice_counts_as_the_last(world: World) -> None:
    raw = b'{"lines":[{"sku":"SHOE","quantity":9,"quantity":2,"location":"W1"}]}'

    answer = await world.call("POST", "/v1/reservations", raw=raw)

    assert answer.json()["lines"][0]["quantity"] == 2


async def test_names_are_bytes_and_slashes_in_them_are_theirs(world: World) -> None:
    await world.stock("a/b {x}:*?#%", "n/s %41", 3)

    answer = await world.call("GET", "/v1/atp?sku=a%2Fb+%7Bx%7D%3A*%3F%23%25&location=n%2Fs%20%2541")
    other_case = await world.call("GET", "/v1/atp?sku=A%2Fb+%7Bx%7D%3A*%3F%23%25")

    assert (answer.json()["available"], answer.json()["locations"][0]["location"]) == (3, "n/s %41")
    assert other_case.json()["status"] == "unknown"
