"""Owns whom a scenario talks to: an ``up`` of its own, one that runs here, or any deployment by URL and tokens."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from bench import target
from bench.contract import SCOPES
from bench.target import Addresses, NoTarget


class Where(Struct, frozen=True):
    """What the user said: a URL with a file of tokens, or the folder of an ``up``, or nothing."""

    url: str | None = None
    token_file: Path | None = None
    data_folder: Path | None = None
    workers: int = 1
    """API processes of an ``up`` of our own."""


class Service(Struct, frozen=True):
    """A service, and what of it can be reached. ``name`` is the run's own, and begins all that it makes there."""

    name: str
    url: str
    tokens: list[str]
    clients: list[str]
    """Of the tokens, as far as known."""
    addresses: Addresses | None
    folder: Path | None

    @property
    def pids(self) -> dict[str, int]:
        """Its processes on this machine, as they are now."""
        return {} if self.folder is None else target.told(self.folder).addresses.pids


@asynccontextmanager
async def reached(where: Where, scenario: str, clients: int) -> AsyncIterator[Service]:
    """The service, for as long as the block lasts. Raises ``NoTarget``."""
    name = f"{scenario}-{secrets.token_hex(3)}"
    if where.url is not None:
        yield Service(name, where.url.rstrip("/"), _tokens(where.token_file), [], None, None)
        return
    async with target.running(where.data_folder, where.workers) as running:
        names = [f"{name}-client-{number}" for number in range(1, clients + 1)]
        tokens = [running.token(client, SCOPES) for client in names]
        yield Service(name, running.addresses.api, tokens, names, running.addresses, running.folder)


def _tokens(path: Path | None) -> list[str]:
    """One a line: each is a client."""
    if path is None:
        raise NoTarget(
            f"--target needs --token-file: a file with a token a line, each with the scopes {' '.join(SCOPES)}"
        )
    try:
        tokens = path.read_text().split()
    except OSError as error:
        raise NoTarget(str(error)) from error
    if not tokens:
        raise NoTarget(f"{path} holds no token")
    return tokens
