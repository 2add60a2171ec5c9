"""Owns the command: ``PYTHONPATH=tests python -m fuzz``, which ``make fuzz`` runs."""

import subprocess
import sys
from pathlib import Path
from secrets import randbits

import click

from fuzz import requests

FOUND = Path(".fuzz")
"""Where bytes go that broke something."""


@click.command()
@click.option("--minutes", type=click.FloatRange(0.2), default=5.0, show_default=True, help="For both halves together.")
@click.option("--seed", type=click.IntRange(1), help="Repeats the choices of a run; printed by each.")
@click.option("--only", type=click.Choice(["requests", "feeds"]), help="One half alone.")
def main(minutes: float, seed: int | None, only: str | None) -> None:
    """Make up requests from the OpenAPI document, and bytes for the feeds; exit code 1 = something was found."""
    seed = randbits(31) + 1 if seed is None else seed
    click.echo(f"seed {seed}")
    seconds = int(minutes * 60) // (1 if only else 2)
    good = {}
    if only != "feeds":
        good["requests"] = requests.fuzz(seconds, seed)
    if only != "requests":
        FOUND.mkdir(exist_ok=True)
        argv = [sys.executable, "-m", "fuzz.feeds", str(seconds), str(seed), str(FOUND)]
        good["feeds"] = subprocess.run(argv, check=False).returncode == 0
    for half, is_good in good.items():
        click.echo(f"{half}: {'nothing found' if is_good else 'FOUND SOMETHING, see above'}; seed {seed}")
    sys.exit(0 if all(good.values()) else 1)


if __name__ == "__main__":
    main()
