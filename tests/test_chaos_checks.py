"""The checkers of the chaos runs bite: a true story passes, and each way to doctor it is found by the right one."""

from collections.abc import Callable

import pytest
from chaos.checks import judge
from chaos.history import Attempt
from chaos_story import CLIENT, LOCATION, SKU, Story, move, true_story, wall_ms
from msgspec.structs import replace

from ledger import operation_id
from ledger.journal import Place


def test_nothing_is_wrong_with_a_true_story() -> None:
    assert judge(true_story().window) == []


def forget_an_acknowledged_hold(story: Story) -> None:
    del story.effects[story.place("cid")]


def another_receipt(story: Story) -> None:
    place = story.place("cid")
    story.effects[place] = story.effects[place]._replace(place=Place(1, 99))


def done_after_its_answer(story: Story) -> None:
    place = story.place("ann")
    story.effects[place] = story.effects[place]._replace(at_ms=wall_ms(2.4))


def do_it_again(story: Story) -> None:
    story.effects.append(story.effect("ann pays"))


def do_it_again_under_another_key(story: Story) -> None:
    again = story.effect("ann")._replace(key=operation_id(CLIENT, "ann again"), subject=operation_id(CLIENT, "x"))
    story.effects.append(again)


def apply_an_event_twice(story: Story) -> None:
    story.effects.append(next(effect for effect in story.effects if effect.verb == "apply"))


def answered_as_new_twice(story: Story) -> None:
    [first] = story.operation("ann").attempts
    story.operation("ann").attempts.append(replace(first, sent_s=2.1, answered_s=2.11))


def nobody_asked(story: Story) -> None:
    story.history.operations.remove(story.operation("dot leaves"))


def done_although_refused(story: Story) -> None:
    bob = story.operation("bob")
    story.do(bob, [move("available", "held", 4)], 2.505)
    story.is_now("bob", 4, 9.0, held=4)


def one_ending_too_many(story: Story) -> None:
    story.expire("ann", 2, at_s=9.5)


def ended_before_it_was_held(story: Story) -> None:
    """The sums are right."""
    [ended] = [effect for effect in story.effects if effect.verb == "expire"]
    story.effects.remove(ended)
    story.effects.insert(story.place("cid"), ended)


def otherwise_than_it_was_told(story: Story) -> None:
    story.is_now("ann", 2, 9.0, shipped=2)


def still_held(story: Story) -> None:
    story.is_now("cid", 1, 4.0, held=1)


def expired_before_its_time(story: Story) -> None:
    story.is_now("cid", 1, 4.5, expired=1)


def sell_what_is_not_there(story: Story) -> None:
    place = story.place("cid")
    story.effects[place] = story.effects[place]._replace(movements=[move("available", "held", 4)])


def refuse_what_was_there(story: Story) -> None:
    story.operation("bob").attempts[0].told["lines"][0]["available"] = 1


def refused_after_it_was_done(story: Story) -> None:
    told = {"type": "/problems/wrong-state"}
    story.operation("ann").attempts.append(Attempt(2.1, 2.11, 409, told=told))


def other_reservation_at_the_replay(story: Story) -> None:
    story.operation("dot").attempts[1].told["id"] = "another"


def acknowledged_and_never_heard_of(story: Story) -> None:
    operation = story.ask("release", "who", "ann", 2, at_s=2.2)
    operation.attempts[0].status, operation.attempts[0].told = 404, {"type": "/problems/not-found"}


def a_look_that_was_never_so(story: Story) -> None:
    story.look(3.3, on_hand=5, held=2, committed=0, available=3)


def a_look_before_its_time(story: Story) -> None:
    """All of it was so, but later."""
    story.look(2.1, on_hand=5, held=3, committed=0, available=2)


def an_event_is_lost(story: Story) -> None:
    story.effects = [effect for effect in story.effects if effect.verb != "apply"]


def an_event_is_applied_as_another(story: Story) -> None:
    """The sum is right."""
    [place] = [number for number, effect in enumerate(story.effects) if effect.verb == "apply"]
    story.effects[place] = story.effects[place]._replace(key="another")


def an_event_counts_otherwise(story: Story) -> None:
    story.history.published[-1].event["quantity"] = 7


@pytest.mark.parametrize(
    ("doctor", "check"),
    [
        (forget_an_acknowledged_hold, "lost"),
        (another_receipt, "lost"),
        (done_after_its_answer, "lost"),
        (do_it_again, "doubled"),
        (do_it_again_under_another_key, "doubled"),
        (apply_an_event_twice, "doubled"),
        (answered_as_new_twice, "doubled"),
        (nobody_asked, "ghost"),
        (done_although_refused, "ghost"),
        (one_ending_too_many, "ended twice"),
        (ended_before_it_was_held, "ended twice"),
        (otherwise_than_it_was_told, "ended twice"),
        (expired_before_its_time, "ended twice"),
        (still_held, "not expired"),
        (sell_what_is_not_there, "oversold"),
        (refuse_what_was_there, "undersold"),
        (refused_after_it_was_done, "other verdict"),
        (other_reservation_at_the_replay, "other verdict"),
        (acknowledged_and_never_heard_of, "odd refusal"),
        (refuse_what_was_there, "no order"),
        (a_look_that_was_never_so, "no order"),
        (a_look_before_its_time, "no order"),
        (an_event_is_lost, "feed"),
        (an_event_is_applied_as_another, "feed"),
        (an_event_counts_otherwise, "feed"),
    ],
)
def test_what_is_doctored_is_found(doctor: Callable[[Story], None], check: str) -> None:
    story = true_story()
    doctor(story)
    assert check in {finding.check for finding in judge(story.window)}


def test_a_finding_names_its_position() -> None:
    story = true_story()
    sell_what_is_not_there(story)
    assert any(SKU in finding.detail and LOCATION in finding.detail for finding in judge(story.window))
