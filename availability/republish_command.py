"""Owns ``availability republish``: what was journaled since a time is announced once more.

Exit codes: 0 = done, or there is nothing; 1 = not agreed; 2 = could not be done.
"""

from collections.abc import Callable

import click

from availability.cli_running import NotChecked
from availability.settings import Settings
from availability.shapes import NO_TIME, ms_of_text
from ledger import JOURNAL_FAILED, announce_again, announced_since


async def run(settings: Settings, since: str, *, agreed: Callable[[str], bool]) -> int:
    """Set the outboxes back to ``since``, a time as people write it."""
    try:
        at_ms = ms_of_text(since)
    except ValueError as error:
        raise NotChecked(NO_TIME.format(since)) from error
    try:
        shards = await announced_since(settings.postgres_url, at_ms)
        entries = sum(shard.entries for shard in shards)
        if not entries:
            click.echo(f"nothing was announced since {since}")
            return 0
        if not agreed(f"The events of {entries:,} journal entries go to NATS again, with the same ids. Go on?"):
            return 1
        await announce_again(settings.postgres_url, shards)
    except JOURNAL_FAILED as error:
        raise NotChecked(f"Postgres does not answer as it must ({type(error).__name__}: {error})") from error
    for shard in shards:
        click.echo(f"shard {shard.shard}: {shard.entries:,} entries behind {shard.after} are announced again")
    return 0
