"""Owns the commands of the scenarios: their options, where they run, and what they leave behind."""

import math
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from msgspec.structs import asdict

from bench import commands, compare, html_report, run, scenario, service, summary, verdict
from bench.commands import NEW_FILE, RUN_FILE, Decorator, Number
from bench.flash_sale import browse, feed_storm, flash_sale
from bench.live import Live
from bench.mixed_day import mixed_day
from bench.scenario import Options, Script
from bench.service import Where
from bench.sold_out_storm import sold_out_storm

DEFAULTS: Final = Options(rate=0, seconds=0)
Positive = Number(min=0, min_open=True)
Share = Number(0, 1)


def _url(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Where a deployment is: scheme, host and port, for the paths are the contract's."""
    if text is None:
        return None
    try:
        address = urlsplit(text)
        whole = address.scheme in {"http", "https"} and address.hostname and address.port != 0
    except ValueError:  # a port that is none, or half of an IPv6 address
        whole = False
    if not whole or address.username is not None or address.path.strip("/") or address.query or address.fragment:
        raise click.BadParameter(f"{text} is no URL as http://HOST:PORT or https://HOST")
    return text.rstrip("/")


def _option(name: str, of: str, kind: click.ParamType[Any] | type[int], help_: str) -> Decorator:
    """An option whose default is that of ``Options``."""
    return click.option(name, of, type=kind, default=getattr(DEFAULTS, of), show_default=True, help=help_)


EVERYWHERE: Final[list[Decorator]] = [
    click.option("--seconds", type=click.IntRange(min=3), default=30, show_default=True, help="How long."),
    click.option("--target", "url", callback=_url, help="A deployment's URL, instead of an `availability up`."),
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
    _option("--feeds", "feed_rate", Number(min=0), "Stock events a second over NATS, meanwhile."),
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
    click.option("--steps", help="Rates to go through instead of --rate for --seconds, as in 500,1000,1500."),
    _option("--step-seconds", "step_seconds", click.IntRange(1, 600), "How long each of them, or of the knee's, is."),
    click.option("--find-knee", is_flag=True, help="Step up from --rate until the goals are missed; then halve."),
]
EVENTS: Final[list[Decorator]] = [
    click.option("--event-posts", type=Number(min=0), default=10.0, show_default=True, help="A second."),
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
    console = commands.console()
    clients = options.clients
    async with service.reached(where, played.name, clients) as reached:
        title = f"{played.name} on {reached.url}{', for the knee, so about' if options.find_knee else ''}"
        with Live(played.load_s, title, console) as live:
            result = await scenario.run(played, options, reached, live)
    out = given["out"] or _new_folder() / f"{played.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    run.write(result, out)
    html_report.write(result, out.with_suffix(".html"), earlier)
    summary.show(console, result)
    # A run that is not valid has said so, and has nothing to be compared.
    if earlier is not None and earlier.valid and result.valid:
        compare.show(console, result, earlier, compare.MARKED_BEYOND)
    console.print(f"{out} and {out.with_suffix('.html').name}", markup=False, highlight=False, soft_wrap=True)
    return verdict.passed(result)


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="bench-"))


def _options(given: dict[str, Any]) -> Options:
    known = {name: given[name] for name in asdict(DEFAULTS) if name in given}
    known["rate"] = _rate(given["rate"], given["of_run"])
    known["steps"] = _steps(given["steps"]) if given.get("steps") is not None else []
    if known["steps"]:
        told = click.get_current_context().get_parameter_source
        for name in ("rate", "seconds", "find_knee"):
            if told(name) is ParameterSource.COMMANDLINE:
                other = "--" + name.replace("_", "-")
                raise click.UsageError(f"--steps has rates of its own, of --step-seconds each: leave out {other}")
    if known.get("commit_share", 0) + known.get("release_share", 0) > 1:
        raise click.UsageError("--commit and --release together are more than all holds")
    if known["feed_rate"] and given["url"]:
        raise click.UsageError("--feeds needs NATS, which is not within reach with --target: use --feeds 0")
    return Options(**known)


def _rate(text: str, of_run: Path | None) -> float:
    """A number, or per cent of a knee."""
    number = _positive(text.removesuffix("%"))
    if number is None:
        raise click.UsageError(f"--rate {text}: a number above 0 is wanted, or one with %")
    if not text.endswith("%"):
        return number
    knee = commands.read_run(of_run).knee if of_run else None
    if knee is None:
        raise click.UsageError(f"--rate {text} needs --of FILE of a run that found its knee")
    return number / 100 * knee.per_second


def _steps(text: str) -> list[float]:
    rates = [rate for word in text.split(",") if (rate := _positive(word)) is not None]
    if len(rates) != text.count(",") + 1:
        raise click.UsageError(f"--steps {text}: rates above 0 with commas between them are wanted")
    return rates


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number > 0 and math.isfinite(number) else None
