"""Which times and days are taken from clients."""

from datetime import UTC, date, datetime

from availability.api.problems import Fault
from availability.feeds.decoding import FUTURE_MAX_MS
from ledger import TIME_MS_MAX


def not_a_time(field: str, at_ms: int | None, now_ms: int) -> Fault | None:
    """A fault unless stock can have moved then: since 1970, and ahead of our clock by no more than clocks differ."""
    if at_ms is None or 0 <= at_ms <= min(TIME_MS_MAX, now_ms + FUTURE_MAX_MS):
        return None
    return Fault(field, f"must be since 1970 and at most {FUTURE_MAX_MS // 1_000} s ahead of the service's clock")


def past_day(day: date, now_ms: int) -> bool:
    """Whether the day is over, in UTC."""
    return day < datetime.fromtimestamp(now_ms / 1_000, UTC).date()
