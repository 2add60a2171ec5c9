"""Owns what every part of the bench writes alike, as DESIGN 9 wants it: scopes, times, lists in parts."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

SCOPES: Final = ("atp:read", "reservations:read", "reservations:write", "stock:write", "catalog:write")
COUNT_LINES: Final = 5_000
"""Lines in one PUT: below the contract's 2 MiB and 10,000."""
ATP_ITEMS: Final = 500
Item = TypeVar("Item")


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in order, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def time_text(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(at_ms // 1_000, UTC).replace(microsecond=at_ms % 1_000 * 1_000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
