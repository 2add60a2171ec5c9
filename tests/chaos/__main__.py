"""Owns the command: ``PYTHONPATH=tests python -m chaos``, which ``make chaos`` runs."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import randbits

import click
import msgspec

from chaos.controls import CONTROLS
from chaos.fault import Fault
from chaos.faults import FAULTS
from chaos.run import Options, Run
from chaos.table import Table

_CONTROLS = {fault.name: fault for fault in CONTROLS}


@click.command(context_settings={"max_content_width": 120})
@click.option("--faults", default="kills", show_default=True, help=f"Names, with commas, or `kills`. {', '.join(FAULTS)}")
@click.option("--times", type=click.IntRange(1), help="How often each; 50 times Valkey and 20 times the others unless told.")
@click.option("--seed", type=int, help="Repeats the choices of a run; printed by each.")
@click.option("--minutes", type=float, default=30.0, show_default=True, help="End after this, whatever is left to inject.")
@click.option("--shoppers", type=click.IntRange(1, 64), default=16, show_default=True)
@click.option("--window", type=float, default=60.0, show_default=True, help="Seconds from one quiet point to the next.")
@click.option("--report", type=click.Path(path_type=Path), default=Path(".chaos/report"), show_default=True)
@click.option("--merge", is_flag=True, help="Add this run to the report that is there.")
@click.option("--control", type=click.Choice(sorted(_CONTROLS)), help="A twin of the service: it must be found wrong.")
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
    control: str | None,
) -> None:
    """Break a running service under load, again and again, and prove that it kept its promises."""
    seed = randbits(32) if seed is None else seed
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:7.2f}  {text}", err=True)

    logging.getLogger("nats").setLevel(logging.CRITICAL)  # that it is away is what we do to it
    say(f"seed {seed}")
    table = Table(seed, f"python -m chaos {' '.join(sys.argv[1:])}")
    wanted = [_CONTROLS[control]() for _ in range(times or 3)] if control else _chosen(faults, times)
    options = Options(wanted, seed, shoppers, minutes, window, keyless)
    for faults_of_stage in _by_stage(options.faults, say):
        options.faults = faults_of_stage
        table.add_findings(asyncio.run(Run(options, table, say).run()))
    found = bool(table.findings)
    if merge and report.with_suffix(".json").exists():
        table.merge(msgspec.json.decode(report.with_suffix(".json").read_bytes()))
    table.write(report)
    click.echo(table.markdown())
    if control is not None:
        sys.exit(_judge_control(control, found=found))
    sys.exit(1 if found else 0)


def _judge_control(name: str, *, found: bool) -> int:
    """A negative control has to be found wrong: 0 when it was, 1 when the run did not notice."""
    click.echo(f"control {name}: {'found wrong, as it must be' if found else 'NOT FOUND: the checks are blind to it'}")
    return 0 if found else 1


def _by_stage(faults: list[Fault], say: Callable[[str], None]) -> Iterator[list[Fault]]:
    """Those that can share a stage, then each kind that has one of its own; what cannot be done here is told."""
    kinds = {fault.name: type(fault) for fault in faults}
    able = []
    for name, kind in kinds.items():
        if (reason := kind.why_not()) is None:
            able.append(name)
        else:
            say(f"{name} is left out: {reason}")
    if shared := [fault for fault in faults if fault.name in able and not fault.needs_own_stage]:
        yield shared
    for name in able:
        if kinds[name].needs_own_stage:
            yield [fault for fault in faults if fault.name == name]


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
