"""The search for an order finds one if there is one, and none if there is none: checked against trying all orders."""

import random
from collections.abc import Sequence
from itertools import permutations

import pytest
from chaos.linearizable import INFINITY, Claim, Event, Position, Step, Undecided, explain


def hold(id_: str, quantity: int) -> Step:
    return lambda now: now.with_claim(id_, Claim(held=quantity)) if now.available >= quantity else None


def sees(available: int) -> Step:
    return lambda now: now if now.available == available else None


def brings(quantity: int) -> Step:
    return lambda now: now._replace(on_hand=now.on_hand + quantity)


def test_an_overlapping_answer_may_be_before_or_after() -> None:
    for seen in (5, 3):
        assert explain([Event(0, 2, hold("a", 2), "hold"), Event(1, 3, sees(seen), "look")], Position(5)) is None


def test_what_was_answered_before_it_was_sent_is_before() -> None:
    events = [Event(0, 1, hold("a", 2), "hold"), Event(2, 3, sees(5), "look")]
    assert explain(events, Position(5)) == ["then hold", "but not look"]


def test_one_unit_is_not_held_twice() -> None:
    assert explain([Event(0, 9, hold("a", 1), "a"), Event(0, 9, hold("b", 1), "b")], Position(1)) is not None


def test_an_unknown_may_take_effect_any_time_later_or_never() -> None:
    unknown = Event(0, INFINITY, hold("a", 2), "unknown", optional=True)
    assert explain([unknown, Event(50, 51, sees(3), "look")], Position(5)) is None
    assert explain([unknown, Event(50, 51, sees(5), "look")], Position(5)) is None
    assert explain([unknown, Event(50, 51, sees(4), "look")], Position(5)) is not None


def test_what_must_have_happened_is_not_left_out() -> None:
    assert explain([Event(0, INFINITY, hold("a", 9), "late")], Position(5)) is not None


def test_a_search_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.linearizable.STEPS_MAX", 50)
    events = [Event(0, 9, hold(str(number), 1), "hold") for number in range(12)]
    with pytest.raises(Undecided):
        explain([*events, Event(0, 9, sees(-1), "look")], Position(12))


def by_trying_all(events: Sequence[Event], start: Position) -> bool:
    for order in permutations(events):
        if any(later.answered_s < earlier.sent_s for n, earlier in enumerate(order) for later in order[n + 1 :]):
            continue
        position: Position | None = start
        for event in order:
            position = event.step(position) if position is not None else None
        if position is not None:
            return True
    return False


def test_it_agrees_with_trying_all_orders() -> None:
    chance = random.Random(7)  # noqa: S311 - the same cases each time
    verdicts = set()
    for _ in range(300):
        events = []
        for number in range(5):
            sent_s = chance.uniform(0, 4)
            step = chance.choice([hold(str(number), chance.randint(1, 2)), sees(chance.randint(0, 4)), brings(1)])
            events.append(Event(sent_s, sent_s + chance.uniform(0.1, 3), step, str(number)))
        there_is = by_trying_all(events, Position(2))
        assert (explain(events, Position(2)) is None) == there_is
        verdicts.add(there_is)
    assert verdicts == {True, False}
