"""Owns the report's drawings: lines and bars as SVG that scales with the page, with a description and no script.

Colours are classes ``c0`` to ``c7`` of the page's style; lines past the eighth are dotted as well.
"""

import math
from collections.abc import Sequence

from msgspec import Struct

from bench.markup import Html, joined, tag

WIDTH, HEIGHT = 560.0, 290.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 14.0, 30.0, 50.0
COLOURS = 8
TICKS_ABOUT = 5
LOG_TICKS_MAX = 7


class Axis(Struct, frozen=True):
    """From ``low`` to ``high``; ``ticks`` are [where, what is written there]."""

    label: str
    low: float
    high: float
    ticks: list[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, 0.0 at the low end and 1.0 at the high one."""
        if self.log:
            value, low, high = (math.log10(max(x, self.low)) for x in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))


class Line(Struct, frozen=True):
    """Points by rising x; None is a gap. ``colour`` counts from 0. ``earlier`` is drawn dashed and faint."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int
    earlier: bool = False


class Mark(Struct, frozen=True):
    """A value of x that matters, with a word at its top."""

    x: float
    said: str


class Goal(Struct, frozen=True):
    """What must not be passed at one x."""

    x: float
    y: float
    said: str


class Hover(Struct, frozen=True):
    """What is told when the pointer is over this stretch of x."""

    x: float
    until: float
    said: str


def linear(label: str, highest: float, *, low: float = 0.0) -> Axis:
    """From ``low`` up to a round number that holds ``highest``."""
    span = max(highest - low, 1e-9)
    rough = span / TICKS_ABOUT
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    high = low + step * math.ceil(span / step - 1e-9)
    ticks = [low + step * i for i in range(round((high - low) / step) + 1)]
    return Axis(label, low, high, [(tick, _plain(tick)) for tick in ticks])


def time_axis(seconds: float) -> Axis:
    """Ends where the run ended."""
    nice = linear("seconds since the start", max(seconds, 1.0))
    return Axis(nice.label, 0.0, max(seconds, 1.0), [tick for tick in nice.ticks if tick[0] <= max(seconds, 1.0)])


def latency_axis(values_us: Sequence[float]) -> Axis:
    """Logarithmic, in microseconds, with ticks at 1, 2, 5 or at powers of ten alone."""
    found = [value for value in values_us if value > 0] or [100.0, 10_000.0]
    low, high = min(found), max(found)
    fine = [(factor * 10.0**power) for power in range(9) for factor in (1, 2, 5)]
    low = max((tick for tick in fine if tick <= low), default=fine[0])
    high = min((tick for tick in fine if tick >= high and tick > low), default=high)
    inside = [tick for tick in fine if low <= tick <= high]
    if len(inside) > LOG_TICKS_MAX:
        inside = [tick for tick in inside if math.log10(tick).is_integer()]
    return Axis("latency (logarithmic)", low, high, [(tick, _short_time(tick)) for tick in inside], log=True)


def percentile_axis(highest: float) -> Axis:
    """Of one in how many: 50 %, 90 %, 99 %, 99.9 % … at equal steps of ten, as HdrHistogram draws it."""
    high = max(highest, 100.0)
    tens = [10.0**power for power in range(1, math.ceil(math.log10(high)) + 1)]
    ticks = [(1.0, "0"), (2.0, "50 %")] + [(ten, _percent(ten)) for ten in tens if ten <= high]
    return Axis("share of requests that were faster", 1.0, high, ticks, log=True)


def _percent(one_in: float) -> str:
    nines = round(math.log10(one_in))
    return f"{100 - 100 / one_in:.{max(0, nines - 2)}f} %"


def _plain(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1_000:,.1f}".removesuffix(".0") + " k"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def _short_time(us: float) -> str:
    if us >= 1e6:
        return f"{us / 1e6:g} s"
    return f"{us / 1e3:g} ms" if us >= 1e3 else f"{us:g} µs"


def highest(drawn: Sequence[Line]) -> float:
    """Of all that is drawn; 1.0 when there is nothing above 0, so that an axis can be made of it."""
    return max((value for line in drawn for _, value in line.points if value is not None), default=1.0) or 1.0


def figure(title: str, said: str, legend: Sequence[Line], drawing: Html, listed: Html) -> Html:
    """A drawing with its title, a sentence on how to read it, its legend, and the same as a table."""
    entries = [
        tag(
            "li",
            tag("svg", tag("path", class_=_style(line), d="M1 4H29"), viewBox="0 0 30 8", aria_hidden="true"),
            line.name,
        )
        for line in legend
    ]
    return tag(
        "figure",
        tag("figcaption", tag("h3", title), tag("p", said)),
        *([tag("ul", *entries, class_="legend")] if entries else []),
        drawing,
        tag("details", tag("summary", "The same as a table"), listed),
    )


def _style(line: Line) -> str:
    how = " earlier" if line.earlier else " dotted" if line.colour >= COLOURS else ""
    return f"c{line.colour % COLOURS}{how}"


def lines(
    name: str,
    title: str,
    said: str,
    axes: tuple[Axis, Axis],
    drawn: Sequence[Line],
    *,
    marks: Sequence[Mark] = (),
    goals: Sequence[Goal] = (),
    hovers: Sequence[Hover] = (),
) -> Html:
    """A drawing of lines over ``axes`` (x, y). ``name`` is its own on the page; ``said`` tells it to who cannot see."""
    x, y = axes
    return _drawing(
        name,
        title,
        said,
        _frame(x, y),
        *(_mark(x, mark, row) for row, mark in enumerate(marks)),
        *(_path(x, y, line) for line in sorted(drawn, key=lambda line: not line.earlier)),
        *(_goal(x, y, goal) for goal in goals),
        *(_hover(x, hover) for hover in hovers),
    )


def bars(name: str, title: str, said: str, label: str, groups: Sequence[tuple[str, list[tuple[int, float]]]]) -> Html:
    """Bars side by side under each word; ``groups`` are [word, [(colour, share of 1)]]."""
    y = Axis(label, 0.0, 1.0, [(0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")])
    every = math.ceil(len(groups) / 10)
    ticks = [(i + 0.5, word) for i, (word, _) in enumerate(groups) if i % every == 0]
    x = Axis("operations in one call, up to", 0.0, float(max(1, len(groups))), ticks)
    shapes = []
    for i, (_, each) in enumerate(groups):
        width = 0.8 / len(each)
        for j, (colour, part) in enumerate(each):
            left, right = _x(x, i + 0.1 + j * width), _x(x, i + 0.1 + (j + 1) * width)
            top = _y(y, part)
            shapes.append(
                tag("rect", class_=f"f{colour}", x=left, y=top, width=right - left - 0.5, height=_y(y, 0.0) - top)
            )
    return _drawing(name, title, said, _frame(x, y), *shapes)


def _drawing(name: str, title: str, said: str, *inner: Html) -> Html:
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", said, id=f"{name}-desc"),
        *inner,
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x: Axis, y: Axis) -> Html:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, said in y.ticks:
        at = _y(y, value)
        parts.append(tag("line", class_="grid", x1=LEFT, y1=at, x2=right, y2=at))
        parts.append(tag("text", said, x=LEFT - 6, y=at + 4, text_anchor="end"))
    for value, said in x.ticks:
        at = _x(x, value)
        parts.append(tag("line", class_="grid", x1=at, y1=TOP, x2=at, y2=bottom))
        # A word at the very end would leave the drawing.
        anchor = "end" if at > right - 12 else "middle"
        parts.append(tag("text", said, x=min(at, right + 8), y=bottom + 18, text_anchor=anchor))
    parts.append(tag("text", x.label, class_="label", x=(LEFT + right) / 2, y=HEIGHT - 8, text_anchor="middle"))
    parts.append(tag("text", y.label, class_="label", x=4, y=16))
    return joined(*parts)


def _path(x: Axis, y: Axis, line: Line) -> Html:
    told: list[str] = []
    pen_down = False
    for i, (where, value) in enumerate(line.points):
        if value is None:
            pen_down = False
            continue
        at = f"{_x(x, where):.1f} {_y(y, value):.1f}"
        told.append(f"L{at}" if pen_down else f"M{at}")
        alone = not pen_down and (i + 1 == len(line.points) or line.points[i + 1][1] is None)
        if alone:
            told.append("h.1")  # with round ends, a dot
        pen_down = True
    return tag("path", class_=_style(line), d="".join(told) or "M0 0")


def _mark(x: Axis, mark: Mark, row: int) -> Html:
    """Words of several marks stand in rows: two knees may be close together."""
    at = _x(x, mark.x)
    left_of = at > (LEFT + WIDTH) / 2
    return joined(
        tag("line", class_="mark", x1=at, y1=TOP, x2=at, y2=HEIGHT - BOTTOM),
        tag(
            "text", mark.said, class_="said", x=at + (-5 if left_of else 5), y=TOP + 14 + 18 * row,
            text_anchor="end" if left_of else "start",
        ),
    )  # fmt: skip


def _goal(x: Axis, y: Axis, goal: Goal) -> Html:
    """A small roof: what passes through it missed the goal."""
    at, top = _x(x, goal.x), _y(y, goal.y)
    return joined(
        tag("path", class_="goal", d=f"M{at - 14:.1f} {top:.1f}h28m-14 0v-7"),
        tag("text", goal.said, class_="said", x=at, y=top - 11, text_anchor="middle"),
    )


def _hover(x: Axis, hover: Hover) -> Html:
    left, right = _x(x, hover.x), _x(x, hover.until)
    return tag(
        "rect", tag("title", hover.said), class_="hover", x=left, y=TOP, width=max(right - left, 0.5),
        height=HEIGHT - TOP - BOTTOM,
    )  # fmt: skip
