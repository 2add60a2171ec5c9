"""Owns what was announced: the stream ``AVAILABILITY`` read on from where it stopped, and whether it tells it all."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec
import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chaos.effects import Effect
from chaos.stage import Stage
from ledger.messages import Position

STREAM: Final = "AVAILABILITY"
AT_ONCE: Final = 500
TIMEOUT_S: Final = 5.0
OPERATIONS: Final = {
    **dict.fromkeys(("hold", "extend", "commit", "release", "expire", "pick", "ship", "cancel", "return", "move")),
    "drop": "release",
}
"""What is announced of a reservation, and its name there when that is another."""


class Told(NamedTuple):
    """An event, in the stream's order. ``id`` is epoch, shard, seq and the number in that entry."""

    id: tuple[int, int, int, int]
    kind: str
    subject: str
    data: dict[str, Any]


class Announcements:
    """Reads on where it stopped."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._next = 1

    async def read(self) -> list[Told]:
        """All up to now. Raises ``OSError``, ``TimeoutError`` or an error of nats-py."""
        client = await nats.connect(self._stage.url("nats"), allow_reconnect=False, error_cb=_quietly)
        try:
            streams = client.jetstream(timeout=TIMEOUT_S)
            last = (await streams.stream_info(STREAM)).state.last_seq
            config = ConsumerConfig(
                ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._next
            )
            told: list[Told] = []
            if self._next > last:
                return told
            reading = await streams.pull_subscribe("availability.>", stream=STREAM, config=config)
            number = self._next - 1
            while number < last:
                for message in await reading.fetch(AT_ONCE, timeout=TIMEOUT_S):
                    number = message.metadata.sequence.stream
                    told.append(_told(message.headers or {}, message.data))
            self._next = number + 1
            return told
        finally:
            await client.close()


async def _quietly(_error: Exception) -> None:
    """What goes wrong is raised."""


def _told(headers: Mapping[str, str], body: bytes) -> Told:
    epoch, shard, seq, index = map(int, headers["ce-id"].split("-"))
    subject = unquote(headers["ce-subject"])
    return Told((epoch, shard, seq, index), headers["ce-type"], subject, msgspec.json.decode(body))


class _Change(NamedTuple):
    """A change of a reservation, as the journal or an event has it; units only where both tell the same ones."""

    place: tuple[int, int]
    operation: str
    units: tuple[tuple[str, ...], ...] | None


def unannounced(
    effects: Sequence[Effect], told: Sequence[Told], positions: Mapping[tuple[str, str], Position]
) -> Iterable[str]:
    """What is missing, out of its order or made up; and positions whose last event is not how they are (DESIGN 10).

    Each change is told at least once, and the first tellings of what concerns one reservation, on one shard, are in
    the journal's order without a gap.
    """
    yield from _changes(effects, told)
    last: dict[str, Told] = {}
    for event in told:
        if event.kind == "availability.stock.changed":
            last[event.subject] = event
    for place in {(move.sku, move.location) for effect in effects for move in effect.movements}:
        event_of = last.get("@".join(place))
        wanted = positions[place]
        names = ("on_hand", "held", "committed", "picked")
        if event_of is None or any(event_of.data[name] != getattr(wanted, name) for name in names):
            yield f"{place} is {wanted}, and was last announced as {event_of}"


def _changes(effects: Sequence[Effect], told: Sequence[Told]) -> Iterable[str]:
    done: dict[tuple[int, str], list[_Change]] = defaultdict(list)
    heard: dict[tuple[int, str], list[_Change]] = defaultdict(list)
    for effect in filter(_is_told, effects):
        done[effect.shard, effect.subject].append(_of_effect(effect))
    for event in _first(told):
        if event.kind.startswith("availability.reservation."):
            heard[event.id[1], event.subject].append(_of_event(event))
    for at in done.keys() | heard.keys():
        if not _agree(done[at], heard[at]):
            yield f"of {at} the journal has {done[at]}, and was announced {heard[at]}"


def told_again(told: Sequence[Told]) -> int:
    """How many events were told more than once, which "at least once" allows."""
    return sum(times > 1 for times in Counter(event.id for event in told).values())


def _first(told: Iterable[Told]) -> Iterable[Told]:
    seen: set[tuple[int, ...]] = set()
    for event in told:
        if event.id not in seen:
            seen.add(event.id)
            yield event


def _is_told(effect: Effect) -> bool:
    """Of one over several shards each tells what it did to units of its own, and takes back what it told as held."""
    if effect.verb not in OPERATIONS or (effect.verb == "drop" and not effect.is_sealed):
        return False
    return not effect.is_part or bool(effect.movements) or effect.verb in ("hold", "extend")


def _of_effect(effect: Effect) -> _Change:
    units = sorted(
        (move.sku, move.location, move.from_bucket, move.to_bucket, str(move.quantity)) for move in effect.movements
    )
    operation = OPERATIONS[effect.verb] or effect.verb
    return _Change((effect.place.epoch, effect.place.seq), operation, None if effect.is_part else tuple(units))


def _of_event(event: Told) -> _Change:
    units = sorted(
        (move["sku"], move["location"], move["from"], move["to"], str(move["quantity"]))
        for move in event.data["movements"]
    )
    return _Change((event.id[0], event.id[2]), event.data["operation"], tuple(units))


def _agree(done: list[_Change], heard: list[_Change]) -> bool:
    return len(done) == len(heard) and all(
        (one.place, one.operation) == (other.place, other.operation) and one.units in (None, other.units)
        for one, other in zip(done, heard, strict=True)
    )
