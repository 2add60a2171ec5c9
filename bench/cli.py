"""Owns the list of the bench's commands. Each is a function in a module of commands."""

from typing import Final

import click

from bench import measure_commands, report_commands, scenario_commands
from bench.peers import commands as peer_commands

COMMANDS: Final[tuple[click.Command, ...]] = (
    *scenario_commands.COMMANDS,  # flash-sale, feed-storm, browse, sold-out-storm, mixed-day
    measure_commands.replay,
    measure_commands.feed_,
    measure_commands.journal_,
    measure_commands.memory_,
    measure_commands.rebuild_,
    measure_commands.audit_,
    measure_commands.k6_,
    peer_commands.ledger,
    peer_commands.peers,
    report_commands.report,
    report_commands.compare_,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Drive a running service from outside, and check that it kept its promises."""


for _command in COMMANDS:
    main.add_command(_command)
