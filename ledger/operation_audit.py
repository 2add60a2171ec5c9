"""Owns the audit of the keys of operations: each that the journal tells of answers its replays (P3), and no other does.

A key's record never changes, so no place of the journal matters: the journal is read first, and then the ledger, which
is there or further.
"""

from typing import Any, Final, NamedTuple

import msgspec

from ledger.differences import Difference, Differences, Numbers
from ledger.journal.books import decode_reservation
from ledger.journal.fold import CHANGES, CLOCKS_APART_MS, READABLE_MS
from ledger.journal.records import Place
from ledger.live import LiveShard, Reading
from ledger.messages import JournalEntry, JournalOperation, Reservation

PORTION: Final = 200
DOUBTED_MAX: Final = 500
OF_OPERATION: Final = b"\x94"
"""How the record of an operation on a reservation begins: an array of four."""
FIELDS: Final = ("verb", "client", "fingerprint", "reservation")
_HOLDING: Final = ("hold", "restore")

_text = msgspec.msgpack.Decoder(str).decode
_head = msgspec.msgpack.Decoder(list[Any]).decode


class Kept(NamedTuple):
    """An operation whose key the ledger keeps, and by which entry; ``verb`` is that of its record."""

    id: str
    verb: str
    place: Place
    at_ms: int
    operation: JournalOperation


def kept_of(place: Place, entry: JournalEntry) -> list[Kept]:
    """The operations of an entry that have keys."""
    found = []
    for operation in entry.operations:
        if operation.verb in CHANGES:
            found.append(Kept(operation.operation_id, operation.verb, place, entry.at_ms, operation))
        elif operation.verb in _HOLDING:
            found.append(Kept(operation.subject, "hold", place, entry.at_ms, operation))
        elif operation.verb == "restore_operation":
            found.append(Kept(operation.operation_id, _text(operation.body), place, entry.at_ms, operation))
    return found


class OperationAudit:
    """Of one shard. Methods raise one of ``LIVE_FAILED``."""

    def __init__(self, live: LiveShard) -> None:
        self._live = live
        self._doubted: dict[str, str] = {}

    async def check(self, kept: list[Kept], found: Differences) -> None:
        """Note each of these operations that the ledger does not know, or not as it was."""
        for first in range(0, len(kept), PORTION):
            portion = kept[first : first + PORTION]
            reading = await self._live.records([each.id for each in portion])
            for each in portion:
                if each.place.epoch == reading.place.epoch and each.place <= reading.place:
                    self._compare(each, reading, found)

    def _compare(self, kept: Kept, reading: Reading, found: Differences) -> None:
        packed: bytes | None = reading.found[kept.id]
        if packed is None and not _must_be_there(kept, reading.now_ms):
            return
        live, wanted = _told(packed), _wanted(kept)
        if live != wanted:
            place = str(kept.place)
            found.note(Difference("operation-differs", self._live.shard, kept.id, place, live, wanted, [place]))

    async def look(self, reading: Reading) -> None:
        """Doubt the records of operations among these whose reservations do not tell of them."""
        self._doubted |= await self._unknown(
            {name: reservation for name, packed in reading.found.items() if (reservation := _reservation_of(packed))}
        )

    async def judge(self, found: Differences) -> None:
        """Look once more at those that were doubted, because a key and its reservation do not end in one moment."""
        doubted, self._doubted = dict(list(self._doubted.items())[:DOUBTED_MAX]), {}
        place = str((await self._live.place()).place)
        for name, reservation in (await self._unknown(doubted)).items():
            there: Numbers = {"reservation": reservation}
            found.note(Difference("operation-unjournaled", self._live.shard, name, place, there))

    async def _unknown(self, operations: dict[str, str]) -> dict[str, str]:
        if not operations:
            return {}
        reading = await self._live.records([*operations, *operations.values()])
        return {
            name: reservation
            for name, reservation in operations.items()
            if _reservation_of(reading.found[name]) == reservation
            and name not in _operations_of(reading.found[reservation])
        }


def _must_be_there(kept: Kept, now_ms: int) -> bool:
    """Not when its reservation may have ended a day ago, and not a part of several, which may have been dropped."""
    if kept.operation.verb.startswith("restore") or kept.at_ms <= now_ms - READABLE_MS + CLOCKS_APART_MS:
        return False
    return decode_reservation(kept.operation.body).span is None


def _wanted(kept: Kept) -> Numbers:
    operation = kept.operation
    if kept.verb == "hold":
        reservation = decode_reservation(operation.body)
        return dict(zip(FIELDS, ("hold", reservation.client, reservation.fingerprint), strict=False))
    return dict(zip(FIELDS, (kept.verb, operation.client, operation.fingerprint, operation.subject), strict=True))


def _told(packed: bytes | None) -> Numbers | None:
    """The fields of a record by which a replay is known; a hold's record is its reservation, and names none."""
    if packed is None:
        return None
    try:
        fields = _head(packed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"unreadable": True}
    return dict(zip(FIELDS, fields[: 4 if len(fields) == len(FIELDS) else 3], strict=False))


def _reservation_of(packed: bytes | None) -> str:
    """Whose operation a record is; empty when it is none's."""
    if packed is None or not packed.startswith(OF_OPERATION):
        return ""
    told = _told(packed) or {}
    return str(told.get("reservation", "?"))


def _operations_of(packed: bytes | None) -> list[str]:
    if packed is None or packed.startswith(OF_OPERATION):
        return []
    try:
        reservation: Reservation = decode_reservation(packed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return list(reservation.operations)
