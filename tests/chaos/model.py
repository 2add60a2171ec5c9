"""Owns what each operation does to one position in the search for an order: from the history to its events.

A reservation over several positions is looked at one position at a time: there, a verb that takes all it can may find
nothing, and why it was refused is not asked.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from chaos.effects import Attempted
from chaos.history import WALL_S, Attempt, Line, Operation, Place, Published
from chaos.linearizable import INFINITY, Claim, Event, Position, Step
from ledger import event_key
from ledger.keys import shard_of
from ledger.messages import Reservation

TOLERANCE_S: Final = 0.02
"""How far the ledger's clock and ours may be apart, both in whole milliseconds, for a hold that ran out."""


def events_by_place(
    operations: Iterable[Operation],
    published: Iterable[Published],
    done: AbstractSet[str],
    reservations: Mapping[str, Reservation],
    shards: int,
) -> dict[Place, list[Event]]:
    """Everything that happened to each position that was sold. ``done`` are the keys of what took effect.

    What was acknowledged counts as done, whatever the journal says.
    """
    events: dict[Place, list[Event]] = defaultdict(list)
    sold = {stock.place for stock in published if stock.way == "count"}
    for operation in operations:
        for line in operation.lines:
            events[line.place].extend(_of_operation(operation, line, done))
        if operation.verb == "hold" and operation.id in reservations:
            is_over_shards = len({shard_of(line.sku, shards) for line in operation.lines}) > 1
            for place, event in _expiry(operation.id, reservations[operation.id], is_over_shards):
                events[place].append(event)
    told: set[str] = set()
    for stock in published:
        key = stock.event["id"] if stock.way == "count" else event_key(stock.event["source"], stock.event["id"])
        if stock.place in sold and key not in told and (stock.way == "count" or key in done):
            told.add(key)
            events[stock.place].append(_of_stock(stock))
    return {place: events[place] for place in sold}


def _of_operation(operation: Operation, line: Line, done: AbstractSet[str]) -> Iterable[Event]:
    """Its effect on the position of one of its lines, if it had one, and each of its refusals."""
    single = len(operation.lines) == 1 and line.number == 1
    for attempt in operation.attempts:
        if operation.verb == "look":
            if attempt.verdict == "ok":
                yield Event(attempt.sent_s, attempt.answered_s, _look(attempt), f"look {_position(attempt)}")
        elif attempt.verdict == "refused" and (step := _refused(operation, line, attempt, single)) is not None:
            what = f"{operation.verb} {operation.key} of {operation.reservation} refused: {attempt.problem}"
            yield Event(attempt.sent_s, attempt.answered_s, step, what)
    if operation.is_write and (operation.acknowledged or operation.id in done):
        sent_s, answered_s = _interval(operation)
        what = f"{operation.verb} {operation.key} of {line.quantity} by {operation.reservation}"
        yield Event(sent_s, answered_s, _done(operation, line, single), what)


def _interval(operation: Operation) -> tuple[float, float]:
    """Between which times it took effect. An answer that is no replay was given by the attempt that did it."""
    answers = [attempt for attempt in operation.attempts if attempt.verdict == "ok"]
    doers = [attempt for attempt in answers if not attempt.replayed]
    maybe = doers or [attempt for attempt in operation.attempts if attempt.verdict in ("ok", "unknown")]
    answered_s = min((answer.answered_s for answer in answers), default=INFINITY)
    return min(attempt.sent_s for attempt in maybe or operation.attempts), answered_s


def _expiry(
    id_: str,
    reservation: Reservation,
    is_over_shards: bool,  # noqa: FBT001
) -> Iterable[tuple[Place, Event]]:
    """Units that ran out did so at the deadline, whoever noticed when; a part that an attempt has pinned, later."""
    at_s = reservation.expires_at_ms / 1000 - WALL_S
    until_s = INFINITY if is_over_shards else at_s + TOLERANCE_S
    for line in reservation.lines:
        if line.expired:
            step = _take(id_, lambda claim: Left(claim._replace(held=0)) if claim.held else None)
            event = Event(at_s - TOLERANCE_S, until_s, step, f"{id_} expires")
            yield (line.sku, line.location), event


def seen_in_between(attempts: Iterable[Attempted]) -> Iterable[tuple[Place, list[Event]]]:
    """Claims over several shards that came to nothing: their times are known from the journal alone."""
    for number, (prepare, drop) in enumerate(attempts):
        id_ = f"attempt {number} at {prepare.subject}"
        for move in prepare.movements:
            claimed, left = (
                _at(effect.at_ms, _adding(id_, sign * move.quantity), f"{effect.verb} of {id_}")
                for effect, sign in ((prepare, 1), (drop, -1))
            )
            yield (move.sku, move.location), [claimed, left]


def _at(at_ms: int, step: Step, what: str) -> Event:
    at_s = at_ms / 1000 - WALL_S
    return Event(at_s - TOLERANCE_S, at_s + TOLERANCE_S, step, what)


def _adding(id_: str, quantity: int) -> Step:
    def step(position: Position) -> Position | None:
        held = position.claim(id_).held + quantity
        return position.with_claim(id_, Claim(held=held)) if held >= 0 and position.available >= quantity else None

    return step


def _of_stock(published: Published) -> Event:
    quantity = published.event["quantity"]
    answered_s = published.answered_s if published.way != "nats" else INFINITY
    return Event(
        *(published.sent_s, answered_s, lambda position: position._replace(on_hand=position.on_hand + quantity)),
        f"{published.way} {quantity:+}",
    )


# --- steps -------------------------------------------------------------------------------------------------------


class Left(NamedTuple):
    """What a verb leaves of a claim, and by how much it changes the units on hand."""

    claim: Claim
    on_hand: int = 0


def _look(attempt: Attempt) -> Step:
    told = _position(attempt)

    def step(position: Position) -> Position | None:
        return position if told == (position.on_hand, *position.claimed, max(0, position.available)) else None

    return step


def _position(attempt: Attempt) -> tuple[Any, ...]:
    [entry] = attempt.told["locations"]
    return tuple(entry[name] for name in ("on_hand", "held", "committed", "picked", "available"))


def _refused(operation: Operation, line: Line, attempt: Attempt, single: bool) -> Step | None:  # noqa: FBT001
    """What must have been so for the refusal to be right; None when nothing is known of this position."""
    if attempt.problem == "insufficient-stock":
        short = [told for told in attempt.told["lines"] if told["line"] == line.number]
        if not short:
            return None
        available, requested = short[0]["available"], short[0]["requested"]
        return lambda position: (
            position if max(0, position.available) == available < requested == line.quantity else None
        )
    if not single or operation.verb == "return":
        return None
    step = _done(operation, line, single)
    return lambda position: position if step(position) is None else None


def _done(operation: Operation, line: Line, single: bool) -> Step:  # noqa: FBT001
    """What the verb does to the claim of its reservation."""
    id_, quantity = operation.reservation, line.quantity
    if operation.verb == "hold":
        return lambda position: (
            position.with_claim(id_, Claim(held=quantity)) if position.available >= quantity else None
        )
    if operation.verb == "return":
        return lambda position: position._replace(on_hand=position.on_hand + quantity)
    units = None if operation.whole else quantity
    rule = _RULES[operation.verb]
    return _take(id_, lambda claim: rule(claim, units), may_find_nothing=operation.whole and not single)


def _take(id_: str, rule: Callable[[Claim], Left | None], *, may_find_nothing: bool = False) -> Step:
    def step(position: Position) -> Position | None:
        left = rule(position.claim(id_))
        if left is None:
            return position if may_find_nothing else None
        return position.with_claim(id_, left.claim, left.on_hand)

    return step


def _commit(claim: Claim, units: int | None) -> Left | None:
    taken = claim.held if units is None else units
    after = Claim(claim.held - taken, claim.committed + taken, claim.picked)
    return Left(after) if 0 < taken <= claim.held else None


def _release(claim: Claim, units: int | None) -> Left | None:
    taken = claim.held if units is None else units
    return Left(claim._replace(held=claim.held - taken)) if 0 < taken <= claim.held else None


def _extend(claim: Claim, _units: int | None) -> Left | None:
    return Left(claim) if claim.held else None


def _pick(claim: Claim, _units: int | None) -> Left | None:
    return Left(Claim(claim.held, 0, claim.picked + claim.committed)) if claim.committed else None


def _ship(claim: Claim, _units: int | None) -> Left | None:
    taken = claim.committed + claim.picked
    return Left(Claim(claim.held), -taken) if taken else None


def _cancel(claim: Claim, _units: int | None) -> Left | None:
    return Left(Claim(claim.held)) if claim.committed + claim.picked else None


_RULES: Final = {
    "commit": _commit,
    "release": _release,
    "extend": _extend,
    "pick": _pick,
    "ship": _ship,
    "cancel": _cancel,
}
