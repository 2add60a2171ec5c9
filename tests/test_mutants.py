"""The list of ``make mutants`` stays true: each twin can still be made, and the tests that answer for it are there."""

from pathlib import Path

from mutants.__main__ import MUTANTS, ROOT


def test_each_mutant_still_applies() -> None:
    """Else a guard that was rewritten is broken by nobody any more."""
    texts = {mutant.file: (ROOT / mutant.file).read_text() for mutant in MUTANTS}
    assert [mutant.guard for mutant in MUTANTS if texts[mutant.file].count(mutant.text) != 1] == []
    assert [mutant.guard for mutant in MUTANTS if mutant.text == mutant.instead] == []


def test_the_tests_of_each_mutant_are_there() -> None:
    missing = [test for mutant in MUTANTS for test in mutant.tests if not _is_there(test)]
    assert missing == []


def _is_there(test: str) -> bool:
    file, _, name = test.partition("::")
    path: Path = ROOT / file
    return path.is_file() and f"def {name.partition('[')[0]}(" in path.read_text() if name else path.is_file()
