"""The short way to the answer to a hold says byte for byte what the general way says."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from availability.api.held import held_body
from availability.shapes import reservation_json
from ledger import Done, Reservation, ReservationLine

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
UNITS = st.integers(1, 1_000_000)
OTHER = st.sampled_from([0] * 12 + [3])


@st.composite
def reservation_lines(draw: st.DrawFn) -> ReservationLine:
    """Mostly one of which nothing was done since it was made."""
    counts = [draw(UNITS), *(draw(OTHER) for _ in range(7))]
    record = [draw(TEXTS), draw(TEXTS), sum(counts), draw(UNITS), *counts, draw(st.integers(0, 40_000))]
    return msgspec.convert(record, ReservationLine)


@st.composite
def answers(draw: st.DrawFn) -> Done:
    order_id = draw(st.sampled_from([None, None, None, "ORDER"]))
    times = draw(st.integers(0, 10**12)), draw(st.integers(0, 10**13))
    references = order_id, draw(st.none() | TEXTS), draw(st.none() | TEXTS)
    receipt = draw(st.integers(1, 2**53)), draw(st.integers(1, 2**53))
    lines = draw(st.lists(reservation_lines(), min_size=1, max_size=4))
    reservation = Reservation("web", "f", *times, *references, *receipt, [], lines)
    return Done(False, draw(TEXTS), reservation, draw(st.integers(0, 16)))


@settings(max_examples=300, deadline=None)
@given(answers())
def test_the_short_way_says_what_the_general_way_says(done: Done) -> None:
    body = held_body(done)
    plain = done.reservation.order_id is None and all(line.held == line.quantity for line in done.reservation.lines)
    assert (body is not None) == plain
    if body is not None:
        assert body == msgspec.json.encode(reservation_json(done.id, done.shard, done.reservation))


def test_what_has_nothing_held_goes_the_general_way() -> None:
    none = ReservationLine("A", "S1", 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 20_000)
    for lines in ([], [none]):
        reservation = Reservation("web", "f", 1, 2, None, None, None, 1, 1, [], lines)
        assert held_body(Done(False, "id", reservation)) is None
