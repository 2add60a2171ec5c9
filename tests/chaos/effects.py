"""Owns what the checkers see of a journal entry: one effect for each of its operations."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from books import VERBS as OF_RESERVATIONS

from ledger import Place
from ledger.messages import JournalEntry, Movement, Reservation, StockEvent

_RESERVATIONS = msgspec.msgpack.Decoder(Reservation)
_EVENTS = msgspec.msgpack.Decoder(StockEvent)


class Effect(NamedTuple):
    """One operation in the journal of a shard.

    ``key`` is its id, or a stock event's key; ``mark`` is a hold's customer. ``is_part``: of a reservation over several
    shards, and ``is_sealed`` when that is held on all of them.
    """

    place: Place
    at_ms: int
    verb: str
    subject: str
    client: str
    key: str
    mark: str
    movements: list[Movement]
    shard: int = 0
    is_part: bool = False
    is_sealed: bool = True


def effects_of(shard: int, entry: JournalEntry) -> list[Effect]:
    """In the entry's order; none of what a rebuild put back under a new epoch, which was done before."""
    place = Place(entry.epoch, entry.seq)
    effects = []
    for operation in entry.operations:
        if operation.verb.startswith("restore"):
            continue
        key, mark, span = operation.operation_id, "", None
        if operation.verb in OF_RESERVATIONS:
            reservation = _RESERVATIONS.decode(operation.body)
            span = reservation.span
            if operation.verb == "hold":
                key, mark = operation.subject, reservation.customer or ""
        elif operation.verb in ("apply", "view"):
            key = _EVENTS.decode(operation.body).key
        effects.append(
            Effect(
                *(place, entry.at_ms, operation.verb, operation.subject, operation.client, key, mark),
                *(operation.movements, shard, span is not None, span is None or span.sealed),
            )
        )
    return effects


class Attempted(NamedTuple):
    """A claim over several shards that came to nothing: ``prepare`` made it, ``drop`` took it back."""

    prepare: Effect
    drop: Effect


def came_to_nothing(effects: Iterable[Effect]) -> list[Attempted]:
    """Such claims: others may have seen them, for what spans shards is not isolated."""
    under_way: dict[tuple[int, str], Effect] = {}
    found = []
    for effect in effects:
        at = effect.shard, effect.subject
        if effect.verb == "prepare":
            under_way[at] = effect
        elif effect.verb == "drop" and (prepare := under_way.pop(at, None)) is not None:
            found.append(Attempted(prepare, effect))
    return found
