"""Owns the commands that replay, measure a part, or check the generator: their options."""

from datetime import datetime
from pathlib import Path

import click

from bench import audit_share, commands, feed_rate, journal_rate, journey, k6_run, memory, rebuild_rate, replay_run


@click.command()
@click.option("--baskets", type=click.IntRange(min=1), default=5_000, show_default=True, help="How many to replay.")
@click.option("--from", "first_day", type=click.DateTime(["%Y-%m-%d"]), help="Begin at this day of 2017.")
@click.option("--stores", type=click.IntRange(min=1), help="Only the N stores with the most lines.")
@click.option("--concurrency", type=click.IntRange(1, 1_000), default=64, show_default=True, help="In flight.")
@commands.DATA_DIR
def replay(
    baskets: int, first_day: datetime | None, stores: int | None, concurrency: int, data_folder: Path | None
) -> None:
    """Replay real baskets of the Complete Journey data in time order: hold, commit, ship, and daily recounts."""
    window = journey.Window(baskets, first_day and first_day.date(), stores)
    commands.run(lambda: replay_run.run(journey.load(window), data_folder, concurrency, commands.console()))


@click.command("memory")
@click.option("--positions", type=click.IntRange(min=100), default=100_000, show_default=True, help="How many to make.")
def memory_(positions: int) -> None:
    """Measure the ledger's memory per position and per live line, on a Valkey of its own."""
    commands.run(lambda: memory.run(positions, commands.console()))


@click.command("feed")
@click.option("--events", type=click.IntRange(min=1_000), default=200_000, show_default=True, help="In each part.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Events in a message.")
@click.option("--rate", type=click.IntRange(min=1), default=25_000, show_default=True, help="Events/s, for the lag.")
@click.option("--sale", type=click.IntRange(min=0), default=0, show_default=True, help="Holds in flight beside.")
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True, help="The median is shown.")
def feed_(events: int, batch: int, rate: int, sale: int, runs: int) -> None:
    """Measure stock events through NATS into the ledger, in an `availability up` of its own."""
    commands.run(lambda: feed_rate.run(events, batch, rate, sale, runs, commands.console()))


@click.command("journal")
@click.option("--movements", type=click.IntRange(min=1_000), default=200_000, show_default=True, help="How many.")
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True, help="The median is shown.")
def journal_(movements: int, runs: int) -> None:
    """Measure how fast the journal gets into Postgres, on a Valkey and a Postgres of its own."""
    commands.run(lambda: journal_rate.run(movements, runs, commands.console()))


@click.command("rebuild")
@click.option(
    "--movements", type=click.IntRange(min=50_000), default=1_000_000, show_default=True, help="In the journal."
)
def rebuild_(movements: int) -> None:
    """Measure `availability checkpoint` and `rebuild` of a ledger that is lost, and compare it with what it was."""
    commands.run(lambda: rebuild_rate.run(movements, commands.console()))


@click.command("audit")
@click.option("--seconds", type=click.IntRange(1, 3_600), default=40, show_default=True, help="For how long.")
@click.option("--sale", type=click.IntRange(min=1), default=4, show_default=True, help="Holds in flight.")
@click.option("--positions", type=click.IntRange(min=1), default=5_000, show_default=True, help="How many to audit.")
def audit_(seconds: int, sale: int, positions: int) -> None:
    """Measure what the keeper's audit takes of a core while a sale runs, in an `availability up` of its own."""
    commands.run(lambda: audit_share.run(seconds, sale, positions, commands.console()))


@click.command("k6")
@click.option("--rate", type=click.IntRange(1, 100_000), default=500, show_default=True, help="Holds a second.")
@click.option(
    "--seconds", type=click.IntRange(1, 3_600), default=20, show_default=True, help="For how long, each time."
)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Of each, by turns.")
@click.option("--connections", type=click.IntRange(min=1), default=128, show_default=True, help="At most, of each.")
@click.option("--stand-in", type=commands.Number(min=0), help="Ask a server that answers after MS, not the service.")
@click.option("--stall", type=commands.Number(min=0), default=0.0, help="Of that server: for MS, every 2.5 s.")
def k6_(rate: int, seconds: int, rounds: int, connections: int, stand_in: float | None, stall: float) -> None:
    """Check our generator against k6: the same holds at the same rate from both, on one service."""
    load = k6_run.Load(rate, seconds, rounds, connections)
    stand_in_ms = None if stand_in is None else (stand_in, stall)
    commands.run(lambda: k6_run.run(load, stand_in_ms, commands.console()))
