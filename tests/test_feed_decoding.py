"""Owns the proof that any bytes become a stock event or a reason, never an exception (DESIGN 9)."""

import json
from typing import Any

import pytest
from feeding import AWKWARD, NOW_MS, an_event, encoded
from hypothesis import given
from hypothesis import strategies as st

from availability.feeds.decoding import EventDefaults, Undecodable, decode_event, location_of
from ledger import StockEvent, event_key


def decode(raw: bytes, defaults: EventDefaults | None = None, source: str | None = None) -> StockEvent | Undecodable:
    return decode_event(raw, defaults, now_ms=NOW_MS, expected_source=source)


def test_every_field_of_an_event_is_read() -> None:
    raw = encoded(
        an_event(
            kind="move",
            bucket="damaged",
            to_bucket="on_hand",
            occurred_at="2025-06-01T02:00:00.123456789+02:00",
            sequence=2**53 - 1,
            reason="Bruch geprüft",
            reference={"reservation": "abc", "line": 2},
        )
    )
    assert decode(raw) == StockEvent(
        key=event_key("wms", "e-1"),
        source="wms",
        id="e-1",
        kind="move",
        sku="SKU-1",
        location="DC-1",
        quantity=5,
        occurred_at_ms=1_748_736_000_123,
        bucket="damaged",
        to_bucket="on_hand",
        sequence=2**53 - 1,
        reason="Bruch geprüft",
        reference_reservation="abc",
        reference_line=2,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"quantity": 0},
        {"quantity": 10**9},
        {"kind": "delta", "quantity": -(10**9)},
        {"kind": "delta", "quantity": 0},
        {"kind": "move", "quantity": 0, "to_bucket": "damaged"},
        {"sequence": 0},
        {"id": "x" * 128},
        {"sku": "{a}:b c*", "source": "a/b.c"},
        {"occurred_at": "1970-01-01T00:00:00Z"},
        {"occurred_at": "2025-06-15T15:11:40Z"},  # now + 5 minutes
        {"reference": {"reservation": "abc"}},
    ],
)
def test_the_edges_of_what_is_allowed_are_taken(fields: dict[str, Any]) -> None:
    assert isinstance(decode(encoded(an_event(**fields))), StockEvent)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": None}, "invalid"),
        ({"id": ""}, "invalid"),
        ({"id": "x" * 129}, "invalid"),
        ({"id": "new\nline"}, "invalid"),
        ({"id": "end\n"}, "invalid"),
        ({"id": 7}, "invalid"),
        ({"source": None}, "invalid"),
        ({"source": "x" * 65}, "invalid"),
        ({"source": "\0"}, "invalid"),
        ({"kind": None}, "invalid"),
        ({"kind": "adjust"}, "invalid"),
        ({"sku": " A"}, "invalid"),
        ({"sku": "A "}, "invalid"),
        ({"sku": "a\0b"}, "invalid"),
        ({"sku": "schräg"}, "invalid"),
        ({"sku": "x" * 65}, "invalid"),
        ({"location": ["DC-1"]}, "invalid"),
        ({"quantity": None}, "invalid"),
        ({"quantity": -1}, "invalid"),
        ({"quantity": 1.0}, "invalid"),
        ({"quantity": "1"}, "invalid"),
        ({"quantity": True}, "invalid"),
        ({"quantity": 10**9 + 1}, "invalid"),
        ({"quantity": 2**90}, "invalid"),
        ({"quantity": -(2**90), "kind": "delta"}, "invalid"),
        ({"kind": "move"}, "invalid"),
        ({"kind": "move", "to_bucket": "on_hand"}, "invalid"),
        ({"kind": "move", "quantity": -1, "to_bucket": "damaged"}, "invalid"),
        ({"to_bucket": "damaged"}, "invalid"),
        ({"bucket": "picked"}, "invalid"),
        ({"occurred_at": None}, "invalid"),
        ({"occurred_at": "2025-06-01T00:00:00"}, "invalid"),
        ({"occurred_at": "2025-06-01"}, "invalid"),
        ({"occurred_at": 1748736000}, "invalid"),
        ({"occurred_at": "1969-12-31T23:59:59.999Z"}, "invalid"),
        ({"occurred_at": "0001-01-01T00:00:00+23:59"}, "invalid"),
        ({"occurred_at": "9999-12-31T23:59:59-23:59"}, "invalid"),
        ({"occurred_at": "2025-06-15T15:11:40.001Z"}, "future"),
        ({"sequence": -1}, "invalid"),
        ({"sequence": 2**53}, "invalid"),
        ({"reason": ""}, "invalid"),
        ({"reason": "a\0b"}, "invalid"),
        ({"reason": "x" * 129}, "invalid"),
        ({"reference": {"reservation": "abc", "line": 0}}, "invalid"),
        ({"reference": {"line": 1}}, "invalid"),
        ({"reference": {"reservation": "abc", "more": 1}}, "invalid"),
        ({"due": "2025-07-01"}, "invalid"),
        ({"unknown\0field": 1}, "invalid"),
        ({"kind": "supply", "due": "2025-07-01"}, "unsupported"),
        ({"reverses": "e-1"}, "invalid"),
    ],
)
def test_whatever_is_out_of_bounds_has_a_reason(fields: dict[str, Any], reason: str) -> None:
    found = decode(encoded(an_event(**fields)))
    assert isinstance(found, Undecodable)
    assert found.reason == reason
    assert found.detail.isascii()
    assert found.detail.isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf" + encoded(an_event()),
        encoded(an_event()) + b"x",
        encoded(an_event()) * 2,
        encoded(an_event())[:-1],
        encoded(an_event()).replace(b"SKU-1", b"SKU-\xff"),
        encoded(an_event()).replace(b"SKU-1", b"\\ud800"),
        encoded(an_event()).replace(b": 5", b": NaN"),
        encoded(an_event()).replace(b": 5", b": 1e400"),
        encoded(an_event()).replace(b": 5", b": " + b"9" * 5_000),
        encoded(an_event()).replace(b": 5", b": " + b"[" * 100_000),
        encoded(an_event()).replace(b": 5", b": " + b'{"a":' * 2_000),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b" " * 20_000,
    ],
)
def test_bytes_that_are_no_event_are_refused_quietly(raw: bytes) -> None:
    found = decode(raw)
    assert isinstance(found, Undecodable)
    assert found.reason == "invalid"


def test_a_refused_event_still_tells_its_id_and_source() -> None:
    found = decode(encoded(an_event(quantity=-1)))
    assert isinstance(found, Undecodable)
    assert (found.id, found.source) == ("e-1", "wms")
    unknown = decode(encoded(an_event(extra=1, source="bad\0")))
    assert isinstance(unknown, Undecodable)
    assert (unknown.id, unknown.source) == ("e-1", None)


def test_a_key_given_twice_counts_as_the_last_one() -> None:
    found = decode(encoded(an_event()).replace(b'"quantity": 5', b'"quantity": 5, "quantity": 6'))
    assert isinstance(found, StockEvent)
    assert found.quantity == 6


def test_the_envelope_fills_only_what_the_event_leaves_out() -> None:
    told = EventDefaults("ce-1", "erp", 1_000, 3)
    bare = decode(encoded(an_event(id=None, source=None, occurred_at=None)), told)
    assert isinstance(bare, StockEvent)
    assert (bare.id, bare.source, bare.occurred_at_ms, bare.sequence) == ("ce-1", "erp", 1_000, 3)
    full = decode(encoded(an_event(sequence=0)), told)
    assert isinstance(full, StockEvent)
    assert (full.id, full.source, full.occurred_at_ms, full.sequence) == ("e-1", "wms", 1_748_736_000_000, 0)


def test_an_event_of_another_source_than_its_subject_is_refused() -> None:
    mismatch = decode(encoded(an_event()), source="erp")
    assert isinstance(mismatch, Undecodable)
    assert mismatch.reason == "source-mismatch"
    taken = decode(encoded(an_event(source=None)), source="erp")
    assert isinstance(taken, StockEvent)
    assert taken.source == "erp"


def test_the_source_of_an_envelope_counts_as_a_part_of_the_subjects() -> None:
    """A CloudEvent's source is a URI; on `stock.wms.x` it can be nobody else's than the wms's."""
    bare = encoded(an_event(source=None))
    part = decode(bare, EventDefaults("ce-1", "/dc/1", 1_000, None), source="wms")
    itself = decode(bare, EventDefaults("ce-1", "wms", 1_000, None), source="wms")
    assert isinstance(part, StockEvent)
    assert isinstance(itself, StockEvent)
    assert (part.source, itself.source) == ("wms:/dc/1", "wms")


def test_a_retraction_names_another_event_of_its_source() -> None:
    found = decode(encoded(an_event(reverses="e-0")))
    assert isinstance(found, StockEvent)
    assert found.reverses == event_key("wms", "e-0")


def test_a_location_is_read_even_from_an_event_that_is_wrong() -> None:
    assert location_of(encoded(an_event(quantity="x", extra=1))) == "DC-1"
    assert location_of(b"[" * 100_000) is None


TEXT = st.text(AWKWARD + "\ud800", max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    decode(raw)


@given(
    fields=st.dictionaries(
        st.sampled_from([*an_event(), "bucket", "to_bucket", "sequence", "reason", "reference"]), JSON
    ),
    escaped=st.booleans(),
)
def test_an_event_with_any_fields_is_decoded_or_refused(fields: dict[str, Any], *, escaped: bool) -> None:
    raw = json.dumps(an_event() | fields, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    found = decode(raw)
    assert isinstance(found, StockEvent) or found.detail.isprintable()
