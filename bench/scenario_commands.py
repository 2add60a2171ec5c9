"""Owns the commands of the scenarios: their options, where they run, what they leave behind, how they exit.

Exit codes as of the bench: 0 = done, valid, and every check holds; 1 = a check does not hold, or the run is not valid
because the generator was late; 2 = it could not be done.
"""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from msgspec.structs import asdict

from bench import compare, html_report, run, scenario, service, summary, verdict
from bench.flash_sale import browse, feed_storm, flash_sale
from bench.live import Live
from bench.mixed_day import mixed_day
from bench.reporting import console_of_report
from bench.scenario import Options, Script
from bench.service import Where
from bench.sold_out_storm import sold_out_storm

DEFAULTS: Final = Options(rate=0, seconds=0)
EXTRA_S: Final = 45.0
"""What a run takes besides its stretches, as a guess for the progress display."""
RunFile = click.Path(exists=True, dir_okay=False, path_type=Path)
Positive = click.FloatRange(min=0, min_open=True)
Share = click.FloatRange(0, 1)
Runner = Callable[[Callable[[], Coroutine[Any, Any, bool]]], None]
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _option(name: str, of: str, kind: click.ParamType[Any] | type[int], help_: str) -> Decorator:
    """An option whose default is that of ``Options``."""
    return click.option(name, of, type=kind, default=getattr(DEFAULTS, of), show_default=True, help=help_)


EVERYWHERE: Final[list[Decorator]] = [
    click.option("--seconds", type=click.IntRange(min=3), default=30, show_default=True, help="How long."),
    click.option("--target", "url", help="A deployment's URL, instead of an `availability up`."),
    click.option("--token-file", type=RunFile, help="For --target: tokens, one a line; each is a client."),
    click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Of an `availability up` that runs now; without it one is started, and stopped and removed afterwards.",
    ),
    click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="API processes of it."),
    _option("--processes", "processes", click.IntRange(1, 64), "Generator processes."),
    _option("--connections", "connections", click.IntRange(min=1), "At most, of all processes together."),
    _option("--clients", "clients", click.IntRange(1, 1_000), "Tokens, each of a client of its own."),
    _option("--seed", "seed", int, "The same seed offers the same."),
    click.option("--poisson/--constant", default=True, show_default=True, help="Gaps between arrivals."),
    _option("--skus", "skus", click.IntRange(1, 50_000), "In the tail, of Zipf(1)."),
    _option("--locations", "locations", click.IntRange(1, 100), "Each has the whole tail."),
    _option("--warm-up", "warm_up", click.IntRange(0, 60), "Seconds that do not count, before those that do."),
    _option("--feeds", "feed_rate", click.FloatRange(min=0), "Stock events a second over NATS, meanwhile."),
    click.option("--of", "of_run", type=RunFile, help="An earlier run whose knee --rate 70% is of."),
    click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the run here, and its report beside it."
    ),
    click.option("--compare", "earlier", type=RunFile, help="An earlier run to compare with."),
]
SALE: Final[list[Decorator]] = [
    _option("--hot-share", "hot_share", Share, "Of baskets, those with the hot SKU; of reads, likewise."),
    _option("--lines", "lines", click.IntRange(0, 100), "Of a basket; 0 = as many as real baskets have."),
    _option("--commit", "commit_share", Share, "Of holds, those that are committed ..."),
    _option("--release", "release_share", Share, "... and released; the others expire."),
    _option("--think", "think_s", Positive, "Seconds from a hold to its commit or release, on average."),
    _option("--ttl", "ttl_s", click.IntRange(1, 600), "Of holds, in seconds."),
    _option("--reads", "reads_share", Share, "Of requests, single reads of ATP."),
]
HOT_UNITS: Final = _option("--hot-units", "hot_units", click.IntRange(0, 10**9), "Stock of the hot SKU.")
STEPS: Final[list[Decorator]] = [
    click.option("--steps", help="Rates to go through, as in 500,1000,1500; --rate and --seconds do not count then."),
    _option("--step-seconds", "step_seconds", click.IntRange(1, 600), "How long each of them, or of the knee's, is."),
    click.option("--find-knee", is_flag=True, help="Step up from --rate until the goals are missed; then halve."),
]
EVENTS: Final[list[Decorator]] = [
    click.option("--event-posts", type=click.FloatRange(min=0), default=10.0, show_default=True, help="A second."),
    _option("--events", "events", click.IntRange(1, 1_000), "Stock events in each of them."),
]
ITEMS: Final = _option("--items", "items", click.IntRange(1, 500), "Of a POST of ATP.")
QUIET: Final[list[Decorator]] = [
    _option("--quiet-rate", "quiet_rate", Positive, "Requests a second of those who want other things."),
    _option("--quiet-seconds", "quiet_seconds", click.IntRange(min=2), "How long they are alone, before and after."),
]


def add_to(group: click.Group, runner: Runner) -> None:
    """Add each scenario's command; ``runner`` runs it and exits."""
    _add(group, runner, flash_sale, "500", [*SALE, HOT_UNITS, *STEPS], {})
    _add(group, runner, feed_storm, "300", [*SALE, HOT_UNITS, *STEPS, *EVENTS], {"feed_rate": 5_000.0})
    _add(group, runner, browse, "500", [_reads_of_browse(), *STEPS, ITEMS], {})
    _add(group, runner, mixed_day, "300", [*SALE, HOT_UNITS, *EVENTS, ITEMS], {"feed_rate": 500.0})
    _add(group, runner, sold_out_storm, "3000", [*SALE, HOT_UNITS, *QUIET], {"hot_units": 500})


def _reads_of_browse() -> Decorator:
    return click.option("--single", "reads_share", type=Share, default=0.3, show_default=True, help="Of reads.")


def _add(
    group: click.Group,
    runner: Runner,
    script: Callable[[Options], Script],
    rate: str,
    decorators: list[Decorator],
    defaults: dict[str, float],
) -> None:
    """The scenario's own ``defaults`` go before those of ``Options``."""
    name = script.__name__.replace("_", "-")

    def command(**given: Any) -> None:
        runner(lambda: _run(script, given))

    for decorator in reversed([*EVERYWHERE, *decorators]):
        command = decorator(command)
    rated = click.option("--rate", default=rate, show_default=True, help="Requests a second, or 70% of --of's knee.")
    made = click.command(name, help=script.__doc__)(rated(command))
    for parameter in made.params:
        if parameter.name in defaults:
            parameter.default = defaults[parameter.name]
    group.add_command(made)


async def _run(script: Callable[[Options], Script], given: dict[str, Any]) -> bool:
    """Run it, write it, show it; whether it is valid and every check holds."""
    where = Where(given["url"], given["token_file"], given["data_dir"], given["workers"])
    options = _options(given)
    played = script(options)
    earlier = run.read(given["earlier"]) if given["earlier"] else None
    out = (
        given["out"]
        or Path(tempfile.mkdtemp(prefix="bench-")) / f"{played.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    )
    console = console_of_report()
    clients = options.clients
    async with service.reached(where, played.name, clients) as reached:
        total_s = options.seconds + options.warm_up + options.ttl_s + EXTRA_S
        with Live(total_s, f"{played.name} on {reached.url}", console) as live:
            result = await scenario.run(played, options, reached, live)
    await asyncio.to_thread(out.parent.mkdir, parents=True, exist_ok=True)
    run.write(result, out)
    html_report.write(result, out.with_suffix(".html"), earlier)
    summary.show(console, result)
    if earlier is not None:
        compare.show(console, result, earlier, compare.MARKED_BEYOND)
    console.print(f"{out} and {out.with_suffix('.html').name}", markup=False, highlight=False, soft_wrap=True)
    return verdict.passed(result)


def _options(given: dict[str, Any]) -> Options:
    known = {name: given[name] for name in asdict(DEFAULTS) if name in given}
    known["rate"] = _rate(given["rate"], given["of_run"])
    steps = given.get("steps")
    try:
        known["steps"] = [float(rate) for rate in steps.split(",")] if steps else []
    except ValueError as error:
        raise click.UsageError(f"--steps {steps}: rates with commas between them are wanted") from error
    if known.get("commit_share", 0) + known.get("release_share", 0) > 1:
        raise click.UsageError("--commit and --release together are more than all holds")
    if known["feed_rate"] and given["url"]:
        raise click.UsageError("--feeds needs NATS, which is not within reach with --target: use --feeds 0")
    return Options(**known)


def _rate(text: str, of_run: Path | None) -> float:
    """A number, or per cent of a knee."""
    try:
        if not text.endswith("%"):
            return float(text)
        share = float(text[:-1]) / 100
    except ValueError as error:
        raise click.UsageError(f"--rate {text}: a number is wanted, or one with %") from error
    knee = run.read(of_run).knee if of_run else None
    if knee is None:
        raise click.UsageError(f"--rate {text} needs --of FILE of a run that found its knee")
    return share * knee.per_second
