"""Owns the command line: the service's processes, ``up`` and ``token`` here, the operator's tools in ``cli_tools.py``.

Each command imports what it runs when it runs: ``--help`` is quick, a broken part is alone.
"""

import sys
from pathlib import Path
from typing import Any

import click

from availability.cli_running import DataFolder, fail, insist, run_process, run_until_stopped
from availability.cli_tools import tools
from availability.settings import Settings, SettingsError, load

TOKENS = ("jwks_file or jwks_url", "token_audience", "token_issuer")
"""The settings without which no token can be believed."""
BROKEN_OFF = "broken off: run the same command again, which goes on or begins anew; until then all stays as it is now"


class _Commands(click.Group):
    def invoke(self, context: click.Context) -> Any:
        """Ctrl-C is told in words, and is not a refusal."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            fail(2, BROKEN_OFF)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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

    insist(instance.with_own_tokens(settings, data_dir), TOKENS)
    try:
        run_until_stopped(this.run(settings, this.Plan(data_dir, port, workers, demo)))
    except instance.Refused as refused:
        fail(1, str(refused))
    except embedded.Unusable as error:
        fail(2, str(error))


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
        fail(2, f"unknown scope {', '.join(unknown)}; there are {', '.join(issuer.SCOPES)}")
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
        fail(2, str(error))
    click.echo(signed)


@main.command()
@click.pass_obj
def serve(settings: Settings) -> None:
    """Run the API."""
    from availability import app

    run_process(settings, ("postgres_url", "redis_url", *TOKENS), app.run)


@main.command()
@click.pass_obj
def ingest(settings: Settings) -> None:
    """Take stock events from NATS to the ledger."""
    from availability import ingest as process

    run_process(settings, ("nats_url", "postgres_url", "redis_url"), process.run)


@main.command()
@click.pass_obj
def journal(settings: Settings) -> None:
    """Write the ledger's journal to Postgres, and its events to NATS."""
    from availability import journaler

    run_process(settings, ("nats_url", "postgres_url", "redis_url"), journaler.run)


@main.command()
@click.pass_obj
def keeper(settings: Settings) -> None:
    """End overdue holds when nobody asks for their units."""
    from availability import keeper as process

    run_process(settings, ("postgres_url", "redis_url"), process.run)


@main.command("demo-traffic", hidden=True)
@click.option("--data-dir", type=DataFolder, required=True)
@click.pass_obj
def demo_traffic(settings: Settings, data_dir: Path) -> None:
    """Be the demo's feeds and shoppers."""
    from availability import demo

    run_process(settings, ("nats_url",), lambda known: demo.run(known, data_dir))


for each in tools.commands.values():
    main.add_command(each)
