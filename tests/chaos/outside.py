"""Owns servers that run beside ``up`` and not below it, so that a proxy can stand between, or a clock of their own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from servers import RunningServer, nats_server, postgres, valkey

from availability.embedded import Server
from chaos.fault import Plan

MADE: Final[dict[str, Callable[[Path], Server]]] = {"valkey": valkey, "nats": nats_server, "postgres": postgres}
SETTINGS: Final = {"valkey": "REDIS_URL", "nats": "NATS_URL", "postgres": "POSTGRES_URL"}


@asynccontextmanager
async def outside(
    plan: Plan, name: str, change: Callable[[Server], Server] = lambda server: server
) -> AsyncIterator[str]:
    """A server of its own for ``up``, with ``change`` made to it, while the block lasts; its URL.

    Whoever lets ``up`` reach it another way names that way in the plan instead: see ``lead``.
    """
    folder = plan.folder.with_name(f"{plan.folder.name}-{name}")
    folder.mkdir()
    server = RunningServer(change(MADE[name](folder)), folder / "server.log")
    await server.restart()
    plan.pids[name] = server.process.pid
    lead(plan, name, server.url)
    try:
        yield server.url
    finally:
        if server.process.poll() is None:
            server.stop()


def lead(plan: Plan, name: str, url: str) -> None:
    """Let ``up`` and its processes reach the server there."""
    plan.environment[f"AVAILABILITY_{SETTINGS[name]}"] = url
