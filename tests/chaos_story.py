"""Owns a small true story for the tests of the chaos checkers: a history and its evidence, in which nothing is wrong.

One position with 5 units. Ann holds 2 and commits them; Bob's hold of 4 is refused with 3 left; Cid's hold of 1
runs out; Dot's answer is lost and her second try is a replay; a delivery of 6 comes, and somebody looks. Tests
doctor it.
"""

from dataclasses import dataclass, field
from typing import Any

from chaos.announced import Told
from chaos.checks import Window
from chaos.effects import Effect
from chaos.history import LOST, WALL_S, Attempt, History, Line, Operation, Published

from ledger import event_key, operation_id
from ledger.journal import Place
from ledger.messages import Movement, Position, Reservation, ReservationLine

SKU, LOCATION = "MUG", "STORE"
CLIENT = "web"


def wall_ms(at_s: float) -> int:
    return round((at_s + WALL_S) * 1_000)


@dataclass
class Story:
    """What was asked, and what the journal says; ``judged`` makes a window of both."""

    history: History = field(default_factory=History)
    effects: list[Effect] = field(default_factory=list)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    shards: int = 1

    @property
    def window(self) -> Window:
        now = Position(11, 0, 2, 0, 0, 0, 0, 0, 0)
        return Window(self.history, self.effects, self.reservations, {(SKU, LOCATION): now}, self.told, self.shards)

    def operation(self, key: str) -> Operation:
        return next(operation for operation in self.history.operations if operation.key == key)

    def effect(self, key: str) -> Effect:
        return self.effects[self.place(key)]

    def place(self, key: str) -> int:
        """Where in ``effects`` an operation is."""
        return next(n for n, effect in enumerate(self.effects) if effect.key == operation_id(CLIENT, key))

    # --- telling it ---------------------------------------------------------------------------------------------

    def ask(self, verb: str, key: str, of: str, quantity: int, at_s: float) -> Operation:
        """Somebody asks; the answer takes 10 ms, and is lost until somebody says otherwise."""
        line = Line(1, SKU, LOCATION, quantity)
        attempt = Attempt(at_s, at_s + 0.01, LOST)
        mark = f"wish of {key}" if verb == "hold" else ""
        operation = Operation(CLIENT, key, verb, operation_id(CLIENT, of), [line], mark=mark, attempts=[attempt])
        self.history.operations.append(operation)
        return operation

    def do(self, operation: Operation, movements: list[Movement], at_s: float) -> Effect:
        """It takes effect."""
        effect = Effect(
            *(Place(1, len(self.effects) + 1), wall_ms(at_s), operation.verb, operation.reservation, CLIENT),
            *(operation.id, operation.mark, movements),
        )
        self.effects.append(effect)
        self.announce(effect)
        return effect

    def announce(self, effect: Effect) -> None:
        """NATS has it, and how the position is after it."""
        moved = [
            {"sku": SKU, "location": LOCATION, "from": one.from_bucket, "to": one.to_bucket, "quantity": one.quantity}
            for one in effect.movements
        ]
        data = {"operation": effect.verb, "movements": moved}
        kind = f"availability.reservation.{effect.verb}"
        self.told.append(Told((effect.place.epoch, 0, effect.place.seq, 0), kind, effect.subject, data))

    def announce_position(self, **numbers: int) -> None:
        """NATS has how the position is now."""
        place = self.effects[-1].place
        data = {"picked": 0, **numbers}
        self.told.append(Told((place.epoch, 0, place.seq, 1), "availability.stock.changed", f"{SKU}@{LOCATION}", data))

    def answer(self, operation: Operation, effect: Effect, number: int = 0) -> None:
        """An attempt is answered with what was done."""
        attempt = operation.attempts[number]
        attempt.status = 201 if operation.verb == "hold" else 200
        attempt.replayed = number > 0
        attempt.told = {
            "id": operation.reservation,
            "receipt": {"shard": 0, "epoch": effect.place.epoch, "seq": effect.place.seq},
        }

    def verb(self, verb: str, key: str, of: str, quantity: int, at_s: float) -> Operation:
        """Asked, done and answered."""
        movements = [move(*_MOVES[verb], quantity)]
        operation = self.ask(verb, key, of, quantity, at_s)
        self.answer(operation, self.do(operation, movements, at_s + 0.005))
        return operation

    def refuse(self, key: str, quantity: int, available: int, at_s: float) -> Operation:
        operation = self.ask("hold", key, key, quantity, at_s)
        attempt = operation.attempts[0]
        attempt.status = 409
        short = {"line": 1, "sku": SKU, "location": LOCATION, "requested": quantity, "available": available}
        attempt.told = {"type": "/problems/insufficient-stock", "lines": [short]}
        return operation

    def look(self, at_s: float, **numbers: int) -> Operation:
        operation = self.ask("look", "", "", 0, at_s)
        attempt = operation.attempts[0]
        attempt.status = 200
        attempt.told = {"locations": [{"location": LOCATION, "picked": 0, **numbers}]}
        return operation

    def stock(self, kind: str, event_id: str, quantity: int, at_s: float) -> None:
        """A count of a person, or a delivery over HTTP."""
        event: dict[str, Any] = {"id": event_id, "source": "wms", "kind": kind, "sku": SKU, "location": LOCATION}
        event |= {"quantity": quantity, "at_ms": wall_ms(at_s)}
        way, verb = ("count", "count") if kind == "snapshot" else ("http", "apply")
        self.history.published.append(Published(event, way, at_s, at_s + 0.01, ["applied"]))  # type: ignore[arg-type]
        key = event_key("wms", event_id)
        moved = [move("outside", "on_hand", quantity)]
        place = Place(1, len(self.effects) + 1)
        self.effects.append(Effect(place, wall_ms(at_s + 0.005), verb, f"{SKU}@{LOCATION}", "wms", key, "", moved))

    def expire(self, of: str, quantity: int, at_s: float) -> None:
        subject = operation_id(CLIENT, of)
        place = Place(1, len(self.effects) + 1)
        moved = [move("held", "expired", quantity)]
        self.effects.append(Effect(place, wall_ms(at_s), "expire", subject, "", "", "", moved))
        self.announce(self.effects[-1])

    def is_now(self, of: str, quantity: int, expires_s: float, **units: int) -> None:
        """The reservation as it was left."""
        names = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")
        counts = {name: units.get(name, 0) for name in names}
        line = ReservationLine(SKU, LOCATION, quantity, quantity, promise_day=0, **counts)
        self.reservations[operation_id(CLIENT, of)] = Reservation(
            *(CLIENT, "", 0, wall_ms(expires_s), None, None, None, 1, 1, [], [line])
        )


_MOVES = {"hold": ("available", "held"), "commit": ("held", "committed"), "release": ("held", "released")}


def move(from_bucket: str, to_bucket: str, quantity: int) -> Movement:
    return Movement(SKU, LOCATION, from_bucket, to_bucket, quantity, "")


def true_story() -> Story:
    """See the module."""
    story = Story()
    story.stock("snapshot", "opening", 5, at_s=1.0)
    story.verb("hold", "ann", "ann", 2, at_s=2.0)
    story.refuse("bob", 4, available=3, at_s=2.5)
    story.verb("hold", "cid", "cid", 1, at_s=3.0)
    story.look(3.2, on_hand=5, held=3, committed=0, available=2)
    story.verb("commit", "ann pays", "ann", 2, at_s=3.5)
    dot = story.ask("hold", "dot", "dot", 1, at_s=3.6)
    dot.attempts.append(Attempt(3.7, 3.71))
    story.answer(dot, story.do(dot, [move("available", "held", 1)], 3.605), number=1)
    story.verb("release", "dot leaves", "dot", 1, at_s=3.8)
    story.expire("cid", 1, at_s=4.0)
    story.stock("delta", "delivery", 6, at_s=4.5)
    story.announce_position(on_hand=11, held=0, committed=2)
    story.look(5.0, on_hand=11, held=0, committed=2, available=9)
    story.is_now("ann", 2, 9.0, committed=2)
    story.is_now("cid", 1, 4.0, expired=1)
    story.is_now("dot", 1, 9.0, released=1)
    return story
