"""Owns the scenario ``sold-out-storm``: far too many buyers for a few units, while others go on buying other things.

Quiet (the others alone), storm (everybody), quiet again: the steps of the run are these three.
"""

from typing import Final

from bench import histogram, tally
from bench.orders import Pool
from bench.run import Check
from bench.scenario import Options, Rates, Script, Stage
from bench.tally import Span

OTHERS: Final = ("atp", "hold-tail")
SHED_P99_MAX_US: Final = 50_000
RATIO_MAX: Final = 2.0
RECOVERY_S: Final = 2
SETTLING_S: Final = 2
MEMORY_RATIO_MAX: Final = 1.1
MEMORY_SLACK_BYTES: Final = 16 * 1024 * 1024
WATCHED: Final = ("api", "valkey")


def sold_out_storm(options: Options) -> Script:
    """Far too many buyers, --rate of them, of a few units, while others go on buying and reading other things."""
    pools = [Pool("others", 0.0, options.lines), Pool("storm", 1.0, 1)]
    load_s = options.warm_up + 2 * options.quiet_seconds + RECOVERY_S + options.seconds
    return Script("sold-out-storm", pools, _play, _checks, load_s)


async def _play(stage: Stage) -> None:
    options = stage.options
    others: Rates = {
        "others": options.quiet_rate * options.holds_share(),
        "atp": options.quiet_rate * options.reads_share,
    }
    await stage.warm_up(others)
    await stage.offer("quiet", others, options.quiet_seconds)
    await stage.offer("storm", {**others, "storm": options.rate}, options.seconds)
    await stage.offer("after the storm", others, RECOVERY_S + options.quiet_seconds)


def _checks(stage: Stage) -> list[Check]:
    quiet, storm, after = stage.spans
    return [
        _check_shed(stage, storm),
        _check_others("other SKUs and reads are within twice their quiet p99", stage, quiet, storm),
        _check_others(f"they are again, {RECOVERY_S} s after the storm", stage, quiet, after.without(RECOVERY_S)),
        *(_check_memory(stage, storm, name) for name in stage.watch.samples[-1].usage if name.startswith(WATCHED)),
    ]


def _check_shed(stage: Stage, storm: Span) -> Check:
    shed = tally.summed(stage.generators.cells, [storm]).shed
    count, p99_us = sum(shed.values()), histogram.percentile(shed, 0.99)
    said = f"p99 {p99_us / 1_000:.1f} ms, of {count:,}" if count else "none was shed"
    return Check(
        f"what is shed is answered within {SHED_P99_MAX_US // 1_000} ms (p99)", p99_us <= SHED_P99_MAX_US, said
    )


def _check_others(name: str, stage: Stage, quiet: Span, then: Span) -> Check:
    """By kind; those of them that were shed or lost count against it."""
    said, holds = [], True
    for kind in OTHERS:
        before = histogram.percentile(tally.summed(stage.generators.cells, [quiet], [kind]).accepted, 0.99)
        found = tally.summed(stage.generators.cells, [then], [kind])
        now, not_done = histogram.percentile(found.accepted, 0.99), sum(found.shed.values()) + found.failed
        holds &= now <= RATIO_MAX * before and not not_done
        said.append(f"{kind} {before / 1_000:.1f} ms quiet, {now / 1_000:.1f} ms then, {not_done:,} shed or failed")
    return Check(name, holds, "; ".join(said))


def _check_memory(stage: Stage, storm: Span, process: str) -> Check:
    """From a moment into the storm to its end."""
    first, last = tally.between(stage.watch.samples, storm.without(min(SETTLING_S, storm.seconds - 1)))
    name = f"the storm leaves the memory of {process} flat"
    if first is None or last is None or process not in first.usage or process not in last.usage:
        return Check(name, None, "it was not seen")
    before, after = first.usage[process].memory_bytes, last.usage[process].memory_bytes
    said = f"{before / 2**20:.0f} MiB at first, {after / 2**20:.0f} MiB at the end"
    return Check(name, after <= MEMORY_RATIO_MAX * before + MEMORY_SLACK_BYTES, said)
