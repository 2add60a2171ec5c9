"""Owns reading the README's tour: its commands, the answers that it shows, and whether a real answer agrees."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
OPERATING = ROOT / "config" / "README.md"
FENCE = re.compile(r"^```(\w+) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY = "…"
VARYING = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)|(?P<day>\d{4}-\d\d-\d\d)|(?P<id>\b[a-z2-7]{24}\b)|(?P<run>\d{10})"
)
"""Times, days, ids of reservations and numbers of a run: others each time, so that only their form is compared."""
VARYING_FIELDS = ("age_ms", "seq")


@dataclass(frozen=True)
class Step:
    """Commands to paste, and the answer that is shown; ``kind`` is json, http or text, and empty without an answer."""

    commands: str
    soon: bool = False
    """The answer may need a moment: what has to arrive first is under way."""
    kind: str = ""
    varies: bool = False
    """The demo's own numbers: only names and types are compared."""
    answer: str = ""


def section(title: str, file: Path = README) -> str:
    """The text below a heading of the second level."""
    return file.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def dead_links(file: Path) -> list[str]:
    """Links of a page to files and headings here that are not there."""
    links: list[str] = re.findall(r"\]\(([^)\s]+)\)", file.read_text("utf-8"))
    return [link for link in links if not _leads_to_something(file, link)]


def _leads_to_something(file: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    target = file.parent / name if name else file
    if "://" in link or not heading:
        return "://" in link or target.exists()
    titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8") if target.exists() else "", re.MULTILINE)
    return heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def steps() -> list[Step]:
    """The tour, in order."""
    found: list[Step] = []
    for language, word, body in FENCE.findall(section("A tour of five minutes")):
        if language == "bash":
            found.append(Step(body, soon=word == "soon"))
        else:
            found[-1] = replace(found[-1], kind=language, varies=word == "varies", answer=body)
    return found


def differences(step: Step, output: str) -> list[str]:
    """Where a real answer is not what the step shows; empty when it is."""
    if step.kind == "text":
        return _different_lines(step.answer.splitlines(), output.splitlines())
    if step.kind == "json":
        return list(_different("answer", json.loads(step.answer), _json(output), varies=step.varies))
    if step.kind == "http":
        shown_head, _, shown_body = step.answer.partition("\n\n")
        head, _, body = output.partition("\n\n")
        missing = [line for line in shown_head.splitlines() if line not in head.splitlines()]
        return missing + list(_different("body", json.loads(shown_body), _json(body), varies=False))
    return []


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _different(place: str, shown: Any, real: Any, *, varies: bool) -> Iterator[str]:
    """The README leaves fields out, so the real answer may have more of them; nothing else may differ."""
    if isinstance(shown, dict) and isinstance(real, dict):
        for name, value in shown.items():
            if name not in real:
                yield f"{place}.{name} is missing"
            else:
                varying = varies or name in VARYING_FIELDS
                yield from _different(f"{place}.{name}", value, real[name], varies=varying)
    elif isinstance(shown, list) and isinstance(real, list):
        if len(shown) != len(real):
            yield f"{place} has {len(real)} members"
        for index, (value, real_value) in enumerate(zip(shown, real, strict=False)):
            yield from _different(f"{place}[{index}]", value, real_value, varies=varies)
    elif (type(shown) is not type(real)) if varies else (_form(shown) != _form(real)):
        yield f"{place} is {real!r}, not {shown!r}"


def _form(value: Any) -> Any:
    """A value with what is another each time replaced by what it is."""
    if not isinstance(value, str):
        return value
    return VARYING.sub(lambda found: f"<{found.lastgroup}>", value)


def _different_lines(shown: list[str], real: list[str]) -> list[str]:
    """Each shown line stands among the real ones, in order; blanks are one, and ``…`` is anything."""
    rest = iter([_words(line) for line in real])
    return [
        f"there is no line {line!r} in {real}"
        for line in shown
        if not any(re.fullmatch(re.escape(_words(line)).replace(ANY, ".+"), candidate) for candidate in rest)
    ]


def _words(line: str) -> str:
    return " ".join(re.sub("-{2,}", "--", _form(line)).split())
