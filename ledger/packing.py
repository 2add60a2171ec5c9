"""How holds and stock events travel: packed beforehand as far as can be, so that the Lua need not do it bit by bit.

Holds that follow each other and are alike in all but who asks go as one row (``lua/hold_row.lua``), any other alone
(``lua/hold.lua``): the library puts what only the call knows between the parts. The answer to a hold that is granted
as it was asked for need not say it all again.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from ledger import messages as m

_encode: Final = msgspec.msgpack.Encoder().encode
_DAY_MS: Final = 86_400_000
_FIXED_LIST_MAX: Final = 15
_FIXED_TEXT_MAX: Final = 31
_HOLD: Final = b"\xa4hold"
_APPLY: Final = b"\xa5apply"
_ROW: Final = b"\xa3row"
_RECORD: Final = b"\x9d" + _HOLD  # 13 fields
_NO_REFERENCES: Final = b"\xa3\xc0\xc0\xc0"
_NO_UNITS: Final = bytes(7)  # committed .. returned
_NONE: Final = b"\xc2"  # `false`: in a Lua table a nil would be a hole
_NO_TEXT: Final = b"\xa0"
_ROW_FIELDS: Final = 8
_HOLD_FIELDS: Final = 8

_Alike = tuple[str, int, str, str, int]


def packed(operations: Sequence[m.Operation]) -> list[m.Operation | msgspec.Raw]:
    """The operations as they travel, in order."""
    told: list[m.Operation | msgspec.Raw] = []
    row: list[bytes] = []
    row_of: _Alike | None = None
    for operation in operations:
        alike = _alike(operation) if type(operation) is m.Hold else None
        if row and alike != row_of:
            told.append(_row(row_of, row))
            row = []
        row_of = alike
        if alike is not None:
            assert isinstance(operation, m.Hold)
            row += _encode(operation.id), _opening(operation), _references(operation)
        elif isinstance(operation, m.Hold):
            told.append(msgspec.Raw(_hold(operation)))
        elif isinstance(operation, m.Part) and isinstance(operation.operation, m.Hold):
            told.append(_part(operation, operation.operation))
        elif isinstance(operation, m.Apply):
            told.append(_apply(operation))
        else:
            told.append(operation)
    if row:
        told.append(_row(row_of, row))
    return told


def done_of(hold: m.Hold, now_ms: int, epoch: int, seq: int) -> m.Done:
    """The outcome of a hold that was granted as it was asked for, in the call with this clock and receipt."""
    day = now_ms // _DAY_MS
    lines = []
    for line in hold.lines:
        units = line.quantity
        held = m.ReservationLine(line.sku, line.location or "", units, units, units, 0, 0, 0, 0, 0, 0, 0, day)
        lines.append(held)
    client, told, until_ms = hold.client, hold.fingerprint, now_ms + hold.ttl_ms
    reservation = m.Reservation(
        client, told, now_ms, until_ms, None, hold.channel, hold.customer, epoch, seq, [], lines
    )
    return m.Done(False, hold.id, reservation)


def _alike(hold: m.Hold) -> _Alike | None:
    """What the holds of a row share; None for one that cannot be in any."""
    if len(hold.lines) != 1 or hold.mode != "all":
        return None
    line = hold.lines[0]
    if line.location is None:
        return None
    return hold.client, hold.ttl_ms, line.sku, line.location, line.quantity


def _row(alike: _Alike | None, holds: list[bytes]) -> msgspec.Raw:
    """``row, client, ttl_ms, sku, location, quantity, line, moved``, and three fields a hold."""
    assert alike is not None
    return msgspec.Raw(b"".join((_list_header(_ROW_FIELDS + len(holds)), _shared_in_row(*alike), *holds)))


# Kept, because a sale asks for the same again and again.
@lru_cache(maxsize=16_384)
def _shared_in_row(client: str, ttl_ms: int, sku: str, location: str, quantity: int) -> bytes:
    told, movement = _of_line(_list_header(1), sku, location, quantity)
    return b"".join((_ROW, _name(client), _encode(ttl_ms), *told, _text(_list_header(1) + movement)))


def _hold(hold: m.Hold) -> bytes:
    """``hold, id, client, ttl_ms, opening, references, moved, terms``, and four fields a line."""
    fields: list[bytes] = []
    terms = hold.mode != "all"
    header = _list_header(len(hold.lines))
    moved = [header]
    for line in hold.lines:
        if line.location is None:
            terms = True
            fields += _name(line.sku), _NONE, _encode(line.quantity), _NO_TEXT
        else:
            told, movement = _of_line(header, line.sku, line.location, line.quantity)
            fields += told
            moved.append(movement)
        header = b""
    return b"".join(
        (
            *(_list_header(_HOLD_FIELDS + 4 * len(hold.lines)), _HOLD, _encode(hold.id), _name(hold.client)),
            *(_encode(hold.ttl_ms), _opening(hold), _references(hold), _text(b"".join(moved))),
            _encode((hold.mode, hold.strategy, hold.max_splits, hold.near)) if terms else _NONE,
            *fields,
        )
    )


def _part(part: m.Part, hold: m.Hold) -> msgspec.Raw:
    head = b"\x96\xa4part" + _encode(part.token) + _encode(part.at_ms) + _encode(part.until_ms)
    return msgspec.Raw(head + _encode(part.takes) + _hold(hold))


def _apply(apply: m.Apply) -> msgspec.Raw:
    """``apply, client``, and the events, each packed by itself: so the journal gets it as it came."""
    head = _list_header(3) + _APPLY + _name(apply.client) + _list_header(len(apply.events))
    return msgspec.Raw(head + b"".join([_text(_encode(event)) for event in apply.events]))


def _opening(hold: m.Hold) -> bytes:
    """The record up to its times."""
    return _text(_RECORD + _name(hold.client) + _encode(hold.fingerprint))


def _references(hold: m.Hold) -> bytes:
    """The record's fields between its times and its receipt: order, channel, customer."""
    if hold.channel is None and hold.customer is None:
        return _NO_REFERENCES
    return _text(b"\xc0" + _encode(hold.channel) + _encode(hold.customer))


@lru_cache(maxsize=16_384)
def _of_line(header: bytes, sku: str, location: str, quantity: int) -> tuple[tuple[bytes, bytes], bytes]:
    """The line's fields (what it asks for, and its record, all of it held, up to the day), and its movement.

    ``header`` begins the list of records, before the first of them.
    """
    units = _encode(quantity)
    names = _name(sku) + _name(location)
    record = b"".join((header, b"\x9d", names, units * 3, _NO_UNITS))
    return (names + units, _text(record)), b"".join((b"\x96", names, b"\xa9available\xa4held", units, _HOLD))


@lru_cache(maxsize=16_384)
def _name(name: str) -> bytes:
    return _encode(name)


def _list_header(length: int) -> bytes:
    return bytes((0x90 + length,)) if length <= _FIXED_LIST_MAX else b"\xdc" + length.to_bytes(2, "big")


def _text(content: bytes) -> bytes:
    """Bytes as the text that Lua's cmsgpack can read: it knows no binary."""
    length = len(content)
    if length <= _FIXED_TEXT_MAX:
        return bytes((0xA0 + length,)) + content
    return (b"\xd9" + bytes((length,)) if length < 256 else b"\xda" + length.to_bytes(2, "big")) + content
