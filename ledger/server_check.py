"""What a Valkey or Redis server must be and be set to before the ledger may promise anything on it (DESIGN 5)."""

from collections.abc import Mapping

VALKEY_MIN = (9, 1, 1)
REDIS_MIN = (7, 2, 0)
SETTINGS = {
    "appendonly": ("yes", "without the append-only file nothing survives a restart"),
    "appendfsync": ("always", "an acknowledged write must have been fsynced"),
    "no-appendfsync-on-rewrite": ("no", "fsync must go on while the file is rewritten"),
    "maxmemory-policy": ("noeviction", "an evicted key would be lost stock"),
}


def unsafe_settings(settings: Mapping[str, str]) -> list[str]:
    """Why the server's settings are unsafe, each reason with its remedy; empty when they are as they must be."""
    return [
        f"{name} is {settings.get(name, 'not readable')}: set it to {wanted}, {why}"
        for name, (wanted, why) in SETTINGS.items()
        if settings.get(name) != wanted
    ]


def unsafe_version(info: Mapping[str, str]) -> list[str]:
    """Why the server's version is refused, from the fields of INFO server; empty when it is new enough."""
    name, minimum = ("valkey", VALKEY_MIN) if "valkey_version" in info else ("redis", REDIS_MIN)
    version = info.get(f"{name}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers >= minimum:
        return []
    return [f"{name} {version} is too old: run {'.'.join(map(str, minimum))} or newer"]
