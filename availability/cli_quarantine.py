"""Owns ``quarantine list``, ``show``, ``replay`` and ``discard`` as they are written on the command line."""

from pathlib import Path

import click

from availability.cli_running import RunningUp, Yes, asking, run_tool
from availability.settings import Settings


@click.group()
def quarantine() -> None:
    """Look at stock events that could not be applied, try them again, or settle them."""


EventId = click.argument("event_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@quarantine.command("list")
@RunningUp
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Events on a page.")
@click.option("--before", type=click.IntRange(min=1), help="The next page: events that came before this ID.")
@click.option("--json", "as_json", is_flag=True, help="One object a line, with the bytes.")
@click.pass_obj
def quarantine_list(settings: Settings, data_dir: Path | None, limit: int, before: int | None, as_json: bool) -> None:
    """Show what waits, newest first."""
    from availability import quarantine_commands as this

    run_tool(settings, data_dir, (), lambda known: this.list_open(known, limit=limit, before=before, as_json=as_json))


@quarantine.command("show")
@RunningUp
@EventId
@click.option("--raw", "raw_only", is_flag=True, help="Only the bytes, as they came.")
@click.pass_obj
def quarantine_show(settings: Settings, data_dir: Path | None, event_id: int, raw_only: bool) -> None:
    """Show one event: why it could not be applied, and its bytes."""
    from availability import quarantine_commands as this

    run_tool(settings, data_dir, (), lambda known: this.show(known, event_id, raw_only=raw_only))


@quarantine.command("replay")
@RunningUp
@click.argument("event_id", metavar="[ID]", type=click.IntRange(1, 2**63 - 1), required=False)
@click.option("--all", "everything", is_flag=True, help="Every event that waits now.")
@click.pass_obj
def quarantine_replay(settings: Settings, data_dir: Path | None, event_id: int | None, everything: bool) -> None:
    """Try one event again, or --all; what is refused again stays, with its new reason.

    Ends with 1 when something stays.
    """
    from availability import quarantine_commands as this

    if (event_id is None) != everything:
        raise click.UsageError("give an ID, or --all")
    run_tool(settings, data_dir, ("redis_url",), lambda known: this.replay(known, event_id))


@quarantine.command("discard")
@RunningUp
@EventId
@Yes
@click.pass_obj
def quarantine_discard(settings: Settings, data_dir: Path | None, event_id: int, yes: bool) -> None:
    """Settle one event without applying it; what came is kept."""
    from availability import quarantine_commands as this

    run_tool(
        settings,
        data_dir,
        (),
        lambda known: this.discard(known, event_id, agreed=lambda: asking(yes=yes)("Discard it?")),
    )
