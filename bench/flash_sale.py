"""Owns the scenario ``flash-sale``: one hot SKU and a long tail, baskets like real ones, and what becomes of the holds.

``feed-storm`` is the same sale with stock events; ``browse`` only reads.
"""

from collections.abc import Callable
from typing import Final

from bench import knee
from bench.orders import Pool
from bench.run import Check, Step
from bench.scenario import Options, Rates, Script, Stage

RatesOf = Callable[[Options, float], Rates]
"""The streams' rates for a rate in all."""
KNEE_STEPS: Final = 12
PAUSE_S: Final = 2.0
"""About as many steps as it takes to find a knee, and as long as the service takes to answer the rest after each."""


def flash_sale(options: Options) -> Script:
    """Holds of which half want the hot SKU, commits and releases of most of them, single reads in between."""
    return _script("flash-sale", options, sale_rates)


def feed_storm(options: Options) -> Script:
    """A flash sale while stock events come over NATS and HTTP."""
    return _script("feed-storm", options, storm_rates)


def browse(options: Options) -> Script:
    """Reads of ATP: some of one position, the others of many items."""
    return _script("browse", options, browse_rates)


def sale_rates(options: Options, rate: float) -> Rates:
    """Each stream's part of ``rate``, so that with the follow-ups all of them make it up."""
    return {"baskets": rate * options.holds_share(), "atp": rate * options.reads_share}


def storm_rates(options: Options, rate: float) -> Rates:
    return {**sale_rates(options, rate), "events": options.event_posts}


def browse_rates(options: Options, rate: float) -> Rates:
    return {"atp": rate * options.reads_share, "atp-many": rate * (1 - options.reads_share)}


def _script(name: str, options: Options, rates: RatesOf) -> Script:
    pools = [Pool("baskets", options.hot_share, options.lines)]
    return Script(name, pools, lambda stage: _play(stage, rates), _no_more_checks, _load_s(options))


def _load_s(options: Options) -> float:
    """As ``_play`` goes through it."""
    if options.find_knee:
        return KNEE_STEPS * (options.warm_up + options.step_seconds + PAUSE_S)
    return options.warm_up + sum(seconds for _, seconds in _steps(options))


def _steps(options: Options) -> list[tuple[float, int]]:
    """Rate and seconds of each."""
    return [(rate, options.step_seconds) for rate in options.steps] or [(options.rate, options.seconds)]


def _no_more_checks(stage: Stage) -> list[Check]:
    del stage
    return []


async def _play(stage: Stage, rates: RatesOf) -> None:
    options = stage.options
    if options.find_knee:
        stage.knee = await knee.find(options.rate, lambda rate: _one_step(stage, rates, rate))
        return
    steps = _steps(options)
    await stage.warm_up(rates(options, steps[0][0]))
    for rate, seconds in steps:
        await stage.offer(f"{rate:,.0f}/s", rates(options, rate), seconds)


async def _one_step(stage: Stage, rates: RatesOf, rate: float) -> Step:
    """Offer it for a while, after warming up to it, and let the service come to rest."""
    offered = rates(stage.options, rate)
    await stage.warm_up(offered)
    span = await stage.offer(f"{rate:,.0f}/s", offered, stage.options.step_seconds)
    await stage.answered()
    return stage.step(span)
