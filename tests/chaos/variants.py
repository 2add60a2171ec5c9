"""Owns other versions of the service: a copy of the tree with texts replaced in it, and how ``up`` is started from there."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("availability", "ledger")


class Edit(NamedTuple):
    """``text`` stands in the file exactly once; ``instead`` is what the variant has there."""

    file: str
    text: str
    instead: str


def variant(folder: Path, edits: Sequence[Edit]) -> dict[str, str]:
    """Make a copy of the service in ``folder`` with these edits; the environment in which it is the one that is run."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in edits:
        file = folder / edit.file
        whole = file.read_text()
        assert whole.count(edit.text) == 1, f"{edit.file} has {edit.text!r} {whole.count(edit.text)} times"
        file.write_text(whole.replace(edit.text, edit.instead))
    # Without the second one, the folder in which Python is started would come first.
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
