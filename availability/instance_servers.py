"""Owns the servers of an instance that its settings do not name: prepared for ``up``, or run for one command alone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click
import msgspec

from availability import embedded
from availability.embedded import Server
from availability.instance import SERVERS, URL_SETTINGS, Instance, Refused, settings_of
from availability.settings import Settings
from availability.supervisor import Child, stop_in_order


async def own_servers(
    settings: Settings, instance: Instance, names: Sequence[str] = SERVERS
) -> tuple[Settings, dict[str, tuple[Child, Server]]]:
    """Prepare each of these servers whose URL the settings do not give; the settings with them, and what to run.

    A new Postgres cluster takes a moment.
    """
    monitor_port = instance.port("nats-monitor")
    made: dict[str, Callable[[Path, int, str], Server]] = {
        "valkey": embedded.valkey,
        "nats": lambda folder, port, password: embedded.nats(
            *(folder, port, password, settings.nats_stream_sync, monitor_port)
        ),
        "postgres": embedded.postgres,
    }
    found: dict[str, tuple[Child, Server]] = {}
    for name in names:
        if getattr(settings, URL_SETTINGS[name]):
            continue
        port, password = instance.port(name), instance.known.passwords[name]
        server = await asyncio.to_thread(made[name], instance.folder / name, port, password)
        settings = msgspec.structs.replace(settings, **{URL_SETTINGS[name]: server.url})
        if name == "nats":
            monitor_url = f"http://{embedded.HOST}:{monitor_port}"
            settings = msgspec.structs.replace(settings, nats_monitor_url=monitor_url)
        log = instance.logs / f"{name}.log"
        found[name] = Child(name, server.argv, server.env, log, stop_signal=server.stop_signal), server
    return settings, found


@asynccontextmanager
async def servers_of(settings: Settings, data_dir: Path | None, *, beside_up: bool) -> AsyncIterator[Settings]:
    """The settings with the servers' URLs. The servers of an instance that does not run are started for this alone.

    ``Refused`` when an ``up`` runs there, unless this may go on ``beside_up``.
    """
    if data_dir is None:
        yield settings
        return
    if not (data_dir / "instance.json").exists():
        raise Refused(f"there is no instance in {data_dir}")
    try:
        instance = Instance(data_dir)
    except Refused as running:
        if not beside_up:
            raise Refused(f"{running}: stop it first, and start it again with the new number of shards") from running
        yield settings_of(data_dir, settings)
        return
    try:
        async with servers_started(instance.known.applied_to(settings), instance) as known:
            yield known
    finally:
        instance.close()


@asynccontextmanager
async def servers_started(
    settings: Settings, instance: Instance, names: Sequence[str] = ("valkey", "postgres")
) -> AsyncIterator[Settings]:
    """Run those of these servers whose URLs the settings do not give, in the instance's folder."""
    settings, found = await own_servers(settings, instance, names)
    children = [child for child, _ in found.values()]
    running = [asyncio.create_task(child.run(lambda: None, _say)) for child in children]
    try:
        for _, server in found.values():
            await server.wait()
        yield settings
    finally:
        await stop_in_order([children])
        await asyncio.gather(*running)


def _say(text: str) -> None:
    click.echo(text, err=True)
