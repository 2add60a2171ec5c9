"""Owns other versions of the service: a copy of it with texts replaced."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from chaos.stage import ROOT

ROOMS: Final = ("availability", "ledger")


class Edit(NamedTuple):
    """``text`` stands in the file exactly once; ``instead`` is what the variant has there."""

    file: str
    text: str
    instead: str


def variant(folder: Path, edits: Sequence[Edit]) -> Path:
    """A copy of the service with these edits, in ``folder``: who starts it there runs the copy."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in edits:
        file = folder / edit.file
        whole = file.read_text()
        assert whole.count(edit.text) == 1, f"{edit.file} has {edit.text!r} {whole.count(edit.text)} times"
        file.write_text(whole.replace(edit.text, edit.instead))
    return folder
