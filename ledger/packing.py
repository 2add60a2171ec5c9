"""How holds travel: with most of their records packed beforehand, so that the Lua library need not do it bit by bit.

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
_ROW: Final = b"\xa3row"
_RECORD: Final = b"\x9d" + _HOLD  # 13 fields
_NO_REFERENCES: Final = b"\xc0\xc0\xc0"
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
        else:
            told.append(operation)
    if row:
        told.append(_row(row_of, row))
    return told


def done_of(hold: m.Hold, now_ms: int, epoch: int, seq: int) -> m.Done:
    """The outcome of a hold that was granted as it was asked for, in the call with this clock and receipt."""
    day = now_ms // _DAY_MS
    lines = [
        m.ReservationLine(
            *(line.sku, line.location or "", line.quantity, line.quantity, line.quantity),
            *(0, 0, 0, 0, 0, 0, 0, day),
        )
        for line in hold.lines
    ]
    times = now_ms, now_ms + hold.ttl_ms
    references = None, hold.channel, hold.customer
    return m.Done(
        False, hold.id, m.Reservation(hold.client, hold.fingerprint, *times, *references, epoch, seq, [], lines)
    )


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
    client, ttl_ms, sku, location, quantity = alike
    names = _name(sku), _name(location), _encode(quantity)
    head = _list_header(_ROW_FIELDS + len(holds)) + _ROW + _name(client) + _encode(ttl_ms) + b"".join(names)
    one = _list_header(1)
    return msgspec.Raw(head + _text(one + _line(*names)) + _text(one + _moved(*names)) + b"".join(holds))


def _hold(hold: m.Hold) -> bytes:
    """``hold, id, client, ttl_ms, opening, references, moved, terms``, and four fields a line."""
    fields: list[bytes] = []
    terms = hold.mode != "all"
    header = _list_header(len(hold.lines))
    moved = [header]
    for line in hold.lines:
        sku, quantity = _name(line.sku), _encode(line.quantity)
        if line.location is None:
            terms = True
            fields += sku, _NONE, quantity, _NO_TEXT
        else:
            names = sku, _name(line.location), quantity
            fields += *names, _text(header + _line(*names))
            moved.append(_moved(*names))
        header = b""
    return b"".join(
        (
            *(_list_header(_HOLD_FIELDS + len(fields)), _HOLD, _encode(hold.id), _name(hold.client)),
            *(_encode(hold.ttl_ms), _opening(hold), _references(hold), _text(b"".join(moved))),
            _encode((hold.mode, hold.strategy, hold.max_splits, hold.near)) if terms else _NONE,
            *fields,
        )
    )


def _part(part: m.Part, hold: m.Hold) -> msgspec.Raw:
    head = b"\x96\xa4part" + _encode(part.token) + _encode(part.at_ms) + _encode(part.until_ms)
    return msgspec.Raw(head + _encode(part.takes) + _hold(hold))


def _opening(hold: m.Hold) -> bytes:
    """The record up to its times."""
    return _text(_RECORD + _name(hold.client) + _encode(hold.fingerprint))


def _references(hold: m.Hold) -> bytes:
    """The record's fields between its times and its receipt: order, channel, customer."""
    if hold.channel is None and hold.customer is None:
        return _text(_NO_REFERENCES)
    return _text(b"\xc0" + _encode(hold.channel) + _encode(hold.customer))


def _line(sku: bytes, location: bytes, quantity: bytes) -> bytes:
    """The record of a line, all of it held, up to the day for which it is promised."""
    return b"\x9d" + sku + location + quantity * 3 + _NO_UNITS


def _moved(sku: bytes, location: bytes, quantity: bytes) -> bytes:
    """The movement of a line."""
    return b"\x96" + sku + location + b"\xa9available\xa4held" + quantity + _HOLD


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
