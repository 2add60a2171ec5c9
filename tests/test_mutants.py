"""The list of ``make mutants`` stays true: each twin can still be made, and the tests that answer for it are there."""

import subprocess
import sys

from mutants.__main__ import MUTANTS, ROOT


def test_each_mutant_still_applies() -> None:
    """Else a guard that was rewritten is broken by nobody any more."""
    texts = {mutant.file: (ROOT / mutant.file).read_text() for mutant in MUTANTS}
    assert [mutant.guard for mutant in MUTANTS if texts[mutant.file].count(mutant.text) != 1] == []
    assert [mutant.guard for mutant in MUTANTS if mutant.text == mutant.instead] == []


def test_the_tests_of_each_mutant_are_there() -> None:
    """Else nothing runs, which is no answer to what was broken."""
    tests = dict.fromkeys(test for mutant in MUTANTS for test in mutant.tests)
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", *tests]
    collected = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert collected.returncode == 0, collected.stdout + collected.stderr
