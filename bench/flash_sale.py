"""Owns the scenario ``flash-sale``: one hot SKU and a long tail, baskets like real ones, and what becomes of the holds.

``feed-storm`` is the same sale with stock events; ``browse`` only reads.
"""

from collections.abc import Callable

from bench import knee
from bench.orders import Pool
from bench.run import Check, Step
from bench.scenario import Options, Rates, Script, Stage

RatesOf = Callable[[Options, float], Rates]
"""The streams' rates for a rate in all."""


def flash_sale(options: Options) -> Script:
    """Holds of which half want the hot SKU, commits and releases of most of them, single reads in between."""
    return Script("flash-sale", _pools(options), lambda stage: _play(stage, sale_rates), _no_more_checks)


def feed_storm(options: Options) -> Script:
    """The same, while stock events come over NATS and HTTP."""
    return Script("feed-storm", _pools(options), lambda stage: _play(stage, storm_rates), _no_more_checks)


def browse(options: Options) -> Script:
    """Reads: ``reads_share`` of them single, the others of many items."""
    return Script("browse", _pools(options), lambda stage: _play(stage, browse_rates), _no_more_checks)


def sale_rates(options: Options, rate: float) -> Rates:
    """Each stream's part of ``rate``, so that with the follow-ups all of them make it up."""
    return {"baskets": rate * options.holds_share(), "atp": rate * options.reads_share}


def storm_rates(options: Options, rate: float) -> Rates:
    return {**sale_rates(options, rate), "events": options.event_posts}


def browse_rates(options: Options, rate: float) -> Rates:
    return {"atp": rate * options.reads_share, "atp-many": rate * (1 - options.reads_share)}


def _pools(options: Options) -> list[Pool]:
    return [Pool("baskets", options.hot_share, options.lines)]


def _no_more_checks(stage: Stage) -> list[Check]:
    del stage
    return []


async def _play(stage: Stage, rates: RatesOf) -> None:
    options = stage.options
    if options.find_knee:
        stage.knee = await knee.find(options.rate, lambda rate: _one_step(stage, rates, rate))
        return
    steps = [(rate, options.step_seconds) for rate in options.steps] or [(options.rate, options.seconds)]
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
