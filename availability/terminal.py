"""Owns what tools show on a terminal: bars for long work, tables, and text of strangers made harmless."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import Progress, TaskID

_UNPRINTABLE: Final = re.compile(r"[^ -~\u00a1-\u1fff\u3000-\ud7ff]")


def printable(text: str) -> str:
    """``text`` with everything escaped that is not plainly a letter, a digit, a sign or a space."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, of which the first has the columns' names, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


@contextmanager
def shown_progress(names: Mapping[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """What shows how far it has come, while the block lasts: a bar for each step, with its name for people."""
    bars = Progress(console=Console(stderr=True))
    try:
        yield _Steps(bars, names).tell
    finally:
        if bars.live.is_started:
            bars.stop()


class _Steps:
    """A bar for each step."""

    def __init__(self, bars: Progress, names: Mapping[str, str]) -> None:
        self._bars = bars
        self._names = names
        self._tasks: dict[str, TaskID] = {}

    def tell(self, step: str, done: int, total: int) -> None:
        self._bars.start()  # not before there is something to show
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(self._names[step])
        self._bars.update(self._tasks[step], completed=done or not total, total=total or 1)
