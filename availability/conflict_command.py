"""Owns ``availability conflicts``: where the ledger contradicts its journal, which has stopped there, and settling it.

Exit codes: 0 = there is none, or none any more; 1 = there is one; 2 = could not be checked.
"""

from collections.abc import Callable

import click

from availability.cli_running import NotChecked
from availability.settings import Settings
from availability.shapes import time_text
from ledger import JOURNAL_FAILED, conflicts, settle_conflicts

REMEDY = (
    "From the first of them on nothing of these shards is journaled. A ledger that has lost something is made anew by"
    " `availability rebuild`. If the ledger is right, `availability conflicts --settle` lets the journal go on: what it"
    " has stays as it is."
)
QUESTION = "The journal keeps what it has under these numbers, and goes on behind them. Go on?"


async def run(settings: Settings, *, settles: bool, agreed: Callable[[str], bool]) -> int:
    """Show them; with ``settles``, let the journal go on."""
    try:
        found = await conflicts(settings.postgres_url)
        for conflict in found:
            click.echo(f"shard {conflict.shard}, entry {conflict.place}, {time_text(conflict.at_ms)}: {conflict.told}")
        if not found:
            click.echo("the ledger and its journal do not contradict each other")
            return 0
        if not settles:
            click.echo(REMEDY)
            return 1
        if not agreed(QUESTION):
            return 1
        click.echo(f"{await settle_conflicts(settings.postgres_url)} settled; the journal goes on within seconds")
    except JOURNAL_FAILED as error:
        raise NotChecked(f"Postgres does not answer as it must ({type(error).__name__}: {error})") from error
    return 0
