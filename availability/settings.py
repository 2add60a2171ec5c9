"""Owns the settings: their names, types, bounds and defaults, and the one way in which they are read.

One TOML file, ``AVAILABILITY_<NAME>`` variables over it. Secrets may stand in files of their own, named by
``<name>_file``. Unknown names are refused, so that a misspelt one is not a default in disguise.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from availability import tls
from ledger import ADMITTED_MAX, CLIENT_HELD_UNITS_MAX, CLIENT_OPEN_RESERVATIONS_MAX

PREFIX = "AVAILABILITY_"
TABLES = frozenset({"client_rates"})
SECRETS = frozenset({"nats_url", "postgres_url", "redis_standby_url", "redis_url"})
"""Settings that hold credentials: never shown, and readable from a file that ``<name>_file`` names."""

Port = Annotated[int, Meta(ge=0, le=65_535)]
Positive = Annotated[int, Meta(ge=1)]


class SettingsError(Exception):
    """The settings cannot be used; ``problems`` has a sentence for each, and never a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Rate(Struct, frozen=True, forbid_unknown_fields=True):
    """So many requests ``per_second`` (0 = no limit), and ``burst`` at once."""

    per_second: Annotated[int, Meta(ge=0, le=ADMITTED_MAX)]
    burst: Annotated[int, Meta(ge=1, le=ADMITTED_MAX)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. An empty text means "not set". config/availability.toml documents the same list."""

    # The API's own door.
    api_host: str = "127.0.0.1"
    api_port: Port = 8000

    # Logs and figures.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_port: Port = 0
    """Where ``ingest``, ``journal`` and ``keeper`` show /metrics; 0 = nowhere. The API shows it on its own port."""

    # Overload.
    overload_wait_ms: Positive = 8
    """Requests beyond what is answered in this time get 503 at once, when more keep coming; a short burst does not."""

    # The journal.
    checkpoint_movements: Annotated[int, Meta(ge=0)] = 1_000_000
    """Movements after which what the journal folds to is kept anew, so that a rebuild begins there; 0 = never."""

    # The ledger.
    batch_operations_max: Positive = 256
    """Operations in one call to the ledger's server."""
    client_held_units_max: Positive = CLIENT_HELD_UNITS_MAX
    """Units that one client may hold, in each shard, before its holds are refused: a guard against hoarding."""
    client_rates: dict[str, Rate] = {}
    """Clients that have a limit of their own, by their names in tokens; a variable has it as JSON."""
    client_requests_burst: Annotated[int, Meta(ge=1, le=ADMITTED_MAX)] = 20_000
    """Requests of a client at once, of all API processes together."""
    client_requests_per_second: Annotated[int, Meta(ge=0, le=ADMITTED_MAX)] = 20_000
    """Requests of a client in a second, of all API processes together; 0 = no limit."""
    client_open_reservations_max: Positive = CLIENT_OPEN_RESERVATIONS_MAX
    """Reservations with held, committed or picked units that one client may have, in each shard."""
    journal_backlog_entries_max: Positive = 200_000
    """Journal entries that may wait for Postgres before holds are refused."""
    ledger_timeout_ms: Positive = 2_000
    """How long one call to the ledger's server may take before its answer counts as lost."""
    queue_operations_max: Positive = 20_000
    """Operations that may wait for the ledger before new ones are refused with 503."""
    queue_wait_ms_max: Positive = 100
    """How long the oldest operation may have waited for its call before new ones of its kind are refused with 503."""
    shards: Annotated[int, Meta(ge=1, le=64)] = 1
    """Parts of the ledger, each on one server of a cluster; as it was filled, until ``availability rehome``."""

    # What ATP answers say.
    low_stock: Positive = 5
    """1 to this many available units have the status ``low``."""
    stale_after_ms: Positive = 93_600_000
    """A position that no event reached for this long is marked stale; 26 h, a nightly count with some slack."""

    # The checks of servers, clocks and disks.
    clock_difference_ms_max: Positive = 5_000
    """How far the clocks of the servers may be from this machine's before nothing is promised."""
    disk_full_percent: Annotated[int, Meta(ge=1, le=100)] = 95
    """How full the disk of a server may be, where it can be seen, before nothing is promised."""
    disk_warning_percent: Annotated[int, Meta(ge=1, le=100)] = 80
    """And before it is told."""

    # Servers, as URLs with their credentials.
    nats_url: str = ""
    postgres_url: str = ""
    redis_standby_url: str = ""
    """The replica that ``availability failover`` makes the ledger's server; only the operator's commands use it."""
    redis_url: str = ""

    # TLS to the servers whose URLs ask for it, and to jwks_url: files with certificates.
    jwks_ca_file: str = ""
    """Who signed the certificate of ``jwks_url``; not set = whom the system believes. So with ``tls_ca_file``."""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    """What we show to servers that ask who we are, and its key in ``tls_key_file``."""
    tls_key_file: str = ""

    # The embedded NATS of ``up``.
    nats_stream_sync: Annotated[str, Meta(pattern=r"^(always|[1-9][0-9]*(ms|s|m))\Z")] = "always"
    """When JetStream fsyncs: ``always`` is before each acknowledgement, otherwise at this interval."""

    # Tokens: who signs them, for whom, and where the keys are that verify them (a file or an https address).
    jwks_file: str = ""
    jwks_url: str = ""
    token_audience: str = "availability"  # noqa: S105 - a name, not a token
    token_issuer: str = ""

    def __repr__(self) -> str:
        """The settings that differ from their defaults, without secrets."""
        shown = ((name, "***" if name in SECRETS else getattr(self, name)) for name in self.changed())
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown)})"

    def changed(self) -> list[str]:
        """The names of the settings that differ from their defaults."""
        default = Settings()
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(default, name)]

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Which of ``names`` are not set; of one like "this or that", either is enough."""
        return [name for name in names if all(getattr(self, either) == "" for either in name.split(" or "))]


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of the file, if one is named, with those of the variables over them; or ``SettingsError``."""
    variables = os.environ if environ is None else environ
    from_file = _read(path) if path is not None else {}
    from_variables = {
        name.removeprefix(PREFIX).lower(): value for name, value in variables.items() if name.startswith(PREFIX)
    }
    problems: list[str] = []
    fields: dict[str, object] = {}
    for origin, values, strict in ((str(path), from_file, True), ("the environment", from_variables, False)):
        for name, value in _resolve_secrets(values, origin, problems).items():
            try:
                fields[name] = _field(name, value, strict=strict)
            except msgspec.ValidationError as error:
                problems.append(f"{name} in {origin}: {str(error).removesuffix(f' - at `$.{name}`')}")
    problems += [
        f"{name}: {flaw}"
        for name in sorted(SECRETS)
        if fields.get(name) and (flaw := tls.flaw_of(name, str(fields[name])))
    ]
    if problems:
        raise SettingsError(problems)
    return _with_tls_files(Settings(**fields))  # type: ignore[arg-type]  # each was converted to its field's type


def _with_tls_files(settings: Settings) -> Settings:
    """The certificates' files go where the links are made: into the URLs."""
    files = settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file
    urls = {name: tls.with_files(name, url, files) for name in SECRETS if (url := getattr(settings, name))}
    return msgspec.structs.replace(settings, **urls)


def environment_of_child(settings: Settings) -> dict[str, str]:
    """Our environment for a child process, with exactly these settings in it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return ours | {PREFIX + name.upper(): _text(name, getattr(settings, name)) for name in settings.changed()}


def _text(name: str, value: object) -> str:
    return msgspec.json.encode(value).decode() if name in TABLES else str(value)


def _field(name: str, value: object, *, strict: bool) -> object:
    """The value as its field's type; a variable is text, and means the number that it spells."""
    if isinstance(value, str) and name in TABLES:
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise msgspec.ValidationError(f"not JSON: {error}") from error
    return getattr(msgspec.convert({name: value}, Settings, strict=strict), name)


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError([f"{path}: {error}"]) from error


def _resolve_secrets(values: Mapping[str, object], origin: str, problems: list[str]) -> dict[str, object]:
    """``values`` with each ``<secret>_file`` replaced by what its file holds."""
    resolved = dict(values)
    for name in sorted(SECRETS & {name.removesuffix("_file") for name in values if name.endswith("_file")}):
        file = Path(str(resolved.pop(f"{name}_file")))
        if name in resolved:
            problems.append(f"{name} and {name}_file in {origin}: one of them, not both")
            continue
        try:
            resolved[name] = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}_file in {origin}: {error}")
    return resolved
