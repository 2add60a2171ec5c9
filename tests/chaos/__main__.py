"""Owns the command: ``PYTHONPATH=tests python -m chaos``, which ``make chaos`` runs."""

import asyncio
import logging
import sys
import time
from pathlib import Path
from secrets import randbits

import click
import msgspec

from chaos.fault import Fault
from chaos.faults import FAULTS
from chaos.run import Options, Run
from chaos.table import Table


@click.command(context_settings={"max_content_width": 120})
@click.option("--faults", default="kills", show_default=True, help=f"Names, with commas, or `kills`. {', '.join(FAULTS)}")
@click.option("--times", type=click.IntRange(1), help="How often each; 50 times Valkey and 20 times the others unless told.")
@click.option("--seed", type=int, help="Repeats the choices of a run; printed by each.")
@click.option("--minutes", type=float, default=30.0, show_default=True, help="End after this, whatever is left to inject.")
@click.option("--shoppers", type=click.IntRange(1, 64), default=16, show_default=True)
@click.option("--window", type=float, default=60.0, show_default=True, help="Seconds from one quiet point to the next.")
@click.option("--report", type=click.Path(path_type=Path), default=Path(".chaos/report"), show_default=True)
@click.option("--merge", is_flag=True, help="Add this run to the report that is there.")
@click.option("--keyless", is_flag=True, help="A twin: shoppers try again with new keys. It must be found wrong.")
def main(
    faults: str,
    times: int | None,
    seed: int | None,
    minutes: float,
    shoppers: int,
    window: float,
    report: Path,
    merge: bool,  # noqa: FBT001 - a flag
    keyless: bool,  # noqa: FBT001 - a flag
) -> None:
    """Break a running service under load, again and again, and prove that it kept its promises."""
    seed = randbits(32) if seed is None else seed
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:7.2f}  {text}", err=True)

    logging.getLogger("nats").setLevel(logging.CRITICAL)  # that it is away is what we do to it
    say(f"seed {seed}")
    table = Table(seed, f"python -m chaos {' '.join(sys.argv[1:])}")
    options = Options(_chosen(faults, times), seed, shoppers, minutes, window, keyless)
    table.add_findings(asyncio.run(Run(options, table, say).run()))
    found = bool(table.findings)
    if merge and report.with_suffix(".json").exists():
        table.merge(msgspec.json.decode(report.with_suffix(".json").read_bytes()))
    table.write(report)
    click.echo(table.markdown())
    sys.exit(1 if found else 0)


def _chosen(names: str, times: int | None) -> list[Fault]:
    """As many of each as were asked for."""
    kills = [name for name in FAULTS if name.startswith("kill-") and name not in ("kill-all", "kill-up")]
    chosen = kills if names == "kills" else names.split(",")
    unknown = [name for name in chosen if name not in FAULTS]
    if unknown:
        raise click.UsageError(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return [
        FAULTS[name]() for name in chosen for _ in range(times or (50 if name == "kill-valkey" else 20))
    ]


if __name__ == "__main__":
    main()
