"""The body of the commonest answer there is: a reservation that was made a moment ago, all of it still held.

The same bytes as from ``shapes.reservation_json``, without a record between: most of what they say is always the same.
"""

from functools import lru_cache
from typing import Final

import msgspec

from availability.shapes import day_text, time_text
from ledger import Done

_encode: Final = msgspec.json.Encoder().encode
_NOTHING_ELSE: Final = '"committed":0,"picked":0,"shipped":0,"released":0,"expired":0,"cancelled":0,"returned":0'


def held_body(done: Done) -> bytes | None:
    """The reservation as JSON; None when it is one that only the general way can tell of."""
    reservation = done.reservation
    if reservation.order_id is not None or reservation.span is not None or not reservation.lines:
        return None
    lines = []
    for number, line in enumerate(reservation.lines, 1):
        if line.held != line.quantity or not line.held:
            return None
        lines.append(_line(number, line.sku, line.quantity, line.location, line.promise_day, line.requested))
    return (
        f'{{"id":{_text(done.id)},"status":"held","expires_at":"{time_text(reservation.expires_at_ms)}","order_id":null,'
        f'"channel":{_name(reservation.channel)},"customer":{_text(reservation.customer)},"lines":[{",".join(lines)}],'
        f'"receipt":{{"shard":{done.shard},"epoch":{reservation.epoch},"seq":{reservation.seq},"durability":"fsync"}}}}'
    ).encode()


def _text(text: str | None) -> str:
    return "null" if text is None else _encode(text).decode()


# What is sold at once is mostly the same.
_name = lru_cache(16_384)(_text)


@lru_cache(16_384)
def _line(number: int, sku: str, held: int, location: str, promise_day: int, requested: int) -> str:
    return (
        f'{{"line":{number},"sku":{_text(sku)},"quantity":{held},"location":{_text(location)},'
        f'"promise_date":"{day_text(promise_day)}","requested":{requested},"held":{held},{_NOTHING_ELSE}}}'
    )
