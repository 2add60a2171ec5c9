"""Owns what a mutant is."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A guard of ``promise``, the twin of it in which ``text`` of ``file`` stands ``instead``, and who answers for it.

    ``text`` stands in the file exactly once. ``tests`` are those of which at least one has to fail, as pytest takes
    them, seconds at most; without the mutant they pass.
    """

    promise: str
    guard: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]
