"""Owns whom a scenario talks to: an ``up`` of its own, one that runs here, or any deployment by URL and tokens."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from bench import target
from bench.contract import SCOPES
from bench.http_client import TIMEOUT_S, HttpAnswer, HttpClient, Lost, NotSent
from bench.target import Addresses, NoTarget

READY_S: Final = 90.0
PAUSE_S: Final = 0.5


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
        yield Service(name, where.url, _tokens(where.token_file), [], None, None)
        return
    async with target.running(where.data_folder, where.workers) as running:
        names = [f"{name}-client-{number}" for number in range(1, clients + 1)]
        tokens = [running.token(client, SCOPES) for client in names]
        yield Service(name, running.addresses.api, tokens, names, running.addresses, running.folder)


async def until_ready(http: HttpClient, tell: Callable[[str], None]) -> None:
    """Wait for the service to be ready, and ``tell`` why it is not. Raises ``NoTarget``, at once if nobody is there."""
    give_up_at = time.monotonic() + READY_S
    told = None
    while (answer := await _readiness(http)).status == 503:  # whatever else it is, the run itself will tell
        reason = _reason(answer)
        if time.monotonic() > give_up_at:
            raise NoTarget(f"{http.url} does not get ready: {reason}")
        if reason != told:
            tell(f"waiting, for the service is not ready: {reason}")
        told = reason
        await asyncio.sleep(PAUSE_S)


async def _readiness(http: HttpClient) -> HttpAnswer:
    try:
        return await http.request("GET", "/health/ready")
    except NotSent as error:
        raise NoTarget(f"nobody answers at {http.url}: connection refused") from error
    except Lost as error:
        raise NoTarget(f"no answer from {http.url}: {_why(error)}") from error


def _why(error: Lost) -> str:
    """In words, and not with the number of an error."""
    cause = error.__cause__
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(cause, EOFError):
        return "the connection ended without an answer"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return str(error)


def _reason(answer: HttpAnswer) -> str:
    """What the service says, or whoever stands before it."""
    try:
        problem: dict[str, Any] = msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"{answer.status} {answer.body[:100].decode(errors='replace')}"
    return str(problem.get("detail", answer.status))


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
