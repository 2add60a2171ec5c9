"""What a Valkey or Redis server must be and be set to before the ledger may promise anything on it (DESIGN 5).

What is judged here was asked by ``ledger/valkey_checks.py``; nothing here connects to anything.
"""

from collections.abc import Mapping, Sequence

from ledger.findings import Finding, unsafe
from ledger.library import Library

VALKEY_MIN = (9, 1, 1)
REDIS_MIN = (7, 2, 0)
SETTINGS = {
    "appendonly": ("yes", "without the append-only file nothing survives a restart"),
    "appendfsync": ("always", "an acknowledged operation must have reached the disk"),
    "no-appendfsync-on-rewrite": ("no", "it must also have while the file is rewritten"),
    "maxmemory-policy": ("noeviction", "an evicted key would be lost stock"),
}
CLUSTER_SETTINGS = {
    "cluster-require-full-coverage": ("no", "one server that is away would stop the shards of all"),
    "cluster-replica-no-failover": ("yes", "a replica that takes over has lost acknowledged operations"),
}
"""What each server of a cluster also needs; config/valkey-cluster.conf says the same, and a test keeps them equal."""
MEMORY_WARNING_PERCENT = 80


def version_findings(subject: str, info: Mapping[str, str]) -> list[Finding]:
    """From the fields of INFO server; nothing when it is new enough."""
    name, minimum = ("valkey", VALKEY_MIN) if "valkey_version" in info else ("redis", REDIS_MIN)
    version = info.get(f"{name}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers >= minimum:
        return []
    return [unsafe(subject, f"is {name} {version}, which is too old: run {'.'.join(map(str, minimum))} or newer")]


def settings_findings(subject: str, found: Mapping[str, str], *, in_cluster: bool) -> list[Finding]:
    """From the answer of CONFIG GET; nothing when all is as it must be."""
    wanted = {**SETTINGS, **(CLUSTER_SETTINGS if in_cluster else {})}
    findings = [
        unsafe(f"{subject}'s {name}", f"is {found.get(name, 'not readable')}: set it to {value}, {why}")
        for name, (value, why) in wanted.items()
        if found.get(name) != value
    ]
    if found.get("save"):
        text = f'is "{found["save"]}": the append-only file holds all, snapshots only cost memory while they are made'
        findings.append(Finding("warning", f"{subject}'s save", text))
    return findings


def persistence_findings(subject: str, info: Mapping[str, str]) -> list[Finding]:
    """From the fields of INFO persistence: what the disk did to the last writes."""
    findings = []
    if info.get("aof_last_write_status", "ok") != "ok":
        text = "could not be written: look at its disk and its log; nothing is durable until that is mended"
        findings.append(unsafe(f"{subject}'s append-only file", text))
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        text = "could not be rewritten, and grows until it can: look at the disk, then BGREWRITEAOF"
        findings.append(Finding("warning", f"{subject}'s append-only file", text))
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        text = "could not be written: look at the disk, then BGSAVE; backups that rest on it are old"
        findings.append(Finding("warning", f"{subject}'s snapshot", text))
    return findings


def memory_findings(subject: str, info: Mapping[str, str]) -> list[Finding]:
    """From the fields of INFO memory. It stays a warning: what is freed must go on."""
    used, maximum = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    if maximum == 0 or 100 * used < MEMORY_WARNING_PERCENT * maximum:
        return []
    text = f"is {100 * used // maximum} % full: raise its maxmemory before holds are refused"
    if used >= maximum:
        text = f"is full, so that holds are refused now: raise its maxmemory above {maximum} bytes"
    return [Finding("warning", f"{subject}'s memory", text)]


def user_findings(subject: str, name: str, rules: Mapping[str, object] | None) -> list[Finding]:
    """From ACL WHOAMI and ACL GETUSER; ``rules`` None when the user may not look, so that it may surely not do all."""
    if name == "default":
        return [Finding("warning", f"{subject}'s user", "is `default`: give the service one of its own, by ACL")]
    commands = str((rules or {}).get("commands", "")).split()
    if "+@all" in commands and not any(word.startswith("-") for word in commands):
        text = f"is `{name}`, which may do everything: leave it the commands and keys that the service needs"
        return [Finding("warning", f"{subject}'s user", text)]
    return []


def library_findings(subject: str, found: Sequence[str], ours: Library, info: Mapping[str, str]) -> list[Finding]:
    """``found``: the texts of the libraries that bear our library's name; none before the first use.

    Whether the server is used is in the fields of INFO keyspace.
    """
    name = f"{subject}'s function library"
    if not found and "db0" in info:
        return [Finding("unsafe", name, "is missing, or is another version's: run `availability migrate`")]
    if all(each == ours.text for each in found):
        return []
    return [unsafe(name, f"{ours.name} is not ours, somebody changed it: run `availability migrate` to put ours back")]
