"""The checkers of the chaos runs bite: a true story passes, and each way to doctor it is found by the right one."""

from collections.abc import Callable

import pytest
from chaos.checks import judge
from chaos.history import Attempt, History, Injection, Line
from chaos.run import ALWAYS_REACHED, not_tried
from chaos_story import CLIENT, LOCATION, SKU, Story, move, true_story, wall_ms
from msgspec.structs import replace

from ledger import operation_id
from ledger.journal import Place
from ledger.keys import shard_of


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


def an_event_is_not_announced(story: Story) -> None:
    del story.told[1]


def events_change_places(story: Story) -> None:
    """Ann pays before she holds."""
    first, second = (number for number, event in enumerate(story.told) if event.subject == story.effect("ann").subject)
    story.told[first], story.told[second] = story.told[second], story.told[first]


def an_event_tells_other_units(story: Story) -> None:
    story.told[0].data["movements"][0]["quantity"] = 1


def something_is_announced_that_was_not(story: Story) -> None:
    story.told.append(story.told[0]._replace(id=(1, 0, 77, 0)))


def the_last_word_on_a_position_is_old(story: Story) -> None:
    story.told[-1].data["on_hand"] = 5


def an_older_position_is_told_last(story: Story) -> None:
    story.told.append(story.told[-1]._replace(id=(1, 0, 2, 1), data={**story.told[-1].data, "on_hand": 5}))


def another_shard_has_no_part(story: Story) -> None:
    """Of two shards, one has what both should."""
    skus = [SKU, next(name for name in map(str, range(9)) if shard_of(name, 2) != shard_of(SKU, 2))]
    operation = story.operation("cid")
    operation.lines[:] = [Line(number, sku, LOCATION, 1) for number, sku in enumerate(skus, 1)]
    story.shards = 2


def dropped_after_it_was_acknowledged(story: Story) -> None:
    dropped = story.effect("ann")._replace(verb="drop", key="", mark="", movements=[move("committed", "released", 2)])
    story.effects.append(dropped)


@pytest.mark.parametrize(
    ("doctor", "check"),
    [
        (an_event_is_not_announced, "announced otherwise"),
        (events_change_places, "announced otherwise"),
        (an_event_tells_other_units, "announced otherwise"),
        (something_is_announced_that_was_not, "announced otherwise"),
        (the_last_word_on_a_position_is_old, "announced otherwise"),
        (an_older_position_is_told_last, "announced otherwise"),
        (another_shard_has_no_part, "lost"),
        (dropped_after_it_was_acknowledged, "lost"),
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


def test_an_event_may_be_announced_again() -> None:
    """At least once; a position as it was, and then as it is."""
    story = true_story()
    was = story.told[-1]._replace(id=(1, 0, 2, 1), data={**story.told[-1].data, "on_hand": 5})
    story.told += [*story.told[:3], was, story.told[-1]]
    assert judge(story.window) == []


def test_what_spans_shards_may_be_seen_and_come_to_nothing() -> None:
    """Eve's claim of 2 was taken back: who looked meanwhile saw it, and nobody else explains what they saw."""
    story = true_story()
    story.look(3.3, on_hand=5, held=5, committed=0, available=0)
    assert "no order" in {finding.check for finding in judge(story.window)}
    eve = story.refuse("eve", 4, available=2, at_s=3.24)
    eve.attempts[0].answered_s = 3.4
    claim = story.effect("cid")._replace(verb="prepare", subject=eve.id, key=eve.id, mark="")
    prepare = claim._replace(is_part=True, is_sealed=False)
    for at_s, verb, moved in ((3.25, "prepare", ("available", "held")), (3.35, "drop", ("held", "released"))):
        story.effects.append(prepare._replace(verb=verb, at_ms=wall_ms(at_s), movements=[move(*moved, 2)]))
    assert [finding for finding in judge(story.window) if finding.check == "no order"] == []


def test_a_fault_that_met_nothing_is_told() -> None:
    history = History()
    history.sometimes.update(dict.fromkeys(ALWAYS_REACHED, 1))
    history.injections += [Injection("idle", 1.0, met=0), Injection("busy", 2.0, met=0), Injection("busy", 3.0, met=2)]
    assert [finding.detail for finding in not_tried([history])] == ["idle met nothing, 1 times"]
    history.sometimes.clear()
    assert len(list(not_tried([history]))) == 1 + len(ALWAYS_REACHED)


def test_a_finding_names_its_position() -> None:
    story = true_story()
    sell_what_is_not_there(story)
    assert any(SKU in finding.detail and LOCATION in finding.detail for finding in judge(story.window))
