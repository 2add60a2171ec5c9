"""Owns what is told of a run: a row a fault, the rare states that were reached, and what was found."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from chaos.checks import Finding
from chaos.history import History

COUNTED: Final = ("acknowledged", "refused", "unknown", "lost", "doubled", "oversold", "other")
HEADINGS: Final = (
    *("fault", "times", "met", "acknowledged", "unknown", "lost", "doubled", "oversold", "other findings"),
    *("writes again: median, max", "all ready: median, max"),
)


@dataclass
class Row:
    """What is told of one fault: how often, what happened until the next one, how long until it worked again."""

    counts: Counter[str] = field(default_factory=Counter)
    write_again_s: list[float] = field(default_factory=list)
    ready_again_s: list[float] = field(default_factory=list)


class Table:
    """Grows window by window."""

    def __init__(self, seed: int, command: str) -> None:
        self.runs = [f"seed {seed}: {command}"]
        self.rows: dict[str, Row] = {}
        self.sometimes = Counter[str]()
        self.findings: list[Finding] = []
        self.twins: dict[str, Counter[str]] = {}

    def add(self, history: History, findings: list[Finding]) -> None:
        """A window that was judged."""
        for injection in history.injections:
            row = self._row(injection.fault)
            row.counts["times"] += 1
            row.counts["met"] += injection.met
            row.counts["in flight"] += injection.in_flight
            self.sometimes["writes under way at a fault"] += injection.in_flight
            if injection.write_again_s is not None:
                row.write_again_s.append(injection.write_again_s)
            if injection.ready_again_s is not None:
                row.ready_again_s.append(injection.ready_again_s)
        for operation in history.operations:
            if not operation.is_write:
                continue
            row = self._row(history.fault_before(operation.sent_s))
            row.counts["operations"] += 1
            row.counts["acknowledged"] += operation.acknowledged is not None
            row.counts["unknown"] += any(attempt.verdict == "unknown" for attempt in operation.attempts)
        for finding in findings:
            row = self._row("" if finding.at_s is None else history.fault_before(finding.at_s))
            row.counts[finding.check if finding.check in ("lost", "doubled", "oversold") else "other"] += 1
        self.sometimes.update(history.sometimes)
        self.findings.extend(findings)

    def add_twin(self, name: str, findings: list[Finding]) -> None:
        """A run with a guard taken away, and what was found: nothing is a failure."""
        self.twins[name] = Counter(finding.check for finding in findings)

    def merge(self, told: Any) -> None:
        """Another run's report, from before."""
        for name, other in told["faults"].items():
            row = self._row(name)
            row.counts.update(other["counts"])
            row.write_again_s.extend(other["write_again_s"])
            row.ready_again_s.extend(other["ready_again_s"])
        self.sometimes.update(told["sometimes"])
        self.runs = [*told["runs"], *self.runs]
        for name, found in told["twins"].items():
            self.twins.setdefault(name, Counter()).update(found)
        self.findings.extend(Finding(*finding) for finding in told["findings"])

    def _row(self, fault: str) -> Row:
        return self.rows.setdefault(fault or NO_FAULT, Row())

    # --- telling ------------------------------------------------------------------------------------------------

    def markdown(self) -> str:
        """The table, the rare states, the findings."""
        lines = [f"| {' | '.join(HEADINGS)} |", f"|---{'|---:' * (len(HEADINGS) - 1)}|"]
        total = Row()
        for name in sorted(self.rows):
            row = self.rows[name]
            lines.append(_line(name, row))
            total.counts.update(row.counts)
            total.write_again_s += row.write_again_s
            total.ready_again_s += row.ready_again_s
        lines.append(_line("**all**", total))
        lines += ["", *(f"- {run}" for run in self.runs), "", "Rare states that were reached:", ""]
        lines += [f"- {name}: {count:,}" for name, count in sorted(self.sometimes.items())]
        for name, found in self.twins.items():
            told = ", ".join(f"{check} {count}" for check, count in found.items())
            lines += ["", f"{name}, with a guard taken away: {told or 'NOTHING WAS FOUND'}"]
        if self.findings:
            lines += ["", "Findings:", "", *(f"- {finding}" for finding in self.findings)]
        return "\n".join(lines) + "\n"

    def json(self) -> bytes:
        """The same for programs; times in seconds."""
        faults = {
            name: {
                "counts": dict(row.counts),
                "write_again_s": [round(s, 3) for s in row.write_again_s],
                "ready_again_s": [round(s, 3) for s in row.ready_again_s],
            }
            for name, row in sorted(self.rows.items())
        }
        told: dict[str, object] = {"runs": self.runs, "faults": faults}
        told |= {"sometimes": dict(sorted(self.sometimes.items())), "twins": self.twins, "findings": self.findings}
        return msgspec.json.format(msgspec.json.encode(told)) + b"\n"

    def write(self, file: Path) -> None:
        """``file``.md and ``file``.json."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".md").write_text(self.markdown())
        file.with_suffix(".json").write_bytes(self.json())


NO_FAULT: Final = "(before the first)"


def _line(name: str, row: Row) -> str:
    counts = row.counts
    words = ("times", "met", "acknowledged", "unknown", "lost", "doubled", "oversold", "other")
    figures = [f"{counts[word]:,}" for word in words]
    return f"| {' | '.join([name, *figures, _times(row.write_again_s), _times(row.ready_again_s)])} |"


def _times(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s, {max(seconds):.2f} s" if seconds else ""
