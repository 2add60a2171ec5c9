"""Owns how a journal entry becomes events: CloudEvents in binary mode, as DESIGN 10 has them. Pure functions."""

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct, structs

from availability.shapes import (
    ClaimJson,
    PositionJson,
    ReservationJson,
    claims_json,
    position_json,
    reservation_json,
    time_text,
)
from ledger import Claims, JournalEntry, JournalOperation, Overcommitted, Place, Reservation

LINE_END = "\r\n"
SOURCE = "/availability"
"""``ce-source``: with ``ce-id`` it names an event for good."""
STOCK_CHANGED = "availability.stock.changed"
OVERCOMMITTED = "availability.stock.overcommitted"
RESERVATION_EVENTS = {
    verb: f"availability.reservation.{event}"
    for verb, event in {
        "hold": "held",
        "extend": "extended",
        "commit": "committed",
        "release": "released",
        "expire": "expired",
        "pick": "picked",
        "ship": "shipped",
        "cancel": "cancelled",
        "return": "returned",
        "move": "moved",
        "drop": "released",
    }.items()
}
"""The event's subject by the operation's verb; other operations show only in the positions that they changed.

Of the steps of one over several shards only a ``drop`` is told, and only if it takes back what was told as held."""

logger = logging.getLogger(__name__)


class Event(NamedTuple):
    """A message for NATS; ``header_lines`` as they are sent, a line each."""

    subject: str
    header_lines: str
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The same by their names."""
        return dict(line.split(": ", 1) for line in self.header_lines.split(LINE_END) if line)


class MovementJson(Struct, frozen=True):
    """Units that went from one bucket to another."""

    sku: str
    location: str
    from_: str = msgspec.field(name="from")
    to: str
    quantity: int


class OperationData(Struct, frozen=True):
    """The data of every ``availability.reservation.*`` event."""

    operation: str
    occurred_at: str
    client: str
    seq: int
    reservation: ReservationJson
    movements: list[MovementJson]


class OvercommittedData(PositionJson, frozen=True):
    """The data of ``availability.stock.overcommitted``: the position, and how many units it is short of for its claims.

    ``reservations`` are those with claims there, newest first; ``complete`` tells whether what had been done until then
    is all in them.
    """

    overcommitted: int
    since: str
    reservations: list[ClaimJson]
    reservations_total: int
    complete: bool


class Concerned(NamedTuple):
    """Whose claims are at a position; ``complete`` when nothing that was done until then is missing."""

    claims: Claims
    complete: bool


SkuAt = tuple[str, str]
NOBODY = Concerned(Claims([], 0), complete=True)
NOT_ASKED = Concerned(Claims([], 0), complete=False)

_ENCODER = msgspec.json.Encoder()
_OVERCOMMITTED = msgspec.msgpack.Decoder(Overcommitted)
_RESERVATIONS = msgspec.msgpack.Decoder(Reservation)
_UNSAFE_IN_HEADER = re.compile(r'[^!-~]|["%]')


def overcommitted_in(entries: list[JournalEntry]) -> dict[SkuAt, Place]:
    """The positions that some entries say are overcommitted, and the last entry that says so of each."""
    return {
        (told.sku, told.location): Place(entry.epoch, entry.seq)
        for entry in entries
        for operation in entry.operations
        if operation.verb == "overcommitted" and (told := _OVERCOMMITTED.decode(operation.body)).quantity
    }


def events_of(
    shard: int,
    entries: list[JournalEntry],
    *,
    stale_after_ms: int,
    concerned: Mapping[SkuAt, Concerned] | None = None,
    telling: str = "",
) -> list[Event]:
    """The events of some entries, in order: one for each operation on a reservation, one for each position changed.

    ``concerned`` tells whose claims are at the positions of ``overcommitted_in``.

    A position that several of the entries changed is told once, where it was changed last. An event's id is made of
    where it comes from, so that announcing an entry again makes the same events again. Announced again in other parts,
    a position may be told as it was, which it was not before; what it is now must then not pass for a repetition:
    ``telling`` is a name of this announcing, by which the server knows a position's events of another one apart.
    """
    entries = [entry for entry in entries if not is_of_restore(entry)]
    newest: dict[tuple[str, str], tuple[int, int]] = {
        (after.sku, after.location): (entry_index, position_index)
        for entry_index, entry in enumerate(entries)
        for position_index, after in enumerate(entry.positions)
    }
    events: list[Event] = []
    for entry_index, entry in enumerate(entries):
        for index, operation in enumerate(entry.operations):
            if operation.verb in RESERVATION_EVENTS and (event := _of_operation(shard, entry, index, operation)):
                events.append(event)
            elif operation.verb == "overcommitted":
                events.append(_of_overcommitted(shard, entry, index, operation, stale_after_ms, concerned or {}))
        for position_index, after in enumerate(entry.positions):
            if newest[after.sku, after.location] == (entry_index, position_index):
                index = len(entry.operations) + position_index
                told = position_json(
                    *(after.sku, after.location, after.position), now_ms=entry.at_ms, stale_after_ms=stale_after_ms
                )
                about, data = f"{after.sku}@{after.location}", _ENCODER.encode(told)
                events.append(_event(STOCK_CHANGED, shard, entry, index, about, data, telling))
    return events


def is_of_restore(entry: JournalEntry) -> bool:
    """Whether it only says again what was, in another epoch or shard: nothing happened, so there is nothing to tell."""
    return any(operation.verb.startswith("restore") for operation in entry.operations)


def _of_operation(shard: int, entry: JournalEntry, index: int, operation: JournalOperation) -> Event | None:
    try:
        reservation = _RESERVATIONS.decode(operation.body)
    except msgspec.DecodeError:
        # The journal has it as it is; all others shall still be told.
        logger.exception("shard %d, entry %d-%d, operation %d: no reservation", shard, entry.epoch, entry.seq, index)
        return None
    movements = _movements_of(operation, reservation)
    if operation.verb == "drop" and not (reservation.span and reservation.span.sealed):
        return None
    if reservation.span and not movements and operation.verb not in ("hold", "extend"):
        return None  # it was done to the units of another shard
    data = OperationData(
        operation="release" if operation.verb == "drop" else operation.verb,
        occurred_at=time_text(entry.at_ms),
        client=operation.client,
        seq=entry.seq,
        reservation=reservation_json(operation.subject, shard, reservation),
        movements=movements,
    )
    return _event(RESERVATION_EVENTS[operation.verb], shard, entry, index, operation.subject, _ENCODER.encode(data))


def _movements_of(operation: JournalOperation, reservation: Reservation) -> list[MovementJson]:
    if reservation.span and operation.verb == "hold":
        # These units were moved by the `prepare` before it; here it is said that they are held.
        return [
            MovementJson(line.sku, line.location, "available", "held", line.held)
            for line in reservation.lines
            if line.held
        ]
    movements = [
        MovementJson(moved.sku, moved.location, moved.from_bucket, moved.to_bucket, moved.quantity)
        for moved in operation.movements
    ]
    if reservation.span and any(moved.reason == "reacquire" for moved in operation.movements):
        # These units had expired, and nothing has told that a `reclaim` took them from there.
        movements = [structs.replace(moved, from_="expired") for moved in movements if moved.to != "expired"]
    return movements


def _of_overcommitted(
    shard: int,
    entry: JournalEntry,
    index: int,
    operation: JournalOperation,
    stale_after_ms: int,
    concerned: Mapping[SkuAt, Concerned],
) -> Event:
    told = _OVERCOMMITTED.decode(operation.body)
    sku, location = told.sku, told.location
    [position] = [after.position for after in entry.positions if (after.sku, after.location) == (sku, location)]
    shown = position_json(sku, location, position, now_ms=entry.at_ms, stale_after_ms=stale_after_ms)
    # Once it is over nobody is concerned any more.
    claims, complete = concerned.get((sku, location), NOT_ASKED) if told.quantity else NOBODY
    data = OvercommittedData(
        **structs.asdict(shown),
        overcommitted=told.quantity,
        since=time_text(told.since_ms),
        reservations=claims_json(claims),
        reservations_total=claims.reservations,
        complete=complete,
    )
    return _event(OVERCOMMITTED, shard, entry, index, operation.subject, _ENCODER.encode(data))


def _event(
    kind: str, shard: int, entry: JournalEntry, index: int, subject: str, body: bytes, telling: str = ""
) -> Event:
    identity = f"{entry.epoch}-{shard}-{entry.seq}-{index}"
    header_lines = (
        f"ce-specversion: 1.0\r\nce-type: {kind}\r\nce-source: {SOURCE}\r\nce-id: {identity}\r\n"
        f"ce-subject: {header_text(subject)}\r\nce-time: {time_text(entry.at_ms)}\r\n"
        f"ce-datacontenttype: application/json\r\nNats-Msg-Id: {identity}{telling and '-'}{telling}\r\n"
    )
    return Event(kind, header_lines, body)


def header_text(value: str) -> str:
    """A header's value as the CloudEvents binding for NATS wants it: blanks, quotes, ``%`` and non-ASCII as ``%XX``."""
    return _UNSAFE_IN_HEADER.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), value)
