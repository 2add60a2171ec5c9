"""Owns the command line. Each command imports what it runs when it runs: ``--help`` is quick, a broken part is alone.

Exit codes: 0 = done or fine, 1 = differs, unsafe or refused, 2 = could not be done or checked.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from availability.settings import Settings, SettingsError, load

TOKENS = ("jwks_file or jwks_url", "token_audience", "token_issuer")
"""The settings without which no token can be believed."""

DataFolder = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--settings",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A TOML file; config/availability.toml lists all there is. AVAILABILITY_* variables go over it.",
)
@click.pass_context
def main(context: click.Context, file: Path | None) -> None:
    """How many can be promised, where and when; and holding them for a buyer."""
    try:
        context.obj = load(file)
    except SettingsError as error:
        for problem in error.problems:
            click.echo(f"settings: {problem}", err=True)
        sys.exit(2)


@main.command()
@click.option("--data-dir", type=DataFolder, default=Path(".availability"), show_default=True, help="Keeps all data.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="Of the API; 0 = any.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="API processes.")
@click.option("--demo", is_flag=True, help="Add a small retailer, with feeds and shoppers that move.")
@click.pass_obj
def up(settings: Settings, data_dir: Path, port: int, workers: int, demo: bool) -> None:
    """Run everything on this machine, with embedded Valkey, NATS and Postgres.

    Prints "ready http://127.0.0.1:PORT" when it is; DIR/up.json tells addresses and processes. Ctrl-C ends it cleanly.
    """
    from availability import embedded, instance
    from availability import up as this

    _insist(instance.with_own_tokens(settings, data_dir), TOKENS)
    try:
        _run(this.run(settings, this.Plan(data_dir, port, workers, demo)))
    except instance.Refused as refused:
        _fail(1, str(refused))
    except embedded.Unusable as error:
        _fail(2, str(error))


@main.command()
@click.option("--data-dir", type=DataFolder, default=Path(".availability"), show_default=True, help="Of an `up`.")
@click.option("--client", required=True, help="Who it is for: the token's sub.")
@click.option("--scope", required=True, help='What it allows, as "atp:read reservations:write".')
@click.option("--location", "locations", multiple=True, help="Limits stock:write to this location; may be repeated.")
@click.option("--ttl", "ttl_s", type=click.IntRange(min=1), default=3_600, show_default=True, help="Seconds.")
@click.pass_obj
def token(settings: Settings, data_dir: Path, client: str, scope: str, locations: tuple[str, ...], ttl_s: int) -> None:
    """Print a token signed by the key of the instance in DIR."""
    from availability import issuer

    scopes = scope.split()
    if unknown := sorted(set(scopes) - set(issuer.SCOPES)):
        _fail(2, f"unknown scope {', '.join(unknown)}; there are {', '.join(issuer.SCOPES)}")
    try:
        signed = issuer.sign(
            data_dir / "keys",
            client=client,
            scopes=scopes,
            audience=settings.token_audience,
            issuer=settings.token_issuer or issuer.ISSUER,
            locations=locations,
            ttl_s=ttl_s,
        )
    except issuer.NoKeys as error:
        _fail(2, str(error))
    click.echo(signed)


@main.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Run the API."""
    from availability import app

    _run_process(settings, ("postgres_url", "redis_url", *TOKENS), app.run)


@main.command()
@click.pass_obj
def ingest(settings: Settings) -> None:
    """Take stock events from NATS to the ledger."""
    from availability import ingest as process

    _run_process(settings, ("nats_url", "postgres_url", "redis_url"), process.run)


@main.command()
@click.pass_obj
def journal(settings: Settings) -> None:
    """Write the ledger's journal to Postgres, and its events to NATS."""
    from availability import journaler

    _run_process(settings, ("nats_url", "postgres_url", "redis_url"), journaler.run)


@main.command()
@click.pass_obj
def keeper(settings: Settings) -> None:
    """End overdue holds when nobody asks for their units."""
    from availability import keeper as process

    _run_process(settings, ("postgres_url", "redis_url"), process.run)


@main.command()
@click.option("--data-dir", type=DataFolder, help="Of an `up` that runs now, in place of settings.")
@click.option("--accept-clock", is_flag=True, help="After a jump: the clocks of the servers are right as they are now.")
@click.pass_obj
def doctor(settings: Settings, data_dir: Path | None, accept_clock: bool) -> None:
    """Check the settings and the servers, and say what is unsafe.

    Ends with 1 when something is, and with 2 when nothing is but not everything could be checked.
    """
    from availability import doctor as checks
    from availability import instance

    try:
        settings = settings if data_dir is None else instance.settings_of(data_dir, settings)
    except instance.Refused as refused:
        _fail(2, str(refused))
    findings = asyncio.run(checks.examine(settings))
    for finding in findings:
        click.echo(f"{finding.verdict:<10} {finding}")
    if accept_clock:
        code, text = asyncio.run(checks.accept_clock(settings, findings))
        click.echo(text, err=code > 0)
        sys.exit(code)
    sys.exit(checks.exit_code(findings))


@main.command()
@click.option("--shards", type=click.IntRange(1, 64), required=True, help="How many there shall be.")
@click.option("--data-dir", type=DataFolder, help="Of an `up` that does not run now, in place of settings.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rehome(settings: Settings, shards: int, data_dir: Path | None, yes: bool) -> None:
    """Give the ledger another number of shards, while no process changes it.

    Stop `serve`, `ingest` and `keeper` before; set the new number for all processes after.
    If it breaks off, run it again.
    """
    _fill(settings, data_dir, "rehome", shards, yes=yes)


@main.command()
@click.option("--data-dir", type=DataFolder, help="Of an `up`, in place of settings.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rebuild(settings: Settings, data_dir: Path | None, yes: bool) -> None:
    """Make the ledger anew from its journal, when it has lost something.

    Processes may run meanwhile: they refuse, and go on when it is done. If it breaks off, run it again.
    """
    _fill(settings, data_dir, "rebuild", None, yes=yes)


@main.command()
@click.option("--data-dir", type=DataFolder, help="Of an `up` that runs now, in place of settings.")
@click.pass_obj
def migrate(settings: Settings, data_dir: Path | None) -> None:
    """Prepare the servers for this version: the ledger's library, and the journal's schema.

    Run it before a new version's processes, whose users may not do it. It can be run at any time, also beside older
    versions.
    """
    from availability import migrate_command as this

    _run_tool(settings, data_dir, ("redis_url",), this.run)


@main.command()
@click.option("--data-dir", type=DataFolder, help="Of an `up` that runs now, in place of settings.")
@click.option("--idle", is_flag=True, help="Give way to everything else on this machine.")
@click.pass_obj
def checkpoint(settings: Settings, data_dir: Path | None, idle: bool) -> None:
    """Keep what the journal folds to, so that a rebuild begins there.

    The process `journal` does it by itself, see the setting checkpoint_movements. Nothing waits for it.
    """
    from availability import checkpoint_command as this

    _run_tool(settings, data_dir, (), lambda known: this.run(known, idle=idle))


@main.command()
@click.option("--data-dir", type=DataFolder, help="Of an `up` that runs now, in place of settings.")
@click.option("--settle", is_flag=True, help="Let the journal go on.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def conflicts(settings: Settings, data_dir: Path | None, settle: bool, yes: bool) -> None:
    """Show where the ledger contradicts its journal, which has stopped there; and let it go on.

    Ends with 1 while there is such a place.
    """
    from availability import conflict_command as this

    def agreed(question: str) -> bool:
        return yes or click.confirm(question, err=True)

    _run_tool(settings, data_dir, (), lambda known: this.run(known, settles=settle, agreed=agreed))


@main.command()
@click.option("--data-dir", type=DataFolder, required=True, help="Of an `up` that runs now.")
@click.option("--to", "target", type=DataFolder, required=True, help="A new or empty folder.")
@click.pass_obj
def backup(settings: Settings, data_dir: Path, target: Path) -> None:
    """Copy everything of an `up` to a folder, while it runs and sells.

    One that is stopped has all in its folder: copy that.
    """
    from availability import backup_commands as this

    sys.exit(asyncio.run(this.backup(settings, data_dir, target)))


@main.command()
@click.option("--from", "source", type=DataFolder, required=True, help="A folder that `backup` made.")
@click.option("--data-dir", type=DataFolder, required=True, help="A new or empty folder.")
@click.pass_obj
def restore(settings: Settings, source: Path, data_dir: Path) -> None:
    """Make the folder of an `up` from a backup, after every byte of it was verified; it says what to run next."""
    from availability import backup_commands as this

    sys.exit(asyncio.run(this.restore(settings, source, data_dir)))


@main.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def failover(settings: Settings, yes: bool) -> None:
    """Make the replica at `redis_standby_url` the ledger's server, when the one at `redis_url` is lost.

    Stop that one before. What the replica lacks comes from the journal. If it breaks off, run it again.
    """
    from availability import failover_commands as this

    _insist(settings, ("postgres_url", "redis_standby_url", "redis_url"))
    sys.exit(asyncio.run(this.failover(settings, agreed=lambda question: yes or click.confirm(question, err=True))))


@main.command("left-behind")
@click.pass_obj
def left_behind(settings: Settings) -> None:
    """List the operations that the server at `redis_standby_url` has and the journal has not.

    After a failover, with the old primary there: what was acknowledged and is lost. It is only read.
    """
    from availability import failover_commands as this

    _insist(settings, ("postgres_url", "redis_standby_url"))
    sys.exit(asyncio.run(this.look_back(settings)))


@main.command()
@click.option("--data-dir", type=DataFolder, help="Of an `up`, in place of settings.")
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
        _insist(settings, ("postgres_url", "redis_url"), otherwise="; or name the folder of an `up` by --data-dir")
    sys.exit(asyncio.run(this.run(settings, data_dir, as_json=as_json, from_start=from_start)))


@main.command()
@click.argument("sku")
@click.argument("location")
@click.option("--at", "at", metavar="TIME", help="As 2026-11-24T12:00:00Z; without it, now.")
@click.option("--movements", type=click.IntRange(0, 1_000), default=10, show_default=True, help="The newest N of them.")
@click.option("--data-dir", type=DataFolder, help="Of an `up`, in place of settings.")
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
        _insist(settings, ("postgres_url",), otherwise="; or name the folder of an `up` by --data-dir")
    asked = this.Asked(sku, location, at, movements, as_json)
    sys.exit(asyncio.run(this.run(settings, data_dir, asked)))


@main.group()
def quarantine() -> None:
    """Look at stock events that could not be applied, try them again, or settle them."""


OfUp = click.option("--data-dir", type=DataFolder, help="Of an `up` that runs now, in place of settings.")
EventId = click.argument("event_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@quarantine.command("list")
@OfUp
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Events on a page.")
@click.option("--before", type=click.IntRange(min=1), help="The next page: events that came before this ID.")
@click.option("--json", "as_json", is_flag=True, help="One object a line, with the bytes.")
@click.pass_obj
def quarantine_list(settings: Settings, data_dir: Path | None, limit: int, before: int | None, as_json: bool) -> None:
    """Show what waits, newest first."""
    from availability import quarantine_commands as this

    _run_tool(settings, data_dir, (), lambda known: this.list_open(known, limit=limit, before=before, as_json=as_json))


@quarantine.command("show")
@OfUp
@EventId
@click.option("--raw", "raw_only", is_flag=True, help="Only the bytes, as they came.")
@click.pass_obj
def quarantine_show(settings: Settings, data_dir: Path | None, event_id: int, raw_only: bool) -> None:
    """Show one event: why it could not be applied, and its bytes."""
    from availability import quarantine_commands as this

    _run_tool(settings, data_dir, (), lambda known: this.show(known, event_id, raw_only=raw_only))


@quarantine.command("replay")
@OfUp
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
    _run_tool(settings, data_dir, ("redis_url",), lambda known: this.replay(known, event_id))


@quarantine.command("discard")
@OfUp
@EventId
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def quarantine_discard(settings: Settings, data_dir: Path | None, event_id: int, yes: bool) -> None:
    """Settle one event without applying it; what came is kept."""
    from availability import quarantine_commands as this

    _run_tool(
        settings,
        data_dir,
        (),
        lambda known: this.discard(known, event_id, agreed=lambda: yes or click.confirm("Discard it?", err=True)),
    )


@main.command("demo-traffic", hidden=True)
@click.option("--data-dir", type=DataFolder, required=True)
@click.pass_obj
def demo_traffic(settings: Settings, data_dir: Path) -> None:
    """Be the demo's feeds and shoppers."""
    from availability import demo

    _run_process(settings, ("nats_url",), lambda known: demo.run(known, data_dir))


def _fill(
    settings: Settings, data_dir: Path | None, reason: Literal["rehome", "rebuild"], shards: int | None, *, yes: bool
) -> NoReturn:
    from availability import filling_commands as this

    if data_dir is None:
        _insist(settings, ("postgres_url", "redis_url"), otherwise="; or name the folder of an `up` by --data-dir")

    def agreed(question: str) -> bool:
        return yes or click.confirm(question, err=True)

    sys.exit(asyncio.run(this.run(settings, data_dir, reason, shards, agreed=agreed)))


def _run_process(
    settings: Settings, needed: tuple[str, ...], run: Callable[[Settings], Coroutine[Any, Any, None]]
) -> None:
    _insist(settings, needed)
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request is the demo's noise
    _run(run(settings))


def _run_tool(
    settings: Settings,
    data_dir: Path | None,
    needed: tuple[str, ...],
    tool: Callable[[Settings], Coroutine[Any, Any, int]],
) -> NoReturn:
    """Run an operator's tool against DIR or the settings; it answers the exit code."""
    from availability import instance
    from availability.quarantine_commands import NotChecked

    try:
        settings = settings if data_dir is None else instance.settings_of(data_dir, settings)
    except instance.Refused as refused:
        _fail(2, str(refused))
    _insist(settings, ("postgres_url", *needed), otherwise="; or name the folder of an `up` by --data-dir")
    try:
        sys.exit(asyncio.run(tool(settings)))
    except NotChecked as error:
        _fail(2, str(error))


def _insist(settings: Settings, needed: tuple[str, ...], *, otherwise: str = "") -> None:
    """End with 2 when one of the settings is missing; see ``Settings.missing``."""
    if missing := settings.missing(needed):
        names = ", ".join(missing)
        _fail(2, f"not set: {names}; put it into the file of --settings, or into AVAILABILITY_<NAME>{otherwise}")


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(coroutine)


def _fail(code: int, text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(code)
