"""Owns the proof that events which never came are seen, by their sources' own numbers (DESIGN 10)."""

import pytest
from nats.js.errors import NotFoundError
from test_feed_consumer import LATER, feed_at_work
from waiting import wait_until

from availability.feeds import gaps
from availability.feeds.gaps import IN_A_ROW, OPEN_MAX, PATIENCE_S, Gap, Gaps
from availability.feeds.stream import STREAM


def missed(*numbers: int, late: tuple[int, ...] = ()) -> list[Gap]:
    """The gaps of a source that sent these numbers, and the others before it is too late."""
    seen = Gaps()
    seen.take([("wms", number) for number in numbers], now_s=0.0)
    assert seen.overdue(PATIENCE_S - 1) == []
    seen.take([("wms", number) for number in late], now_s=1.0)
    found = seen.overdue(PATIENCE_S)
    assert seen.overdue(PATIENCE_S) == []
    return found


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 7], [(4, 6)]),
        ([7, 8, 9, 11, 12, 13, 15], [(10, 10), (14, 14)]),
        ([1, 2, 3, 3, 2, 1, 4], []),
    ],
)
def test_a_source_that_counts_is_missed_where_it_did_not_come(numbers: list[int], found: list[tuple[int, int]]) -> None:
    assert missed(*numbers) == [Gap("wms", *gap) for gap in found]


def test_a_source_that_does_not_count_is_never_missed() -> None:
    assert missed(1_763_900_000_000, 1_763_900_000_250, 1_763_900_004_000) == []
    assert missed(1, 2, 9, 10, 20) == []
    assert IN_A_ROW == 3


def test_what_comes_late_was_never_missed_and_the_rest_of_it_is() -> None:
    assert missed(1, 2, 3, 7, late=(5, 4, 6)) == []
    assert missed(1, 2, 3, 8, late=(5,)) == [Gap("wms", 4, 4), Gap("wms", 6, 7)]


def test_sources_are_told_apart_and_gaps_are_bounded() -> None:
    seen = Gaps()
    seen.take([(name, number) for number in (1, 2, 3) for name in ("wms", "pos")], now_s=0.0)
    seen.take([("pos", 5)], now_s=0.0)
    assert seen.overdue(PATIENCE_S) == [Gap("pos", 4, 4)]
    for start in range(10, 10 * (OPEN_MAX + 2), 10):
        seen.take([("wms", start + number) for number in range(3)], now_s=0.0)
    assert seen.overdue(0.0) == [Gap("wms", 4, 9)]


@pytest.mark.anyio
async def test_what_a_wiped_stream_had_is_asked_for(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream loses two events that it acknowledged; the feed goes on, and somebody is told which."""
    monkeypatch.setattr(gaps, "PATIENCE_S", 0.0)
    async with feed_at_work(nats_url) as run:
        await run.send([LATER | {"id": f"e-{number}", "sequence": number} for number in (1, 2, 3)])
        await run.settled()
        await run.streams.delete_stream(STREAM)

        async def is_made_anew() -> bool:
            try:
                return (await run.streams.stream_info(STREAM)).state.messages == 0
            except NotFoundError:
                return False

        await wait_until(is_made_anew)
        await run.send(LATER | {"id": "e-6", "sequence": 6})
        await run.settled()
        await run.became(lambda: run.quarantine.reasons == ["gap"])
        assert run.quarantine.events[0].detail == "events 4 to 5 never came: ask for a snapshot, then discard this"
        assert run.quarantine.events[0].source == "wms"
        assert run.figure("missing_events_total") == 2
        assert await run.shop.on_hand() == 4 * 10
