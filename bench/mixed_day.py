"""Owns the scenario ``mixed-day``: 24 hours of a retailer, each in a few seconds, with all streams at once."""

from typing import Final

from bench.orders import Pool
from bench.run import Check
from bench.scenario import Options, Rates, Script, Stage

HOURS: Final = (
    *(0.25, 0.15, 0.10, 0.08, 0.08, 0.12, 0.22, 0.38, 0.52, 0.60, 0.66, 0.72),
    *(0.78, 0.72, 0.66, 0.64, 0.66, 0.74, 0.86, 0.96, 1.00, 0.90, 0.66, 0.42),
)
"""The rate of each hour as a share of the peak's, which comes after supper."""
NIGHT: Final = range(1, 5)
NIGHTLY: Final = 5.0
"""How much more stock is told in the night than by day: warehouses and shops send their counts then."""
BULK_SHARE: Final = 0.05
"""Of the requests, reads of many items: list pages and marketplaces."""


def mixed_day(options: Options) -> Script:
    """All of it at once, by a day's curve: --rate at the peak, 24 hours in --seconds, each a second at the least."""
    pools = [Pool("baskets", options.hot_share, options.lines)]
    return Script("mixed-day", pools, _play, _no_more_checks, options.warm_up + len(HOURS) * _hour_s(options))


def rates(options: Options, hour: int) -> Rates:
    """What is offered in an hour."""
    rate = options.rate * HOURS[hour]
    single = 1 - BULK_SHARE
    return {
        "baskets": single * rate * options.holds_share(),
        "atp": single * rate * options.reads_share,
        "atp-many": BULK_SHARE * rate,
        "events": options.event_posts * (NIGHTLY if hour in NIGHT else 1.0),
    }


async def _play(stage: Stage) -> None:
    options = stage.options
    await stage.warm_up(rates(options, 0))
    for hour in range(len(HOURS)):
        await stage.offer(f"{hour:02}:00", rates(options, hour), _hour_s(options))


def _hour_s(options: Options) -> int:
    return max(1, options.seconds // len(HOURS))


def _no_more_checks(stage: Stage) -> list[Check]:
    del stage
    return []
