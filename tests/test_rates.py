"""How often a client may ask, by the plain rule: what GCRA promises, whatever comes when. The Lua is held to it in
``test_agreement``.
"""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from ledger.messages import Admit, Admitted
from ledger.rates import Meter, admit

START_MS = 1_800_000_000_000
steps = st.lists(st.tuples(st.sampled_from([0, 0, 1, 3, 142, 143, 1_000]), st.integers(1, 9)), min_size=1, max_size=40)
rates = st.tuples(st.sampled_from([1, 3, 7, 333, 20_000]), st.integers(1, 20))


@given(steps, rates)
def test_it_grants_what_the_theoretical_arrival_time_allows(
    steps: list[tuple[int, int]], rate: tuple[int, int]
) -> None:
    """GCRA as it is written in books: an arrival may be as early as the burst before its theoretical time."""
    per_second, burst = rate
    interval_ms = Fraction(1_000, per_second)
    tolerance_ms = interval_ms * (burst - 1)
    meter, now_ms, due_ms = Meter(), START_MS, Fraction(0)
    for later_ms, count in steps:
        now_ms += later_ms
        expected = 0
        for _ in range(count):
            if now_ms >= due_ms - tolerance_ms:
                due_ms = max(due_ms, Fraction(now_ms)) + interval_ms
                expected += 1
        meter, admitted = admit(meter, Admit("web", count, per_second, burst), now_ms)

        assert admitted.granted == expected
        assert (admitted.remaining > 0) == (admitted.retry_after_ms == 0) == (now_ms >= due_ms - tolerance_ms)


@given(steps, rates)
def test_what_it_says_of_the_future_comes_true(steps: list[tuple[int, int]], rate: tuple[int, int]) -> None:
    meter, now_ms = Meter(), START_MS
    for later_ms, count in steps:
        now_ms += later_ms
        meter, said = admit(meter, Admit("web", count, *rate), now_ms)

    def granted(after_ms: int, count: int) -> int:
        return admit(meter, Admit("web", count, *rate), now_ms + after_ms)[1].granted

    assert granted(0, 100) == said.remaining
    assert granted(said.retry_after_ms, 1) == 1
    assert said.retry_after_ms == 0 or granted(said.retry_after_ms - 1, 1) == 0
    assert granted(said.full_after_ms, 100) == rate[1]


def test_a_clock_that_ran_back_locks_nobody_out() -> None:
    meter, first = admit(Meter(), Admit("web", 5, 1, 5), START_MS)
    meter, second = admit(meter, Admit("web", 1, 1, 5), START_MS - 3_600_000)
    _, third = admit(meter, Admit("web", 1, 1, 5), START_MS - 3_600_000 + 1_000)

    assert [first.granted, second.granted, third.granted] == [5, 0, 1]
    assert second == Admitted(0, 0, 1_000, 5_000)
