"""Owns ``make mutants``: every guard broken in a copy of the tree, its tests run there, and the table of results."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from . import (
    of_access,
    of_answering,
    of_auditing,
    of_checking,
    of_clocks,
    of_copying,
    of_feeding,
    of_judging,
    of_promising,
    of_records,
    of_recovering,
)
from .mutant import Mutant

MUTANTS: Final = [
    *(*of_promising.MUTANTS, *of_answering.MUTANTS, *of_access.MUTANTS, *of_checking.MUTANTS, *of_clocks.MUTANTS),
    *(*of_records.MUTANTS, *of_feeding.MUTANTS, *of_auditing.MUTANTS, *of_recovering.MUTANTS, *of_copying.MUTANTS),
    *of_judging.MUTANTS,
]
ROOT: Final = Path(__file__).parents[2]
TIMEOUT_S: Final = 90.0
"""Of the tests of one mutant; one that makes them hang is caught too."""
TESTS_FAILED: Final = 1
HUNG: Final = -1
CAUGHT: Final = "caught"


def main() -> int:
    """0 = every mutant is caught; 1 = one is not, or the list has to be mended."""
    parser = ArgumentParser(prog="python -m tests.mutants", description="Break each guard, and see its test go red.")
    parser.add_argument("only", nargs="*", help="only mutants of this promise (P3), or with this text in guard or file")
    parser.add_argument("--workers", type=int, default=2, help="copies of the tree that are worked in at once")
    asked = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not asked.only or any(_is_of(mutant, word) for word in asked.only)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.workers):
            copies.put(_copy(Path(folder) / str(number)))
        if not _all_pass(chosen, copies, asked.workers):
            return 1
        with ThreadPoolExecutor(asked.workers) as workers:
            return _tell(chosen, workers.map(lambda mutant: _result(mutant, copies), chosen))


def _is_of(mutant: Mutant, word: str) -> bool:
    return word == mutant.promise or (not word.startswith("P") and word in f"{mutant.guard} {mutant.file}")


def _copy(folder: Path) -> Path:
    """What git knows of the tree, as it is now."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _pytest(copy: Path, tests: Iterable[str], *options: str, timeout_s: float | None = TIMEOUT_S) -> tuple[int, str]:
    """How the tests ended in this copy, and the end of what they printed; ``HUNG`` when they did not end in time."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *tests]
    # In a session of its own, so that the servers of tests that hang end with them.
    process = subprocess.Popen(
        argv, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return HUNG, ""
    return process.returncode, printed.decode(errors="replace")[-3_000:]


def _all_pass(mutants: Sequence[Mutant], copies: "SimpleQueue[Path]", workers: int) -> bool:
    """Whether all tests pass where nothing is broken: otherwise a failure would tell nothing."""
    copy = copies.get()
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    ended, printed = _pytest(copy, tests, f"--numprocesses={workers}", "--dist=worksteal", timeout_s=None)
    copies.put(copy)
    if ended != 0:
        print(f"{printed}\nTests fail although nothing is broken (exit {ended}): mend these first.")  # noqa: T201
    return ended == 0


def _result(mutant: Mutant, copies: "SimpleQueue[Path]") -> tuple[str, float]:
    """What became of it, and how long that took in seconds."""
    began_s = time.monotonic()
    copy = copies.get()
    file = copy / mutant.file
    whole = file.read_text() if file.exists() else ""
    try:
        if whole.count(mutant.text) != 1:
            return f"DOES NOT APPLY: the text is {whole.count(mutant.text)} times in the file", 0.0
        file.write_text(whole.replace(mutant.text, mutant.instead))
        ended, printed = _pytest(copy, mutant.tests, "-x")
        if ended in (TESTS_FAILED, HUNG):
            return CAUGHT, time.monotonic() - began_s
        return f"SURVIVED: {printed.strip().splitlines()[-1]}", time.monotonic() - began_s
    finally:
        if whole:
            file.write_text(whole)
        copies.put(copy)


def _tell(mutants: Sequence[Mutant], results: Iterable[tuple[str, float]]) -> int:
    """Print a line for each, as they come, and then the sum; the exit code."""
    print(f"{'':<4} {'guard':<70} {'twin in':<36} result")  # noqa: T201
    caught = 0
    for mutant, (result, took_s) in zip(mutants, results, strict=True):
        caught += result == CAUGHT
        print(f"{mutant.promise:<4} {mutant.guard:<70} {mutant.file:<36} {result} ({took_s:.0f} s)", flush=True)  # noqa: T201
    print(f"{caught} of {len(mutants)} mutants are caught")  # noqa: T201
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
