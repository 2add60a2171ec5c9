"""Owns what a run's figures mean: whether they may be used, which goals of DESIGN 11 they meet, their caveats."""

from typing import Final

from msgspec import Struct

from bench import figures
from bench.run import Latency, Run
from bench.tally import P99_MAX_US, P999_MAX_US

SHED_MAX_US: Final = 50_000
LAG_MAX_US: Final = 250_000
BEYOND_MIN: Final = 10
"""A percentile that fewer requests than these are slower than is a matter of luck."""


Value = str | int | float | bool | None
"""What an option may be."""


class Goal(Struct, frozen=True):
    """``met`` is None when too little was seen to tell."""

    name: str
    wanted: str
    seen: str
    met: bool | None


def told(latency: Latency, percentile: float) -> bool:
    """Whether enough was seen for this percentile to mean something."""
    return latency.count * (1 - percentile) >= BEYOND_MIN - 1e-6


def goals(run: Run) -> list[Goal]:
    """Those that the run can be held to.

    A run of several steps goes beyond the knee on purpose: it is held to having found one. Every other one is held to
    the latencies, to shedding quickly, and to failing nowhere.
    """
    failures = {f"{kind.name} {how}": n for kind in run.kinds for how, n in figures.failed(kind).items()}
    seen = ", ".join(f"{name}: {figures.count(n)}" for name, n in failures.items()) or "none"
    found = [] if len(run.steps) > 1 else [Goal("requests that failed", "none", seen, not failures)]
    if len(run.steps) > 1:
        knee = run.knee
        found.append(
            Goal(
                "the knee was found",
                "a rate that meets the goals, and one that does not",
                f"{figures.rate(knee.per_second)}; beyond: {knee.beyond}" if knee else "no",
                knee is not None,
            )
        )
        return found
    for kind in run.kinds:
        if kind.accepted.count:
            found.append(_latency(f"{kind.name}: p99", kind.accepted, 0.99, kind.accepted.p99_us, P99_MAX_US))
            found.append(_latency(f"{kind.name}: p99.9", kind.accepted, 0.999, kind.accepted.p999_us, P999_MAX_US))
        if kind.shed.count:
            found.append(_latency(f"{kind.name}: p99 of those shed", kind.shed, 0.99, kind.shed.p99_us, SHED_MAX_US))
    if run.feed is not None:
        lag = run.feed.apply_lag
        found.append(_latency("stock events: p99 of the apply lag", lag, 0.99, lag.p99_us, LAG_MAX_US))
    return found


def _latency(name: str, latency: Latency, percentile: float, us: int, us_max: int) -> Goal:
    enough = told(latency, percentile) or latency.max_us <= us_max
    seen = figures.time(us) + ("" if enough else f", of {figures.count(latency.count)} requests only")
    return Goal(name, f"≤ {figures.time(us_max)}", seen, us <= us_max if enough else None)


def passed(run: Run) -> bool:
    """Whether the run is valid and no check fails; goals are for reading."""
    return run.valid and all(check.holds is not False for check in run.checks)


def sentence(run: Run) -> str:
    """The verdict in a line."""
    parts = ["valid" if run.valid else "NOT VALID: these figures must not be used"]
    broken = sum(check.holds is False for check in run.checks)
    unknown = sum(check.holds is None for check in run.checks)
    held = len(run.checks) - broken - unknown
    if run.checks:
        parts.append(
            f"{broken} of {len(run.checks)} checks DO NOT HOLD"
            if broken
            else f"{held} of {len(run.checks)} checks hold"
        )
        if unknown:
            parts.append(f"{unknown} could not be checked")
    else:
        parts.append("nothing was checked")
    found = goals(run)
    missed = sum(goal.met is False for goal in found)
    met = sum(goal.met is True for goal in found)
    parts.append(f"{missed} of {len(found)} goals MISSED" if missed else f"{met} of {len(found)} goals met")
    if run.knee:
        parts.append(f"knee at {figures.rate(run.knee.per_second)}")
    return " · ".join(parts)


def caveats(run: Run) -> list[str]:
    """What a reader has to know before quoting a figure."""
    said = [
        "Latency counts from when a request was due, not from when it was sent: a stall counts for all that waited.",
        "Histograms keep two significant digits: a latency is its bucket's upper edge, the true one a little less.",
    ]
    if any(name.startswith("generator") for name in run.cpu) and any(not _is_generator(name) for name in run.cpu):
        said.append(
            "The generator ran on the machine that it measured, and took CPU from the service: on a machine of its own"
            " the service would do better."
        )
    if len(run.steps) > 1:
        said.append("Latencies of the whole run mix all its steps, those beyond the knee too: read them by step.")
    few = [kind.name for kind in run.kinds if kind.accepted.count and not told(kind.accepted, 0.999)]
    if few:
        said.append(
            f"Of {', '.join(few)} there were too few requests for a p99.9: under {BEYOND_MIN} were slower than it."
        )
    return said


def _is_generator(name: str) -> bool:
    return name.startswith("generator")


def differences(now: Run, earlier: Run) -> list[tuple[str, str, str]]:
    """What was not the same: [what, earlier, now]. A ratio may come from these as well as from the code."""
    pairs = {
        "scenario": (earlier.scenario, now.scenario),
        "commit": (earlier.commit, now.commit),
        "target": (earlier.target, now.target),
        "seconds": (f"{earlier.seconds:g}", f"{now.seconds:g}"),
    }
    for kind, before, after in (("machine", earlier.machine, now.machine), ("option", earlier.options, now.options)):
        for name in dict.fromkeys((*before, *after)):
            pairs[f"{kind}: {name}"] = (value(before.get(name)), value(after.get(name)))
    return [(what, before, after) for what, (before, after) in pairs.items() if before != after]


def value(of: Value) -> str:
    """An option or a fact of the machine, in words."""
    if of is None:
        return figures.NOTHING
    if isinstance(of, bool):
        return "yes" if of else "no"
    return of if isinstance(of, str) else f"{of:,}"
