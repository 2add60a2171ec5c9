"""Owns the commands about runs that are over: ``report`` writes one as HTML, ``compare`` holds one against another."""

from pathlib import Path

import click

from bench import commands, compare, html_report


@click.command()
@click.argument("run_json", type=commands.RUN_FILE)
@click.option("--out", type=commands.NEW_FILE, help="The file to write; RUN.html unless told.")
@click.option("--compare", "earlier_json", type=commands.RUN_FILE, help="An earlier run, to be drawn beside this one.")
def report(run_json: Path, out: Path | None, earlier_json: Path | None) -> None:
    """Write a run as one self-contained HTML file with plots."""
    found, earlier = commands.read_run(run_json), commands.read_run(earlier_json) if earlier_json else None

    async def write() -> bool:
        path = out or run_json.with_suffix(".html")
        html_report.write(found, path, earlier)
        click.echo(f"{path}: {path.stat().st_size / 1000:,.0f} kB")
        return True

    commands.run(write)


@click.command("compare")
@click.argument("earlier_json", type=commands.RUN_FILE)
@click.argument("now_json", type=commands.RUN_FILE)
@click.option(
    "--tolerance",
    type=commands.Number(min=0),
    default=100 * compare.MARKED_BEYOND,
    show_default=True,
    help="Percent by which a figure may be worse before this exits with 1.",
)
def compare_(earlier_json: Path, now_json: Path, tolerance: float) -> None:
    """Hold a run (the second) against an earlier one (the first): ratios by kind and step, and what is worse."""
    now, earlier = commands.read_run(now_json), commands.read_run(earlier_json)

    async def show() -> bool:
        return compare.show(commands.console(), now, earlier, tolerance / 100)

    commands.run(show)
