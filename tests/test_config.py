"""What stands in config/ is what the embedded servers run with, and the lock files name no registry."""

import re
from pathlib import Path

import cluster
import pytest

from availability import embedded

CONFIG = Path(__file__).parent.parent / "config"
LOCKS = sorted(CONFIG.glob("requirements*.txt"))


def settings_of(name: str) -> list[str]:
    """The lines of a file that set something."""
    return [line for line in (CONFIG / name).read_text().splitlines() if line and not line.startswith("#")]


def test_valkey_is_set_alike_everywhere() -> None:
    """P2."""
    assert settings_of("valkey.conf") == [f"{name} {value}" for name, value in embedded.VALKEY_SETTINGS.items()]


def test_a_cluster_is_set_alike_everywhere() -> None:
    """P2, P9."""
    assert settings_of("valkey-cluster.conf") == [f"{name} {value}" for name, value in cluster.SETTINGS.items()]


def test_postgres_is_set_alike_everywhere() -> None:
    """P7."""
    lines = [line.replace("'", "") for line in settings_of("postgres.conf")]
    assert lines == [f"{name} = {value}" for name, value in embedded.POSTGRES_SETTINGS.items()]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_everything_and_names_no_place(lock: Path) -> None:
    lines = [line.removesuffix(" \\") for line in lock.read_text().splitlines() if not line.startswith("#")]
    wrong = [
        line for line in lines if line and not re.fullmatch(r"[a-z0-9_-]+==\S+|    --hash=sha256:[0-9a-f]{64}", line)
    ]
    assert wrong == []
    assert sum(1 for line in lines if "==" in line) > 20
