"""Owns ``availability failover`` and ``left-behind``: the ledger goes to its replica, and what that has cost is told.

Exit codes: of ``failover`` as of ``rebuild``; of ``left-behind`` 0 = nothing, 1 = something, 2 = not looked at.
"""

from collections.abc import Callable

import click

from availability.filling_commands import FAILED, STEPS
from availability.settings import Settings
from availability.terminal import shown_progress
from ledger import (
    FailedOver,
    FailoverPlan,
    FillRefused,
    LeftBehind,
    fail_over,
    left_behind,
)

QUESTION = (
    "The replica becomes the ledger's server. An old primary that answers is closed first, and nothing is lost. Does it"
    " not answer: is it stopped, and sure not to be started with this address again, and do you accept to lose what"
    " neither its replica nor the journal has?"
)


LOSSLESS = "nothing is lost: the old primary was closed, the replica had all of it, and it refuses every process now"
LOST = "lost is what was acknowledged and came to neither: `availability left-behind` lists it from the old disk"
UNFENCED = (
    "NOT FENCED: the old primary did not answer. A process that reaches it, and not Postgres, goes on changing it: see"
    " that its server is stopped and cannot come back at that address"
)


async def failover(settings: Settings, *, agreed: Callable[[str], bool]) -> int:
    """Make the server of ``redis_standby_url`` the ledger's, in place of the one of ``redis_url``."""
    if not agreed(QUESTION):
        return 1
    plan = FailoverPlan(settings.redis_url, settings.redis_standby_url, settings.postgres_url, settings.shards)
    try:
        with shown_progress(STEPS) as tell:
            done = await fail_over(plan, tell)
    except FillRefused as refused:
        click.echo(str(refused), err=True)
        return 1
    except FAILED as error:
        click.echo(f"not done ({type(error).__name__}: {error}); begun again, it goes on", err=True)
        return 2
    click.echo(_told(done))
    return 0


async def look_back(settings: Settings) -> int:
    """Print each operation that the server of ``redis_standby_url`` has and the journal has not."""
    count = 0
    try:
        async for found in left_behind(settings.redis_standby_url, settings.postgres_url, settings.shards):
            count += 1
            click.echo(_line(found))
    except FAILED as error:
        click.echo(f"could not be looked at ({type(error).__name__}: {error})", err=True)
        return 2
    click.echo(f"{count or 'no'} operations are on that server alone", err=True)
    return 1 if count else 0


def _told(done: FailedOver) -> str:
    difference, filled = done.difference, done.filled
    lines = [
        f"the replica is the ledger's server now, in epoch {filled.epoch}",
        f"it has {filled.positions} positions and {filled.reservations} reservations, all compared",
        f"the journal gave {difference.lacked} entries that it lacked, and got {difference.saved}",
        LOSSLESS if done.lossless else LOST,
        "now set redis_url to the replica's address for every process",
    ]
    if not done.fenced:
        lines.append(UNFENCED)
    if not done.kept:
        lines.append("the replica's configuration could not be written: take `replicaof` out of it by hand")
    return "\n".join(lines)


def _line(found: LeftBehind) -> str:
    place = f"shard {found.shard}  {found.place}"
    if found.operation is None:
        return f"{place}  unreadable"
    operation = found.operation
    return f"{place}  {operation.verb}  {operation.subject}  {operation.client}"
