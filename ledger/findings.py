"""What a look at a server found: for whoever must not promise anything on an unsafe one, and for ``doctor``."""

import os
import time
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Verdict = Literal["ok", "warning", "unsafe", "unchecked"]

HERE = ("localhost", "127.0.0.1", "::1")
"""Hosts whose disks are this machine's."""
NEAR_MS = 1_000
"""Clocks that differ by less are well kept."""


class Finding(NamedTuple):
    """One thing that was looked at; ``subject`` and ``text`` are a sentence together, with the remedy.

    ``unchecked`` means that it could not be looked at. ``stops``: nothing may be promised while it is so. ``away``: the
    server does not do its work, so that what was found before is all that is known of it.
    """

    verdict: Verdict
    subject: str
    text: str
    stops: bool = False
    away: bool = False

    def __str__(self) -> str:
        return f"{self.subject} {self.text}"


class CheckLimits(NamedTuple):
    """From where on a clock or a disk is not safe; see the settings of the same names."""

    clock_difference_ms_max: int = 5_000
    disk_warning_percent: int = 80
    disk_full_percent: int = 95


def unsafe(subject: str, text: str) -> Finding:
    """Something on which nothing may be promised."""
    return Finding("unsafe", subject, text, stops=True)


def no_answer(subject: str, error: BaseException) -> Finding:
    """The server is away, or refuses us."""
    return Finding("unchecked", subject, f"cannot be asked: {str(error) or type(error).__name__}", away=True)


def all_well(findings: list[Finding], subject: str, text: str) -> list[Finding]:
    """The findings, and where nothing is wrong among them, that this is so."""
    if any(finding.verdict in ("unsafe", "unchecked") for finding in findings):
        return findings
    return [Finding("ok", subject, text), *findings]


def clock_finding(subject: str, server_ms: int, ours_ms: int, limits: CheckLimits) -> Finding:
    """How far the server's clock is from this machine's; ``ours_ms`` is of when the server was asked."""
    difference_ms = server_ms - ours_ms
    difference = f"{abs(difference_ms) / 1_000:.3f} s {'ahead of' if difference_ms > 0 else 'behind'} this machine's"
    if abs(difference_ms) > limits.clock_difference_ms_max:
        remedy = (
            f"more than {limits.clock_difference_ms_max / 1_000:g} s: have both kept by NTP, and mend the wrong one"
        )
        return unsafe(f"{subject}'s clock", f"is {difference}, {remedy}")
    verdict: Verdict = "ok" if abs(difference_ms) < NEAR_MS else "warning"
    return Finding(verdict, f"{subject}'s clock", f"is {difference}")


def clock_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


def disk_findings(subject: str, url: str, folder: str | None, limits: CheckLimits) -> list[Finding]:
    """How full the disk of a server's data is, if it is one of this machine's; nothing if that cannot be told."""
    if folder is None or urlsplit(url).hostname not in HERE:
        return []
    try:
        disk = os.statvfs(folder)
    except OSError:
        return []  # another machine's behind a tunnel, or not for our eyes
    used = disk.f_blocks - disk.f_bfree
    percent = 100 * used / max(1, used + disk.f_bavail)
    text = f"is {percent:.0f} % full ({folder})"
    if percent >= limits.disk_full_percent:
        return [unsafe(f"{subject}'s disk", f"{text}: make room, or nothing can be promised")]
    if percent >= limits.disk_warning_percent:
        return [Finding("warning", f"{subject}'s disk", f"{text}: make room before it is full")]
    return [Finding("ok", f"{subject}'s disk", text)]
