"""Owns the operator's tools as they are written on the command line; each imports what it runs when it runs."""

import asyncio
import sys
from pathlib import Path
from typing import Literal, NoReturn

import click

from availability.cli_quarantine import quarantine
from availability.cli_running import OR_AN_UP, AnyUp, DataFolder, RunningUp, Yes, asking, fail, insist, run_tool
from availability.settings import Settings

Damaged = click.option(
    "--damaged", is_flag=True, help="Also from a journal of which something is missing: it is lost then."
)


@click.group()
def tools() -> None:
    """What ``availability`` has besides the processes."""


tools.add_command(quarantine)


@tools.command()
@RunningUp
@click.option("--accept-clock", is_flag=True, help="After a jump: the clocks of the servers are right as they are now.")
@click.pass_obj
def doctor(settings: Settings, data_dir: Path | None, accept_clock: bool) -> None:
    """Check the settings and the servers, and say what is unsafe.

    Ends with 1 when something is, and with 2 when nothing is but not everything could be checked.
    """
    from availability import doctor as checks
    from availability import instance

    try:
        settings = settings if data_dir is None else instance.settings_of(data_dir, settings, checks.USERS)
    except instance.Refused as refused:
        fail(2, str(refused))
    findings = asyncio.run(checks.examine(settings))
    for finding in findings:
        click.echo(f"{finding.verdict:<10} {finding}")
    if accept_clock:
        code, text = asyncio.run(checks.accept_clock(settings, findings))
        click.echo(text, err=code > 0)
        sys.exit(code)
    sys.exit(checks.exit_code(findings))


@tools.command()
@click.option("--shards", type=click.IntRange(1, 64), required=True, help="How many there shall be.")
@click.option("--data-dir", type=DataFolder, help="Of an `up` that does not run now, in place of settings.")
@Damaged
@Yes
@click.pass_obj
def rehome(settings: Settings, shards: int, data_dir: Path | None, damaged: bool, yes: bool) -> None:
    """Give the ledger another number of shards, while no process changes it.

    Stop `serve`, `ingest` and `keeper` before; set the new number for all processes after.
    If it breaks off, run it again.
    """
    _fill(settings, data_dir, "rehome", shards, damaged=damaged, yes=yes)


@tools.command()
@AnyUp
@Damaged
@Yes
@click.pass_obj
def rebuild(settings: Settings, data_dir: Path | None, damaged: bool, yes: bool) -> None:
    """Make the ledger anew from its journal, when it has lost something.

    Processes may run meanwhile: they refuse, and go on when it is done. If it breaks off, run it again.
    """
    _fill(settings, data_dir, "rebuild", None, damaged=damaged, yes=yes)


@tools.command()
@RunningUp
@click.pass_obj
def migrate(settings: Settings, data_dir: Path | None) -> None:
    """Prepare the servers for this version: the ledger's library, and the journal's schema.

    Run it before a new version's processes, whose users may not do it. It can be run at any time, also beside older
    versions.
    """
    from availability import migrate_command as this

    run_tool(settings, data_dir, ("redis_url",), this.run)


@tools.command()
@RunningUp
@click.option("--idle", is_flag=True, help="Give way to everything else on this machine.")
@click.pass_obj
def checkpoint(settings: Settings, data_dir: Path | None, idle: bool) -> None:
    """Keep what the journal folds to, so that a rebuild begins there.

    The process `journal` does it by itself, see the setting checkpoint_movements. Nothing waits for it.
    """
    from availability import checkpoint_command as this

    run_tool(settings, data_dir, (), lambda known: this.run(known, idle=idle))


@tools.command()
@RunningUp
@click.option("--since", required=True, metavar="TIME", help="As 2026-11-24T12:00:00Z.")
@Yes
@click.pass_obj
def republish(settings: Settings, data_dir: Path | None, since: str, yes: bool) -> None:
    """Announce again what the ledger did since TIME, with the same ids, when NATS or who listens has lost it.

    The process `journal` does it, within seconds if it runs.
    """
    from availability import republish_command as this

    run_tool(settings, data_dir, (), lambda known: this.run(known, since, agreed=asking(yes=yes)))


@tools.command()
@RunningUp
@click.option("--settle", is_flag=True, help="Let the journal go on.")
@Yes
@click.pass_obj
def conflicts(settings: Settings, data_dir: Path | None, settle: bool, yes: bool) -> None:
    """Show where the ledger contradicts its journal, which has stopped there; and let it go on.

    Ends with 1 while there is such a place.
    """
    from availability import conflict_command as this

    run_tool(settings, data_dir, (), lambda known: this.run(known, settles=settle, agreed=asking(yes=yes)))


@tools.command()
@click.option("--data-dir", type=DataFolder, required=True, help="Of an `up` that runs now.")
@click.option("--to", "target", type=DataFolder, required=True, help="A new or empty folder.")
@click.pass_obj
def backup(settings: Settings, data_dir: Path, target: Path) -> None:
    """Copy everything of an `up` to a folder, while it runs and sells.

    One that is stopped has all in its folder: copy that.
    """
    from availability import backup_commands as this

    sys.exit(asyncio.run(this.backup(settings, data_dir, target)))


@tools.command()
@click.option("--from", "source", type=DataFolder, required=True, help="A folder that `backup` made.")
@click.option("--data-dir", type=DataFolder, required=True, help="A new or empty folder.")
@click.pass_obj
def restore(settings: Settings, source: Path, data_dir: Path) -> None:
    """Make the folder of an `up` from a backup, after every byte of it was verified; it says what to run next."""
    from availability import backup_commands as this

    sys.exit(asyncio.run(this.restore(settings, source, data_dir)))


@tools.command()
@Yes
@click.pass_obj
def failover(settings: Settings, yes: bool) -> None:
    """Make the replica at `redis_standby_url` the ledger's server, when the one at `redis_url` is lost.

    Stop that one before. What the replica lacks comes from the journal. If it breaks off, run it again.
    """
    from availability import failover_commands as this

    insist(settings, ("postgres_url", "redis_standby_url", "redis_url"))
    sys.exit(asyncio.run(this.failover(settings, agreed=asking(yes=yes))))


@tools.command("left-behind")
@click.pass_obj
def left_behind(settings: Settings) -> None:
    """List the operations that the server at `redis_standby_url` has and the journal has not.

    After a failover, with the old primary there: what was acknowledged and is lost. It is only read.
    """
    from availability import failover_commands as this

    insist(settings, ("postgres_url", "redis_standby_url"))
    sys.exit(asyncio.run(this.look_back(settings)))


@tools.command()
@AnyUp
@click.option("--json", "as_json", is_flag=True, help="One object, with all the evidence.")
@click.option("--from-start", is_flag=True, help="Read all of the journal, not only what it got since its checkpoint.")
@click.pass_obj
def audit(settings: Settings, data_dir: Path | None, as_json: bool, from_start: bool) -> None:
    """Compare the ledger with its journal, position by position, and tell each difference with its evidence.

    It begins from the newest checkpoint, so that only what the journal got since is read; the keeper reads all of it
    in turns. Everything may go on meanwhile. Ends with 0 when all agrees, 1 when something differs, 2 when it cannot
    be told.
    """
    from availability import audit_command as this

    if data_dir is None:
        insist(settings, ("postgres_url", "redis_url"), otherwise=OR_AN_UP)
    sys.exit(asyncio.run(this.run(settings, data_dir, as_json=as_json, from_start=from_start)))


@tools.command()
@click.argument("sku")
@click.argument("location")
@click.option("--at", "at", metavar="TIME", help="As 2026-11-24T12:00:00Z; without it, now.")
@click.option("--movements", type=click.IntRange(0, 1_000), default=10, show_default=True, help="The newest N of them.")
@AnyUp
@click.option("--json", "as_json", is_flag=True, help="One object, with every part.")
@click.pass_obj
def explain(
    settings: Settings,
    sku: str,
    location: str,
    at: str | None,
    movements: int,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Why is it 7? The parts of what was available of SKU at LOCATION, and what led there.

    From the journal alone. Ends with 1 when the journal knows of no such position at that time.
    """
    from availability import explain_command as this

    if data_dir is None:
        insist(settings, ("postgres_url",), otherwise=OR_AN_UP)
    asked = this.Asked(sku, location, at, movements, as_json)
    sys.exit(asyncio.run(this.run(settings, data_dir, asked)))


def _fill(
    settings: Settings,
    data_dir: Path | None,
    reason: Literal["rehome", "rebuild"],
    shards: int | None,
    *,
    damaged: bool,
    yes: bool,
) -> NoReturn:
    from availability import filling_commands as this

    if data_dir is None:
        insist(settings, ("postgres_url", "redis_url"), otherwise=OR_AN_UP)

    sys.exit(asyncio.run(this.run(settings, data_dir, reason, shards, damaged=damaged, agreed=asking(yes=yes))))
