"""Owns the checkers: from the history and the evidence of a window to what is wrong with them.

They find nothing when all is well. Each is a plain function, so that tests can hand it a history that was doctored and
see it bite.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from books import CLAIMS, STATES

from chaos.announced import Told, unannounced
from chaos.effects import Effect, came_to_nothing
from chaos.history import WALL_S, Attempt, History, Operation, Place, Published
from chaos.linearizable import Position, Undecided, explain
from chaos.model import events_by_place, seen_in_between
from ledger import event_key
from ledger.keys import shard_of
from ledger.messages import Position as PositionNow
from ledger.messages import Reservation

VERBS: Final = frozenset({"hold", "extend", "commit", "release", "pick", "ship", "cancel", "return"})
STEPS: Final = frozenset({"prepare", "drop", "reclaim"})
"""Of what takes more than one shard; they bear the key of it."""
TOLERANCE_MS: Final = 20
"""How far the ledger's clock and ours may be apart."""


class Finding(NamedTuple):
    """Something that must never be. ``at_s`` is when it was asked for, for naming the fault before it."""

    check: str
    detail: str
    at_s: float | None = None

    def __str__(self) -> str:
        return f"{self.check}: {self.detail}"


class Window(NamedTuple):
    """What is judged: the history, and what the journal says of it, each shard's in its order.

    ``reservations`` and ``positions`` are as they are now; ``told`` is what was announced, None when that is not known.
    """

    history: History
    effects: Sequence[Effect]
    reservations: Mapping[str, Reservation]
    positions: Mapping[Place, PositionNow] = {}
    told: Sequence[Told] | None = None
    shards: int = 1

    @property
    def done(self) -> set[str]:
        """The keys of what took effect: not of a hold over several shards that was dropped again."""
        dropped = {effect.subject for effect in self.effects if effect.verb == "drop"} - self.reservations.keys()
        return {effect.key for effect in self.effects if effect.verb not in STEPS and effect.subject not in dropped}

    @property
    def writes(self) -> list[Operation]:
        return [operation for operation in self.history.operations if operation.is_write]


def lost(window: Window) -> Iterable[Finding]:
    """P2: what was acknowledged is in the journal, where its receipt says, at a time between question and answer."""
    found: dict[str, list[Effect]] = defaultdict(list)
    for effect in window.effects:
        if effect.verb in VERBS:
            found[effect.key].append(effect)
    dropped = {effect.subject for effect in window.effects if effect.verb == "drop" and effect.is_sealed}
    for operation in window.writes:
        attempt = operation.acknowledged
        if attempt is None:
            continue
        what = f"{operation.verb} {operation.key}"
        effects = found[operation.id]
        shards = {shard_of(line.sku, window.shards) for line in operation.lines}
        if operation.reservation in dropped:
            yield Finding("lost", f"{what} was acknowledged, and its reservation dropped", operation.sent_s)
        if not shards <= {effect.shard for effect in effects}:
            yield Finding("lost", f"{what} was acknowledged and is not in the journal of {shards}", operation.sent_s)
        for effect in effects:
            if effect.verb != operation.verb or effect.subject != operation.reservation:
                yield Finding("lost", f"{what} is {effect.verb} of {effect.subject} in the journal", operation.sent_s)
            elif not attempt.replayed:
                yield from (Finding("lost", f"{what} {why}", operation.sent_s) for why in _misplaced(effect, attempt))


def _misplaced(effect: Effect, attempt: Attempt) -> Iterable[str]:
    receipt = attempt.told["receipt"]
    if receipt["shard"] == effect.shard and (receipt["epoch"], receipt["seq"]) != effect.place:
        yield f"has the receipt {receipt}, and is entry {effect.place}"
    earliest_ms = (attempt.sent_s + WALL_S) * 1_000 - TOLERANCE_MS
    latest_ms = (attempt.answered_s + WALL_S) * 1_000 + TOLERANCE_MS
    if not earliest_ms <= effect.at_ms <= latest_ms:
        yield f"was done at {effect.at_ms}, asked at {earliest_ms:.0f} and answered at {latest_ms:.0f}"


def doubled(window: Window) -> Iterable[Finding]:
    """P3: one effect for each key, and for each customer's wish, whatever its key; each stock event once.

    On each shard that has a part, if several have one; the parts of one hold are one hold.
    """
    keys = Counter((effect.shard, effect.key) for effect in window.effects if effect.verb in VERBS)
    marks = Counter(mark for mark, _ in {(effect.mark, effect.subject) for effect in window.effects if effect.mark})
    sent_s = {operation.id: operation.sent_s for operation in window.writes}
    for (_, key), times in keys.items():
        if times > 1:
            yield Finding("doubled", f"operation {key} was done {times} times", sent_s.get(key))
    for operation in window.writes:
        if operation.mark and marks[operation.mark] > 1:
            why = f"hold {operation.key} of {operation.mark} was done {marks[operation.mark]} times"
            yield Finding("doubled", why, operation.sent_s)
    events = Counter(effect.key for effect in window.effects if effect.verb == "apply" and effect.movements)
    yield from (Finding("doubled", f"event {key} moved units {n} times") for key, n in events.items() if n > 1)


def ghosts(window: Window) -> Iterable[Finding]:
    """P4: nothing was done that nobody asked for, or that was answered as surely not done, each time."""
    asked = {operation.id: operation for operation in window.writes}
    for effect in window.effects:
        if effect.verb not in VERBS:
            continue
        operation = asked.get(effect.key)
        if operation is None:
            yield Finding("ghost", f"{effect.verb} {effect.key} of {effect.subject}: nobody asked for it")
        elif not operation.may_be_done:
            answers = [attempt.status for attempt in operation.attempts]
            yield Finding("ghost", f"{effect.verb} {operation.key} was answered {answers}, and done", operation.sent_s)


def endings(window: Window) -> Iterable[Finding]:
    """P5: no unit of a reservation is in two states or ends twice, or before its deadline; none is still held."""
    parts: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for effect in window.effects:
        part = parts[effect.shard, effect.subject]
        _move_units(effect, part)
        if min(part.values(), default=0) < 0:
            yield Finding("ended twice", f"{effect.verb} of {effect.subject} takes units that are not there")
        if effect.verb == "drop" and not effect.is_sealed:
            part.clear()  # nobody was told of what these units were
    units: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, subject), part in parts.items():
        units[subject] += part
    for id_, reservation in window.reservations.items():
        told = Counter({state: sum(getattr(line, state) for line in reservation.lines) for state in STATES})
        if +told != +units[id_]:
            yield Finding("ended twice", f"{id_} is {dict(+told)}, its movements say {dict(+units[id_])}")
        if told["held"]:
            yield Finding("not expired", f"{id_} is still held after {reservation.expires_at_ms}")
    for effect in window.effects:
        ended = window.reservations.get(effect.subject)
        if effect.verb == "expire" and ended is not None and effect.at_ms < ended.expires_at_ms:
            yield Finding("ended twice", f"{effect.subject} expired at {effect.at_ms}, before its time")


def _move_units(effect: Effect, units: Counter[str]) -> None:
    for move in effect.movements:
        if move.from_bucket in STATES:
            units[move.from_bucket] -= move.quantity
        if move.to_bucket in STATES:
            units[move.to_bucket] += move.quantity


class Books:
    """What was available at each position over time, by the journal's order."""

    def __init__(self, effects: Iterable[Effect]) -> None:
        self.on_hand = Counter[Place]()
        self.claims = Counter[Place]()
        self.times: dict[Place, list[int]] = defaultdict(list)
        self.available: dict[Place, list[int]] = defaultdict(list)
        self.oversold: list[tuple[Effect, Place, int]] = []
        for effect in effects:
            self._take(effect)

    def _take(self, effect: Effect) -> None:
        for move in effect.movements:
            place = move.sku, move.location
            self.on_hand[place] += move.quantity * (
                (move.to_bucket == "on_hand") - (move.from_bucket == "on_hand") - (move.to_bucket == "shipped")
            )
            claimed = (move.to_bucket in CLAIMS) - (move.from_bucket in CLAIMS)
            self.claims[place] += move.quantity * claimed
            available = self.on_hand[place] - self.claims[place]
            if claimed > 0 and available < 0:
                self.oversold.append((effect, place, available))
            self.times[place].append(effect.at_ms)
            self.available[place].append(available)

    def within(self, place: Place, from_ms: float, until_ms: float) -> list[int]:
        """What was available at the start of a time and after each movement in it."""
        times = self.times[place]
        first, last = bisect_left(times, from_ms), bisect_right(times, until_ms)
        before = [self.available[place][first - 1]] if first else [0]
        return before + self.available[place][first:last]


def oversold(window: Window) -> Iterable[Finding]:
    """P1: no claim was made of units that were not there. What a feed takes away later is not an oversell."""
    for effect, place, available in Books(window.effects).oversold:
        yield Finding("oversold", f"{effect.verb} {effect.subject} at {effect.place} leaves {available} of {place}")


def undersold(window: Window) -> Iterable[Finding]:
    """P5: "insufficient" was so at some instant between question and answer, with the number that was told."""
    books = Books(window.effects)
    for operation in window.writes:
        for attempt in operation.attempts:
            if attempt.problem != "insufficient-stock":
                continue
            from_ms = (attempt.sent_s + WALL_S) * 1_000 - TOLERANCE_MS
            until_ms = (attempt.answered_s + WALL_S) * 1_000 + TOLERANCE_MS
            for told in attempt.told["lines"]:
                was = [max(0, units) for units in books.within((told["sku"], told["location"]), from_ms, until_ms)]
                if told["available"] not in was or told["available"] >= told["requested"]:
                    why = f"{operation.key} was told {told['available']} of {told['requested']}; there were {was}"
                    yield Finding("undersold", why, operation.sent_s)


def replays(window: Window) -> Iterable[Finding]:
    """P3: the same key again gives the same verdict on the same reservation, and says that it is a replay."""
    for operation in window.writes:
        answers = [attempt for attempt in operation.attempts if attempt.verdict == "ok"]
        for attempt in answers:
            status, id_ = (201 if operation.verb == "hold" else 200), attempt.told["id"]
            if (attempt.status, id_) != (status, operation.reservation):
                why = f"{operation.key} was answered {attempt.status} {id_}, for {operation.reservation}"
                yield Finding("other verdict", why, operation.sent_s)
        if sum(not attempt.replayed for attempt in answers) > 1:
            yield Finding("doubled", f"{operation.key} was answered as new more than once", operation.sent_s)
        done = [attempt for attempt in answers if not attempt.replayed]
        for attempt in operation.attempts:
            if done and attempt.verdict == "refused" and attempt.sent_s > done[0].answered_s:
                why = f"{operation.key} was done, then refused: {attempt.problem}"
                yield Finding("other verdict", why, operation.sent_s)


def refusals(window: Window) -> Iterable[Finding]:
    """Only such refusals as the shoppers can meet: a reservation that was acknowledged is never "not found"."""
    expected = {"insufficient-stock", "wrong-state", "reservation-expired"}
    for operation in window.history.operations:
        for attempt in operation.attempts:
            if attempt.verdict == "refused" and attempt.problem not in expected:
                why = f"{operation.verb} {operation.key} of {operation.reservation}: {attempt.status} {attempt.told}"
                yield Finding("odd refusal", why[:400], operation.sent_s)


def unordered(window: Window) -> Iterable[Finding]:
    """P1, P5: for each position there is an order of all operations that explains every answer."""
    history = window.history
    by_place = events_by_place(history.operations, history.published, window.done, window.reservations, window.shards)
    for place, seen in seen_in_between(came_to_nothing(window.effects)):
        by_place[place] += seen
    for place, events in by_place.items():
        try:
            failure = explain(events, Position())
        except Undecided as error:
            window.history.sometimes["order undecided"] += 1
            window.history.sometimes[f"order undecided: {error}"] += 0
            continue
        window.history.sometimes["positions put in order"] += 1
        if failure is not None:
            yield Finding("no order", f"{place}, {len(events)} operations: {'; '.join(failure)}", events[0].sent_s)


def feeds(window: Window) -> Iterable[Finding]:
    """P8: what was handed in is applied, once, or in quarantine if it is poison; and on-hand is what that makes."""
    books = Books(window.effects)
    sold: dict[Place, int] = Counter()
    for effect in window.effects:
        for move in effect.movements:
            sold[move.sku, move.location] += move.quantity * (
                (move.from_bucket == "shipped") - (move.to_bucket == "shipped")
            )
    by_place: dict[Place, list[Published]] = defaultdict(list)
    for published in window.history.published:
        by_place[published.place].append(published)
    applied = {effect.key for effect in window.effects if effect.verb == "apply"}
    for place, told in by_place.items():
        poison = place[1] == "NOWHERE"
        for published in told:
            if published.way != "count" and (key_of(published.event) in applied) == poison:
                what = "was applied" if poison else "was not applied"
                yield Finding("feed", f"{published.event['id']} {what}, by {published.way}", published.sent_s)
        expected = 0 if poison else expected_on_hand(published.event for published in told) + sold[place]
        if books.on_hand[place] != expected:
            yield Finding("feed", f"{place} has {books.on_hand[place]} on hand and should have {expected}")


def announcements(window: Window) -> Iterable[Finding]:
    """DESIGN 10: every change is told to who listens, in its order."""
    if window.told is not None:
        flaws = unannounced(window.effects, window.told, window.positions)
        yield from (Finding("announced otherwise", flaw[:700]) for flaw in flaws)


def key_of(event: Mapping[str, Any]) -> str:
    return event_key(event["source"], event["id"])


def expected_on_hand(events: Iterable[Mapping[str, Any]]) -> int:
    """DESIGN 6: the newest snapshot, and what happened after it."""
    once = {event["id"]: event for event in events}.values()
    counts = [event for event in once if event["kind"] == "snapshot"]
    base = max(counts, key=lambda event: (event["at_ms"], event["id"]), default={"quantity": 0, "at_ms": -1})
    later = (event for event in once if event["kind"] == "delta" and event["at_ms"] > base["at_ms"])
    return int(base["quantity"]) + sum(int(event["quantity"]) for event in later)


CHECKS: Final[Sequence[Callable[[Window], Iterable[Finding]]]] = (
    *(lost, doubled, ghosts, endings, oversold, undersold, replays, refusals, unordered, feeds, announcements),
)


def judge(window: Window) -> list[Finding]:
    """All that the checkers find."""
    return [finding for check in CHECKS for finding in check(window)]
