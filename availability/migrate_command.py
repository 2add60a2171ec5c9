"""Owns ``availability migrate``: each step of a deployment once, told line by line."""

import click

from availability.deploying import FAILED, STEPS
from availability.settings import Settings


async def run(settings: Settings) -> int:
    """Answer the exit code: 0 = all is as this version needs it, 2 = something could not be done."""
    code = 0
    for step in STEPS:
        try:
            click.echo(await step(settings))
        except FAILED as error:
            click.echo(f"not done ({type(error).__name__}: {error}); it can be done again", err=True)
            code = 2
    return code
