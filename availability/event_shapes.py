"""Owns how a journal entry becomes events: CloudEvents in binary mode, as DESIGN 10 has them. Pure functions."""

import logging
import re
from typing import NamedTuple

import msgspec
from msgspec import Struct

from availability.shapes import ReservationJson, position_json, reservation_json, time_text
from ledger import JournalEntry, JournalOperation, Position, Reservation

SOURCE = "/availability"
"""``ce-source``: with ``ce-id`` it names an event for good."""
STOCK_CHANGED = "availability.stock.changed"
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
    }.items()
}
"""The event's subject by the operation's verb; other operations show only in the positions that they changed."""

logger = logging.getLogger(__name__)


class Event(NamedTuple):
    """A message for NATS."""

    subject: str
    headers: dict[str, str]
    body: bytes


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


_ENCODER = msgspec.json.Encoder()
_RESERVATIONS = msgspec.msgpack.Decoder(Reservation)
_UNSAFE_IN_HEADER = re.compile(r'[^!-~]|["%]')


def events_of(shard: int, entries: list[JournalEntry], *, stale_after_ms: int) -> list[Event]:
    """The events of some entries, in order: one for each operation on a reservation, one for each position changed.

    A position that several of the entries changed is told once, where it was changed last. An event's id is made of
    where it comes from, so that announcing an entry again makes the same events again.
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
        for position_index, after in enumerate(entry.positions):
            if newest[after.sku, after.location] == (entry_index, position_index):
                index = len(entry.operations) + position_index
                events.append(
                    _of_position(shard, entry, index, after.sku, after.location, after.position, stale_after_ms)
                )
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
    data = OperationData(
        operation=operation.verb,
        occurred_at=time_text(entry.at_ms),
        client=operation.client,
        seq=entry.seq,
        reservation=reservation_json(operation.subject, shard, reservation),
        movements=[
            MovementJson(moved.sku, moved.location, moved.from_bucket, moved.to_bucket, moved.quantity)
            for moved in operation.movements
        ],
    )
    return _event(RESERVATION_EVENTS[operation.verb], shard, entry, index, operation.subject, _ENCODER.encode(data))


def _of_position(
    shard: int, entry: JournalEntry, index: int, sku: str, location: str, position: Position, stale_after_ms: int
) -> Event:
    data = position_json(sku, location, position, now_ms=entry.at_ms, stale_after_ms=stale_after_ms)
    return _event(STOCK_CHANGED, shard, entry, index, f"{sku}@{location}", _ENCODER.encode(data))


def _event(kind: str, shard: int, entry: JournalEntry, index: int, subject: str, body: bytes) -> Event:
    identity = f"{entry.epoch}-{shard}-{entry.seq}-{index}"
    headers = {
        "ce-specversion": "1.0",
        "ce-type": kind,
        "ce-source": SOURCE,
        "ce-id": identity,
        "ce-subject": header_text(subject),
        "ce-time": time_text(entry.at_ms),
        "ce-datacontenttype": "application/json",
        "Nats-Msg-Id": identity,
    }
    return Event(kind, headers, body)


def header_text(value: str) -> str:
    """A header's value as the CloudEvents binding for NATS wants it: blanks, quotes, ``%`` and non-ASCII as ``%XX``."""
    return _UNSAFE_IN_HEADER.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), value)
