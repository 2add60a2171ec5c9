"""Owns the data folder of an ``availability up``: one ``up`` at a time, its ports and passwords, and what it tells.

DIR/instance.json    ports, passwords and the number of shards, for its owner's eyes only
DIR/up.json          the addresses and process ids of the ``up`` that runs now
DIR/keys             the token issuer's keys
DIR/{valkey,nats,postgres}   the servers' data;  DIR/logs   what each process wrote
"""

import fcntl
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from availability import access, embedded, issuer
from availability.settings import Settings

SERVERS = ("valkey", "nats", "postgres")
URL_SETTINGS: Final = {"valkey": "redis_url", "nats": "nats_url", "postgres": "postgres_url"}


class Refused(Exception):
    """This ``up`` cannot run; the text says why and what to do."""


class Known(Struct):
    """What is the same at every start, as far as the machine allows.

    ``shards`` is what the settings of the last ``up`` said, or what ``rehome`` has made of it; 0 before both.
    """

    ports: dict[str, int]
    passwords: dict[str, str]
    shards: int = 0

    def applied_to(self, settings: Settings) -> Settings:
        """``settings`` with what is known here in place of theirs."""
        return msgspec.structs.replace(settings, shards=self.shards or settings.shards)


class Running(Struct):
    """DESIGN 12: the URLs, with this instance's own credentials, and the process ids."""

    api: str
    nats: str
    redis: str
    postgres: str
    pids: dict[str, int]


def settings_of(folder: Path, settings: Settings, users: Mapping[str, str] | None = None) -> Settings:
    """``settings`` as the processes of the ``up`` that runs in ``folder`` have them; ``Refused`` when none does.

    To the servers of its own they come as these ``users``, by the name of the setting; as the owner to the others.
    """
    file = folder / "up.json"
    try:
        running = msgspec.json.decode(file.read_bytes(), type=Running)
        known = msgspec.json.decode((folder / "instance.json").read_bytes(), type=Known)
    except (OSError, msgspec.DecodeError) as error:
        raise Refused(f"no `availability up` runs in {folder}: {error}") from error
    servers = {"nats_url": running.nats, "postgres_url": running.postgres, "redis_url": running.redis}
    its_own = {setting for name, setting in URL_SETTINGS.items() if _is_its_own(known, name, servers[setting])}
    servers |= {name: access.as_user(servers[name], user) for name, user in (users or {}).items() if name in its_own}
    if "nats_url" in its_own and "nats-monitor" in known.ports:
        servers["nats_monitor_url"] = f"http://{embedded.HOST}:{known.ports['nats-monitor']}"
    return with_own_tokens(msgspec.structs.replace(known.applied_to(settings), **servers), folder.absolute())


def _is_its_own(known: Known, name: str, url: str) -> bool:
    """Not one that the settings of the ``up`` name."""
    address = urlsplit(url)
    return (address.hostname, address.port) == (embedded.HOST, known.ports.get(name))


def with_own_tokens(settings: Settings, folder: Path) -> Settings:
    """``settings`` with the keys of the instance's own issuer, unless they name another's."""
    if settings.jwks_file or settings.jwks_url:
        return settings
    return msgspec.structs.replace(
        settings,
        jwks_file=str(issuer.jwks_file(folder / "keys")),
        token_issuer=settings.token_issuer or issuer.ISSUER,
    )


class Instance:
    """A data folder that this process has to itself; ``Refused`` when another ``up`` has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self._lock = self._take_lock()
        self.known = self._load_known()

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def port(self, name: str) -> int:
        """The port of last time when it is free, otherwise another, from then on."""
        port = self.known.ports.get(name)
        if port is None or not embedded.is_free(port):
            port = self.known.ports[name] = embedded.free_port()
            self._save(self.folder / "instance.json", self.known)
        return port

    def note_shards(self, shards: int) -> None:
        """The ledger's number, for the commands that are told of this folder only."""
        self.known.shards = shards
        self._save(self.folder / "instance.json", self.known)

    def tell(self, running: Running) -> None:
        """Write up.json anew, whole."""
        self._save(self.folder / "up.json", running)

    def untell(self) -> None:
        """Nothing runs here now."""
        (self.folder / "up.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Let another ``up`` have the folder."""
        os.close(self._lock)

    def _take_lock(self) -> int:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            raise Refused(f"another `availability up` (process {owner}) is running in {self.folder}") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return descriptor

    def _load_known(self) -> Known:
        file = self.folder / "instance.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=Known)
        except FileNotFoundError:
            known = Known(ports={}, passwords={name: secrets.token_hex(16) for name in SERVERS})
            self._save(file, known)
            return known
        except msgspec.DecodeError as error:
            raise Refused(f"{file} cannot be read ({error}); it holds the passwords of the data next to it") from error

    def _save(self, file: Path, content: Struct) -> None:
        """Replace a file at once, so that a reader finds the old or the new one; only its owner may read it."""
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        fresh.replace(file)
