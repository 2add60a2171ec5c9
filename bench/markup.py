"""Owns how the report's markup is made: text is escaped unless it is markup already, so nothing can be forgotten."""

import html
import re
from collections.abc import Sequence
from typing import Final

# What neither HTML nor XML may hold, however it is written; a header or a file may bring it.
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Markup, made by ``tag`` and ``joined`` from text that they escaped."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: object) -> Html:
    """An element. ``class_`` and ``stroke_width`` stand for ``class`` and ``stroke-width``; None leaves it out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(_told(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = joined(*children)
    # `<td/>` is no end of a cell in HTML: only these may be closed at once.
    return Html(f"<{name}{told}/>" if name in CLOSED_AT_ONCE and not inner else f"<{name}{told}>{inner}</{name}>")


CLOSED_AT_ONCE: Final = frozenset({"meta", "br", "path", "line", "rect", "circle"})


def joined(*parts: str) -> Html:
    """One after the other."""
    return Html("".join(part if isinstance(part, Html) else _escaped(part) for part in parts))


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], caption: str | None = None) -> Html:
    """The first column names its row; the others are figures or words."""
    return tag(
        "div",
        tag(
            "table",
            *([tag("caption", caption)] if caption else []),
            tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
            tag(
                "tbody",
                *(tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows),
            ),
        ),
        class_="wide",
        # What scrolls has to be reachable by keyboard.
        tabindex="0",
    )


def _told(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return html.escape(_FORBIDDEN.sub("\ufffd", text))
