"""Owns the command: ``PYTHONPATH=tests python -m chaos``, which ``make chaos`` runs."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from secrets import randbits

import click
import msgspec

from chaos.fault import Fault
from chaos.faults import FAULTS
from chaos.kills import PROCESSES
from chaos.run import Options, Run
from chaos.table import Table

_KILLS = [f"kill-{process}" for process in PROCESSES]
_SETS = {"kills": _KILLS, "all": list(FAULTS)}
_TIMES = {**dict.fromkeys(_KILLS, 20), "kill-valkey": 50}
_TIMES_OF_OTHERS = 6
_TIMES_OF_TWINS = 1


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--faults",
    default="kills",
    show_default=True,
    help=f"`kills`, `all`, or names with commas, each with how often if it likes (kill-api:5): {', '.join(FAULTS)}.",
)
@click.option(
    "--times",
    type=click.IntRange(1),
    help="How often each; unless told kill-valkey 50 times, other kills 20, what takes a guard away once, others 6.",
)
@click.option(
    "--shards", default="1", show_default=True, help="Of the ledger; with `1,2` half of the faults come to each kind."
)
@click.option("--seed", type=int, help="Repeats the choices of a run; printed by each.")
@click.option(
    "--minutes", type=float, default=30.0, show_default=True, help="End a stage after this, whatever is left to inject."
)
@click.option("--shoppers", type=click.IntRange(1, 64), default=16, show_default=True)
@click.option("--window", type=float, default=60.0, show_default=True, help="Seconds from one quiet point to the next.")
@click.option("--report", type=click.Path(path_type=Path), default=Path(".chaos/report"), show_default=True)
@click.option("--merge", is_flag=True, help="Add this run to the report that is there.")
def main(
    faults: str,
    times: int | None,
    shards: str,
    seed: int | None,
    minutes: float,
    shoppers: int,
    window: float,
    report: Path,
    merge: bool,  # noqa: FBT001 - a flag
) -> None:
    """Break a running service under load, again and again, and prove that it kept its promises."""
    seed = randbits(32) if seed is None else seed
    began_s = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began_s:7.2f}  {text}", err=True)

    logging.getLogger("nats").setLevel(logging.CRITICAL)  # that it is away is what we do to it
    say(f"seed {seed}")
    table = Table(seed, f'make chaos CHAOS="{" ".join(sys.argv[1:])}"')
    for shard_count, group in _stages(_able(_chosen(faults, times), say), _counts(shards)):
        say(f"a stage with {shard_count} shard(s) for {', '.join(dict.fromkeys(fault.name for fault in group))}")
        options = Options(group, seed, shoppers, minutes, window, shards=shard_count)
        if group[0].must_be_found:
            findings = asyncio.run(Run(options, Table(seed, ""), say).run())
            table.add_twin(group[0].name, findings)
        else:
            asyncio.run(Run(options, table, say).run())
    wrong = bool(table.findings) or not all(table.twins.values())
    if merge and report.with_suffix(".json").exists():
        table.merge(msgspec.json.decode(report.with_suffix(".json").read_bytes()))
    table.write(report)
    click.echo(table.markdown())
    sys.exit(1 if wrong else 0)


def _chosen(names: str, times: int | None) -> list[Fault]:
    """As many of each as were asked for."""
    chosen: list[Fault] = []
    for asked in _SETS.get(names) or names.split(","):
        name, _, own_times = asked.partition(":")
        if name not in FAULTS or (not own_times.isdigit() and own_times):
            raise click.UsageError(f"no such fault: {name}; there are {', '.join(FAULTS)}")
        default = _TIMES_OF_TWINS if FAULTS[name].must_be_found else _TIMES.get(name, _TIMES_OF_OTHERS)
        chosen += [FAULTS[name]() for _ in range(int(own_times or times or default))]
    return chosen


def _able(faults: list[Fault], say: Callable[[str], None]) -> list[Fault]:
    """Those that can be injected on this machine; why the others cannot is told."""
    reasons = {fault.name: fault.why_not() for fault in faults}
    for name, reason in reasons.items():
        if reason is not None:
            say(f"{name} is left out: {reason}")
    return [fault for fault in faults if reasons[fault.name] is None]


def _counts(shards: str) -> list[int]:
    counts = [int(count) for count in shards.split(",") if count.isdigit()]
    if not counts or min(counts) < 1 or shards.count(",") != len(counts) - 1:
        raise click.UsageError(f"--shards is a number, or some with commas: {shards}")
    return counts


def _stages(faults: list[Fault], shards: list[int]) -> list[tuple[int, list[Fault]]]:
    """Those that share a stage, and each kind that needs one of its own; all that with each count of shards in turn."""
    shared = [fault for fault in faults if not fault.needs_own_stage]
    own: dict[str, list[Fault]] = {}
    for fault in faults:
        if fault.needs_own_stage:
            own.setdefault(fault.name, []).append(fault)
    return [
        (count, group[start :: len(shards)])
        for group in (shared, *own.values())
        for start, count in enumerate(shards)
        if group[start :: len(shards)]
    ]


if __name__ == "__main__":
    main()
