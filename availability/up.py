"""Owns ``availability up``: all of the service on one machine, with embedded servers, supervised (DESIGN 12)."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec

from availability import access, embedded, issuer, launch, self_check
from availability.deploying import keep_deployed
from availability.event_publisher import STREAM as AVAILABILITY
from availability.feeds.health import refusal_of
from availability.feeds.stream import STREAM as STOCK
from availability.feeds.stream import missing_streams
from availability.instance import URL_SETTINGS, Instance, Refused, Running, with_own_tokens
from availability.instance_servers import own_servers
from availability.settings import Settings, environment_of_child
from availability.supervisor import Child, rotate, stop_in_order

POLL_STARTING_S = 0.1
POLL_RUNNING_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What ``up`` was asked for: ``port`` 0 is any free one; ``workers`` API processes share the port."""

    data_folder: Path
    port: int = 0
    workers: int = 1
    demo: bool = False


async def run(settings: Settings, plan: Plan) -> None:
    """Run everything until SIGINT or SIGTERM; ``Refused`` when it cannot be started at all."""
    instance = Instance(plan.data_folder)
    try:
        instance.note_shards(settings.shards)
        port = plan.port or instance.port("api")
        with _reserved(settings.api_host, port):
            await _Up(settings, plan, instance, port).run()
    finally:
        instance.untell()
        instance.close()


class _Up:
    def __init__(self, settings: Settings, plan: Plan, instance: Instance, port: int) -> None:
        self._plan = plan
        self._instance = instance
        self._settings = with_own_tokens(msgspec.structs.replace(settings, api_port=port), instance.folder)
        self._host = "127.0.0.1" if settings.api_host == "0.0.0.0" else settings.api_host  # noqa: S104 - an address asked for
        self._servers: list[Child] = []
        self._with_users: list[str] = []
        """The settings that name a server of ours, which has a user for each process."""
        self._processes: list[Child] = []
        self._stop = asyncio.Event()
        self._deployment_due = asyncio.Event()
        self._deployment_due.set()

    async def run(self) -> None:
        """Prepare, start, watch, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        issuer.create_keys(self._instance.keys)
        self._settings, own = await own_servers(self._settings, self._instance)
        self._with_users = [URL_SETTINGS[name] for name in own]
        self._servers = [child for child, _ in own.values()]
        self._prepare_processes()
        children = [*self._servers, *self._processes]
        for child in children:
            rotate(child.log)
        tasks = [asyncio.create_task(child.run(self._started(child), _say)) for child in children]
        deploying = asyncio.create_task(
            keep_deployed(self._settings, self._deployment_due, own_postgres="postgres_url" in self._with_users)
        )
        watches = [deploying, *map(asyncio.create_task, self._watches())]
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopping, *tasks, *watches], return_when=asyncio.FIRST_COMPLETED)
        for task in watches:
            task.cancel()
        await self._end()
        # A failure of ours, if that is why we stop, is raised here; a child's death is not one.
        await asyncio.gather(*tasks)
        for task in watches:
            with suppress(asyncio.CancelledError):
                await task

    def _on_signal(self) -> None:
        """The first asks everything to stop; another one insists."""
        if self._stop.is_set():
            for child in [*self._processes, *self._servers]:
                child.kill()
        self._stop.set()

    async def _end(self) -> None:
        """Who asks stops before who answers: traffic, the edges, the journal that reads the ledger, the servers."""
        first = [child for child in self._processes if child.name == "demo"]
        last = [child for child in self._processes if child.name == "journal"]
        edges = [child for child in self._processes if child not in first + last]
        await stop_in_order([first, edges, last, self._servers])

    def _prepare_processes(self) -> None:
        names = ["api", *(f"api-{number}" for number in range(2, self._plan.workers + 1))]
        commands = {name: ["serve"] for name in names}
        commands |= {name: [name] for name in ("ingest", "journal", "keeper")}
        if self._plan.demo:
            commands["demo"] = ["demo-traffic", "--data-dir", str(self._instance.folder)]
        for name, arguments in commands.items():
            # They keep nothing that a clean stop would save: when we are killed, they end at once.
            argv = launch.command([sys.executable, "-m", "availability", *arguments], death_signal=signal.SIGKILL)
            environment = environment_of_child(self._settings_of(access.API if arguments == ["serve"] else name))
            self._processes.append(Child(name, argv, environment, self._instance.logs / f"{name}.log"))

    def _settings_of(self, user: str) -> Settings:
        """As a process has them, who comes to our servers as a user of its own."""
        urls = {setting: access.as_user(getattr(self._settings, setting), user) for setting in self._with_users}
        return msgspec.structs.replace(self._settings, **urls)

    def _started(self, child: Child) -> Callable[[], None]:
        """What is done after each start of the child."""
        if child not in self._servers:
            return self._tell

        def server_started() -> None:
            self._deployment_due.set()
            self._tell()

        return server_started

    def _tell(self) -> None:
        """After each start of a child, once all have been started."""
        pids = {child.name: child.pid for child in [*self._processes, *self._servers]}
        if 0 in pids.values():
            return
        settings = self._settings
        self._instance.tell(Running(self._url, settings.nats_url, settings.redis_url, settings.postgres_url, pids))

    @property
    def _url(self) -> str:
        return f"http://{self._host}:{self._settings.api_port}"

    async def _watch(self) -> None:
        """Say ``ready`` on standard output, once; before and after, say on standard error why it is not."""
        said: list[str] = []
        was_ready = False
        while True:
            reasons = await _not_ready(self._host, self._settings.api_port)
            if not reasons and not was_ready:
                reasons = await self._not_complete()
            if not reasons and not was_ready:
                click.echo(f"ready {self._url}")
            elif reasons != said:
                _say(f"not ready: {'; '.join(reasons)}" if reasons else "ready again")
            was_ready, said = was_ready or not reasons, reasons
            await asyncio.sleep(POLL_RUNNING_S if was_ready else POLL_STARTING_S)

    def _watches(self) -> Iterator[Coroutine[None, None, None]]:
        """What goes on for as long as we run."""
        yield self._watch()
        for child in self._servers:
            if child.name == "nats":
                yield self._keep_nats_taking(child)

    async def _keep_nats_taking(self, nats: Child) -> None:
        """Start our NATS again when it greets, and a stream of it takes nothing: twice in a row, not while it starts.

        Its disk may be well again by then, or not: then it fails again, and waits longer each time.
        """
        before = None
        while True:
            await asyncio.sleep(POLL_RUNNING_S)
            refusal = await self._refusal_of_nats()
            if refusal is not None and before is not None:
                _say(f"nats takes nothing ({refusal})")
                await nats.restart()
                refusal = None
            before = refusal

    async def _refusal_of_nats(self) -> str | None:
        address = urlsplit(self._settings.nats_url)
        try:
            await embedded.probe_nats(str(address.hostname), int(address.port or 0))
            return await refusal_of(self._settings.nats_monitor_url)
        except (embedded.NotReady, OSError):
            return None

    async def _not_complete(self) -> list[str]:
        """What is missing for ``ready`` besides the API: a server that does not answer, a stream to publish to."""
        away = [str(finding) for finding in await self_check.examine(self._settings) if finding.away]
        if away:
            return away
        return await missing_streams(self._settings.nats_url, STOCK, AVAILABILITY)


@contextmanager
def _reserved(host: str, port: int) -> Iterator[None]:
    """Keep the API's port for our API processes, which share it, also while one of them is started again.

    The port is bound and not listened on. Whoever shares ports could join us there, so another ``up`` on this machine
    is kept away by a name.
    """
    in_use = f"port {port} is in use: choose another with --port, or --port 0 for any that is free"
    if not embedded.is_free(port):
        raise Refused(in_use)
    with socket.socket(socket.AF_UNIX) as name, socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            name.bind(f"\0availability-api-{port}")
            reservation.bind((host, port))
        except OSError as error:
            raise Refused(in_use) from error
        yield


async def _not_ready(host: str, port: int) -> list[str]:
    """What /health/ready says against it; nothing when it is ready."""
    request = f"GET /health/ready HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request.encode())
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ["the API does not answer yet"]
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] == [b"200"]:
        return []
    try:
        reasons = json.loads(body)["reasons"]
    except (ValueError, KeyError, TypeError):
        return [f"the API answers {head[:60]!r}"]
    return [str(reason) for reason in reasons]


def _say(text: str) -> None:
    click.echo(text, err=True)
