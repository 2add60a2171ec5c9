"""Owns the commands of the scenarios: their options, where they run, and what they leave behind."""

import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from msgspec.structs import asdict

from bench import commands, compare, html_report, run, scenario, service, summary, verdict
from bench.commands import NEW_FILE, RUN_FILE, Decorator
from bench.flash_sale import browse, feed_storm, flash_sale
from bench.live import Live
from bench.mixed_day import mixed_day
from bench.scenario import Options, Script
from bench.service import Where
from bench.sold_out_storm import sold_out_storm

DEFAULTS: Final = Options(rate=0, seconds=0)
EXTRA_S: Final = 30.0
KNEE_STEPS, PAUSE_S = 12, 2.0
"""What a run takes besides its stretches, and how many it takes to find a knee: guesses for the progress display."""
Positive = click.FloatRange(min=0, min_open=True)
Share = click.FloatRange(0, 1)


def _option(name: str, of: str, kind: click.ParamType[Any] | type[int], help_: str) -> Decorator:
    """An option whose default is that of ``Options``."""
    return click.option(name, of, type=kind, default=getattr(DEFAULTS, of), show_default=True, help=help_)


EVERYWHERE: Final[list[Decorator]] = [
    click.option("--seconds", type=click.IntRange(min=3), default=30, show_default=True, help="How long."),
    click.option("--target", "url", help="A deployment's URL, instead of an `availability up`."),
    click.option("--token-file", type=RUN_FILE, help="For --target: tokens, one a line; each is a client."),
    commands.DATA_DIR,
    click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="API processes of it."),
    _option("--processes", "processes", click.IntRange(1, 64), "Generator processes."),
    _option("--connections", "connections", click.IntRange(min=1), "At most, of all processes together."),
    _option("--clients", "clients", click.IntRange(1, 1_000), "Tokens, each of a client of its own."),
    _option("--seed", "seed", int, "The same seed offers the same."),
    click.option("--poisson/--constant", default=True, show_default=True, help="Gaps between arrivals."),
    click.option(
        "--realtime/--no-realtime", default=True, show_default=True, help="Generators go first, where that is allowed."
    ),
    _option("--skus", "skus", click.IntRange(1, 50_000), "In the tail, of Zipf(1)."),
    _option("--locations", "locations", click.IntRange(1, 100), "Each has the whole tail."),
    _option("--warm-up", "warm_up", click.IntRange(0, 60), "Seconds that do not count, before those that do."),
    _option("--feeds", "feed_rate", click.FloatRange(min=0), "Stock events a second over NATS, meanwhile."),
    click.option("--of", "of_run", type=RUN_FILE, help="An earlier run whose knee --rate 70% is of."),
    click.option("--out", type=NEW_FILE, help="Write the run here, and its report beside it."),
    click.option("--compare", "earlier", type=RUN_FILE, help="An earlier run to compare with."),
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
READS_OF_BROWSE: Final = click.option(
    "--single", "reads_share", type=Share, default=0.3, show_default=True, help="Of reads."
)
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
STORM: Final[dict[str, float]] = {"hot_units": 500, "connections": 4_000}
"""Everybody comes with a connection of their own: what waits must wait in the service, where it can be shed. An API
process takes 4,096; connections beyond those are not even heard."""
QUIET: Final[list[Decorator]] = [
    _option("--quiet-rate", "quiet_rate", Positive, "Requests a second of those who want other things."),
    _option("--quiet-seconds", "quiet_seconds", click.IntRange(min=2), "How long they are alone, before and after."),
]


def _command(
    script: Callable[[Options], Script],
    rate: str,
    decorators: list[Decorator],
    defaults: dict[str, float],
) -> click.Command:
    """The scenario's own ``defaults`` go before those of ``Options``."""
    name = script.__name__.replace("_", "-")

    def command(**given: Any) -> None:
        commands.run(lambda: _run(script, given))

    for decorator in reversed([*EVERYWHERE, *decorators]):
        command = decorator(command)
    rated = click.option("--rate", default=rate, show_default=True, help="Requests a second, or 70% of --of's knee.")
    made = click.command(name, help=script.__doc__)(rated(command))
    for parameter in made.params:
        if parameter.name in defaults:
            parameter.default = defaults[parameter.name]
    return made


COMMANDS: Final = (
    _command(flash_sale, "500", [*SALE, HOT_UNITS, *STEPS], {}),
    _command(feed_storm, "300", [*SALE, HOT_UNITS, *STEPS, *EVENTS], {"feed_rate": 5_000.0}),
    _command(browse, "500", [READS_OF_BROWSE, *STEPS, ITEMS], {}),
    _command(sold_out_storm, "3000", [*SALE, HOT_UNITS, *QUIET], STORM),
    _command(mixed_day, "300", [*SALE, HOT_UNITS, *EVENTS, ITEMS], {"feed_rate": 500.0}),
)


async def _run(script: Callable[[Options], Script], given: dict[str, Any]) -> bool:
    """Run it, write it, show it; whether it is valid and every check holds."""
    where = Where(given["url"], given["token_file"], given["data_folder"], given["workers"])
    options = _options(given)
    played = script(options)
    earlier = commands.read_run(given["earlier"]) if given["earlier"] else None
    if earlier is not None and earlier.scenario != played.name:
        raise click.UsageError(f"--compare {given['earlier']}: that was {earlier.scenario}")
    out = (
        given["out"]
        or Path(tempfile.mkdtemp(prefix="bench-")) / f"{played.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    )
    console = commands.console()
    clients = options.clients
    async with service.reached(where, played.name, clients) as reached:
        with Live(_total_s(options), f"{played.name} on {reached.url}", console) as live:
            result = await scenario.run(played, options, reached, live)
    await asyncio.to_thread(out.parent.mkdir, parents=True, exist_ok=True)
    run.write(result, out)
    html_report.write(result, out.with_suffix(".html"), earlier)
    summary.show(console, result)
    # A run that is not valid has said so, and has nothing to be compared.
    if earlier is not None and earlier.valid and result.valid:
        compare.show(console, result, earlier, compare.MARKED_BEYOND)
    console.print(f"{out} and {out.with_suffix('.html').name}", markup=False, highlight=False, soft_wrap=True)
    return verdict.passed(result)


def _total_s(options: Options) -> float:
    """About how long the run will take, for the progress display."""
    offered_s = float(options.seconds + 2 * options.quiet_seconds)
    if options.find_knee:
        offered_s = KNEE_STEPS * (options.warm_up + options.step_seconds + PAUSE_S)
    elif options.steps:
        offered_s = len(options.steps) * options.step_seconds
    return offered_s + options.warm_up + options.ttl_s + EXTRA_S


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
    knee = commands.read_run(of_run).knee if of_run else None
    if knee is None:
        raise click.UsageError(f"--rate {text} needs --of FILE of a run that found its knee")
    return share * knee.per_second
