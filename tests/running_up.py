"""Owns running a real ``availability up`` in tests, as a user would: the command, its output, its up.json."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from waiting import wait_until_plain

READY_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 40.0


@dataclass
class Up:
    """An ``availability up`` on a folder."""

    folder: Path
    process: subprocess.Popen[bytes]
    output: Path
    errors: Path

    @property
    def url(self) -> str:
        return str(self.told()["api"])

    def told(self) -> dict[str, object]:
        """What up.json says now."""
        told: dict[str, object] = json.loads((self.folder / "up.json").read_text())
        return told

    def pids(self) -> dict[str, int]:
        pids = self.told()["pids"]
        assert isinstance(pids, dict)
        return pids

    def wait_ready(self) -> str:
        """The ready line, once it is printed; fails early when the command ends."""
        try:
            wait_until_plain(lambda: self.output.read_text() or self.process.poll() is not None, READY_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.errors.read_text()}; {self.tails()}") from error
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.errors.read_text()}"
        return self.output.read_text()

    def tails(self) -> str:
        """The end of each process's log, for a failing test."""
        return "\n".join(f"{log.name}: {log.read_text()[-800:]}" for log in sorted((self.folder / "logs").glob("*")))

    def is_ready(self) -> bool:
        with urlopen(f"{self.url}/health/ready", timeout=2) as answer:  # noqa: S310 - our own http address
            status: int = answer.status
            return status == 200

    def wait_restarted(self, name: str, old_pid: int) -> None:
        """Until another process bears the name and all is ready again."""
        wait_until_plain(lambda: self.pids()[name] != old_pid and self.is_ready(), READY_TIMEOUT_S)

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(by)
        return self.process.wait(STOP_TIMEOUT_S)


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "availability", "up", "--data-dir", str(folder), "--port", "0", *more]


@contextmanager
def start(folder: Path, *more: str) -> Iterator[Up]:
    """Start it; it is stopped at the end if the test did not."""
    output, errors = folder.with_suffix(".output"), folder.with_suffix(".errors")
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command(folder, *more), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    up = Up(folder, process, output, errors)
    try:
        yield up
    finally:
        if process.poll() is None:
            up.stop()


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not asked for yet does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
