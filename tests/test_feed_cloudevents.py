"""Owns the proof of what a message may look like: an event, a list, CloudEvents structured and binary (DESIGN 10)."""

import json
from base64 import b64encode
from typing import Any

import pytest
from feeding import AWKWARD, NOW_MS, an_event, encoded
from hypothesis import given
from hypothesis import strategies as st

from availability.feeds.cloudevents import EVENTS_MAX, Part, percent_decode, unpack
from availability.feeds.decoding import Undecodable, decode_event
from ledger import StockEvent

BARE = an_event(id=None, source=None, occurred_at=None)
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "ce-1",
    "source": "wms",
    "type": "stock.counted",
    "time": "2025-06-01T00:00:00Z",
    "sequence": "0007",
}


def decoded(found: list[Part] | Undecodable) -> list[StockEvent]:
    assert isinstance(found, list)
    events = [decode_event(part.raw, part.defaults, now_ms=NOW_MS) for part in found]
    assert all(isinstance(event, StockEvent) for event in events)
    return [event for event in events if isinstance(event, StockEvent)]


def binary(**attributes: str) -> dict[str, str]:
    return {f"ce-{name}": value for name, value in (ATTRIBUTES | attributes).items()}


def structured(**attributes: Any) -> bytes:
    return encoded({name: value for name, value in (ATTRIBUTES | attributes).items() if value is not None})


def test_one_event_and_a_list_need_no_envelope() -> None:
    assert [event.id for event in decoded(unpack(encoded(an_event()), None))] == ["e-1"]
    many = encoded([an_event(id=f"e-{index}") for index in range(3)])
    assert [event.id for event in decoded(unpack(b"\n " + many, {"Content-Type": "application/json"}))] == [
        "e-0",
        "e-1",
        "e-2",
    ]
    assert unpack(b"[]", None) == []


def test_a_bad_event_in_a_list_leaves_the_others_as_they_are() -> None:
    parts = unpack(b"[" + encoded(an_event()) + b', 7, {"sku": "\xff"}, ' + encoded(an_event(id="e-2")) + b"]", None)
    assert isinstance(parts, list)
    found = [decode_event(part.raw, part.defaults, now_ms=NOW_MS) for part in parts]
    assert [isinstance(event, StockEvent) for event in found] == [True, False, False, True]
    assert bytes(parts[2].raw) == b'{"sku": "\xff"}'


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/cloudevents+json; charset=utf-8"},
        {"content-type": "Application/CloudEvents"},
        None,
    ],
)
def test_a_structured_cloudevent_fills_what_its_data_leaves_out(headers: dict[str, str] | None) -> None:
    (event,) = decoded(unpack(structured(data=BARE, traceparent="00-ab-cd-01"), headers))
    assert (event.id, event.source, event.occurred_at_ms, event.sequence) == ("ce-1", "wms", 1_748_736_000_000, 7)


def test_a_structured_cloudevent_may_carry_its_data_as_base64() -> None:
    (event,) = decoded(unpack(structured(data_base64=b64encode(encoded(BARE)).decode()), None))
    assert event.id == "ce-1"


def test_a_binary_cloudevent_has_its_attributes_in_headers() -> None:
    headers = binary(datacontenttype="application/json; charset=utf-8") | {"CE-ID": "a%20b%25"}
    headers.pop("ce-id")
    (event,) = decoded(unpack(encoded(BARE), headers))
    assert (event.id, event.source, event.occurred_at_ms, event.sequence) == ("a b%", "wms", 1_748_736_000_000, 7)


@pytest.mark.parametrize("whole", [structured(data=[BARE, BARE | {"id": "own"}]), None])
def test_events_of_a_list_inside_a_cloudevent_have_ids_of_their_own(whole: bytes | None) -> None:
    if whole is None:
        events = decoded(unpack(encoded([BARE, BARE | {"id": "own"}]), binary()))
    else:
        events = decoded(unpack(whole, None))
    assert [event.id for event in events] == ["ce-1:0", "own"]


def test_an_id_that_becomes_too_long_is_refused() -> None:
    parts = unpack(structured(id="x" * 127, data=[BARE]), None)
    assert isinstance(parts, list)
    found = decode_event(parts[0].raw, parts[0].defaults, now_ms=NOW_MS)
    assert isinstance(found, Undecodable)
    assert found.reason == "invalid"


def test_what_the_data_says_wins_over_the_envelope() -> None:
    (event,) = decoded(unpack(structured(data=an_event(sequence=1)), None))
    assert (event.id, event.sequence) == ("e-1", 1)


def test_header_values_are_percent_encoded() -> None:
    assert percent_decode("Euro%20%E2%82%AC%20%F0%9F%98%80") == "Euro € 😀"
    assert isinstance(unpack(encoded(BARE), binary(id="%ff%fe")), Undecodable)
    assert isinstance(unpack(encoded(BARE), binary(id="%E2%82%AC")), Undecodable), "our ids are ASCII"


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (structured(specversion="0.3", data=BARE), None, "unsupported"),
        (structured(id=None, data=BARE), None, "invalid"),
        (structured(source="", data=BARE), None, "invalid"),
        (structured(type=None, data=BARE), None, "invalid"),
        (structured(), None, "invalid"),
        (structured(data=None), None, "invalid"),
        (structured(data_base64="%%%"), None, "invalid"),
        (structured(data=BARE, time="2025-06-01T00:00:00"), None, "invalid"),
        (structured(data=BARE, sequence="abc"), None, "invalid"),
        (structured(data=BARE, sequence="٣"), None, "invalid"),
        (structured(data=BARE, sequence=str(2**53)), None, "invalid"),
        (structured(data=BARE, sequence=2**90), None, "invalid"),
        (structured(data=BARE, datacontenttype="text/xml"), None, "unsupported"),
        (encoded([ATTRIBUTES]), {"Content-Type": "application/cloudevents-batch+json"}, "unsupported"),
        (encoded(BARE), {"ce-specversion": "1.0"}, "invalid"),
        (b"<xml/>", {"ce-specversion": "1.0", "ce-id": "1"}, "invalid"),
        (encoded(BARE), binary(datacontenttype="application/xml"), "unsupported"),
        (b"", binary(), "invalid"),
        (b"[" * 100_000, None, "invalid"),
        (b"[1,]", None, "invalid"),
        (b"[" + b"0," * EVENTS_MAX + b"0]", None, "invalid"),
        (b'{"specversion":' * 10_000, {"Content-Type": "application/cloudevents+json"}, "invalid"),
    ],
)
def test_envelopes_that_cannot_be_read_are_refused_as_a_whole(
    body: bytes, headers: dict[str, str] | None, reason: str
) -> None:
    found = unpack(body, headers)
    assert isinstance(found, Undecodable)
    assert found.reason == reason


TEXT = st.text(AWKWARD, max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(["ce-specversion", "ce-id", "ce-source", "ce-time", "ce-sequence", "Content-Type", "ce-x"]) | TEXT,
    st.sampled_from(["1.0", "application/cloudevents+json", "2025-06-01T00:00:00Z"]) | TEXT,
)


@given(st.binary(max_size=100) | st.sampled_from([structured(data=BARE), encoded([BARE])]), st.none() | HEADERS)
def test_any_body_and_headers_are_unpacked_or_refused(body: bytes, headers: dict[str, str] | None) -> None:
    unpack(body, headers)


@given(st.dictionaries(st.sampled_from([*ATTRIBUTES, "data", "data_base64"]), st.none() | TEXT | st.integers()))
def test_any_envelope_is_unpacked_or_refused(attributes: dict[str, Any]) -> None:
    unpack(json.dumps(ATTRIBUTES | attributes).encode(), None)
