"""Owns what is seen while a run goes on: how far it is, and the last second's figures.

On a terminal they stand in one place and change; elsewhere a line is printed every few seconds.
"""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench import figures
from bench.run import Second

LINE_EVERY_S: Final = 5
LATE_US_MAX: Final = 10_000
"""A generator this late is told in red: its lateness is in the latencies, and soon makes the run invalid."""


class Live:
    """Shows one run whose load lasts ``load_s`` seconds. A second costs microseconds: tell it in your own loop."""

    def __init__(self, load_s: float, title: str, console: Console | None = None) -> None:
        self.load_s = load_s
        self.title = title
        self.console = console or Console()
        self._phase = ""
        self._last: Second | None = None
        self._printed_at_s = -LINE_EVERY_S
        self._began_at = time.monotonic()
        self._load_from_s: float | None = None
        self._screen = Screen(console=self.console, transient=True, refresh_per_second=4, get_renderable=self._drawn)

    def __enter__(self) -> Self:
        self._began_at = time.monotonic()
        if self.console.is_terminal:
            self._screen.start()
        else:
            self._print(f"{self.title}: {figures.seconds(self.load_s)} of load, then checks")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._screen.stop()

    def phase(self, name: str) -> None:
        """What is done from now on, as in ``opening counts`` or a step's rate."""
        self._phase = name
        if not self.console.is_terminal:
            self._print(f"{figures.seconds(self._elapsed_s())}: {name}")

    def load(self, from_s: float) -> None:
        """The load begins at this moment of the monotonic clock, unless it has begun before."""
        if self._load_from_s is None:
            self._load_from_s = from_s

    def second(self, second: Second) -> None:
        """The second that is over."""
        self._last = second
        if not self.console.is_terminal and second.at_s >= self._printed_at_s + LINE_EVERY_S:
            self._printed_at_s = second.at_s
            told = ", ".join(f"{name} {value}" for name, value, _ in _figures(second))
            self._print(f"{self._load_told()}: {told}")

    def refresh(self) -> None:
        """Draw now what a terminal shows, before its next turn."""
        self._screen.refresh()

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_at

    def _loaded_s(self) -> float:
        """How much of the load is over."""
        if self._load_from_s is None:
            return 0.0
        return min(max(0.0, time.monotonic() - self._load_from_s), self.load_s)

    def _load_told(self) -> str:
        return f"{figures.seconds(self._loaded_s())} of {figures.seconds(self.load_s)} of load"

    def _drawn(self) -> Group:
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self.title, "bold"),
            ProgressBar(self.load_s, self._loaded_s(), width=30),
            Text(self._load_told()),
            Text(self._phase),
        )
        if self._last is None:
            return Group(head)
        told = _figures(self._last)
        body = Table.grid(padding=(0, 2))
        for _ in told:
            body.add_column(justify="right")
        body.add_row(*(Text(name, "dim") for name, _, _ in told))
        body.add_row(*(Text(value, style) for _, value, style in told))
        return Group(head, body)


def _figures(second: Second) -> list[tuple[str, str, str]]:
    """Name, value and style of each; red is what a tester would stop the run for."""
    return [
        ("offered", figures.rate(second.offered), ""),
        ("accepted", figures.rate(second.accepted), ""),
        ("shed", figures.rate(second.shed), "yellow" if second.shed else ""),
        ("failed", figures.rate(second.failed), "bold red" if second.failed else ""),
        ("p99", figures.time(second.p99_us if second.accepted else None), ""),
        ("generator late by", figures.time(second.late_us), "bold red" if second.late_us > LATE_US_MAX else ""),
    ]
