"""Owns how figures of repeated measurements are shown: the median of each, its range, and whether it meets its goal.

Figures of one thing that is measured alone. Contenders, and ratios within a round, are in ``peers/table``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """What a figure should be, at least or at most."""

    at: Literal["≥", "≤"]
    bound: float

    def is_met(self, figure: float) -> bool:
        return figure >= self.bound if self.at == "≥" else figure <= self.bound


Figures = dict[str, float]
"""One measurement's, by name."""


def show(console: Console, title: str, runs: Sequence[Figures], goals: dict[str, Goal]) -> bool:
    """Print the medians; whether all goals are met by them."""
    table = Table("", "median", "from", "to", "goal", "", title=f"{title}, runs: {len(runs)}", box=SIMPLE_HEAD)
    for column in table.columns[1:5]:
        column.justify = "right"
    all_met = True
    for name in runs[0]:
        values = [run[name] for run in runs]
        goal, middle = goals.get(name), median(values)
        met = goal is None or goal.is_met(middle)
        all_met = all_met and met
        verdict = ("", "") if goal is None else (f"{goal.at} {_text(goal.bound)}", "yes" if met else "no")
        table.add_row(name, _text(middle), _text(min(values)), _text(max(values)), *verdict)
    console.print(table)
    return all_met


def _text(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.1f}"
