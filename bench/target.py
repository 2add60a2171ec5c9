"""Owns where a scenario runs: an ``availability up`` that is there, or one of its own in a folder for this run."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from availability import issuer, settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
TOKEN_TTL_S = 24 * 3_600


class NoTarget(Exception):
    """There is no service to run against; the text says why."""


class Addresses(Struct, frozen=True):
    """What up.json tells, with that instance's own credentials."""

    api: str
    nats: str
    redis: str
    postgres: str
    pids: dict[str, int] = {}


class Target(Struct, frozen=True):
    """A running instance and the folder of its keys."""

    addresses: Addresses
    folder: Path

    def token(self, client: str, scopes: Sequence[str]) -> str:
        """A token of the instance's own issuer, good for a day."""
        try:
            return issuer.sign(
                self.folder / "keys",
                client=client,
                scopes=scopes,
                audience=settings.load().token_audience,
                ttl_s=TOKEN_TTL_S,
            )
        except issuer.NoKeys as error:
            raise NoTarget(str(error)) from error


@asynccontextmanager
async def running(data_folder: Path | None, workers: int = 1) -> AsyncIterator[Target]:
    """The ``up`` that runs in ``data_folder``; without one, a new ``up``, stopped at the end and its data removed.

    ``workers`` API processes are started in a new one.
    """
    if data_folder is not None:
        yield told(data_folder)
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary) / "data"
        async with _own_up(folder, workers):
            yield told(folder)


def told(folder: Path) -> Target:
    """What up.json says now; ``NoTarget`` when there is none."""
    try:
        addresses = msgspec.json.decode((folder / "up.json").read_bytes(), type=Addresses)
    except (OSError, msgspec.DecodeError) as error:
        raise NoTarget(f"no `availability up` runs in {folder}: {error}") from error
    return Target(addresses, folder)


@asynccontextmanager
async def _own_up(folder: Path, workers: int) -> AsyncIterator[None]:
    errors = folder.with_suffix(".errors")
    argv = [sys.executable, "-m", "availability", "up", "--data-dir", str(folder), "--port", "0"]
    argv += ["--workers", str(workers)]
    with errors.open("wb") as stderr:
        # In a session of its own, so that Ctrl-C ends the scenario first and then, by us, the service.
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line.startswith(b"ready "):
            raise NoTarget(f"`availability up` does not start: {errors.read_text()[-2_000:]}")
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
