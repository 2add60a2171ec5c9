"""Owns what is said of the keeper's audit where an operator looks: in ``doctor``."""

from typing import Final, Literal, NamedTuple

from ledger import JOURNAL_FAILED, AuditReport, AuditStatus

LATE_MS: Final = 3_600_000
"""A round of a million positions and reservations takes minutes; one that is older than this was not followed."""


class Said(NamedTuple):
    verdict: Literal["ok", "unsafe"]
    text: str


async def audit_said(postgres_url: str) -> Said | None:
    """Of the last complete round; None where there was none, or Postgres cannot be asked (which others tell)."""
    if not postgres_url:
        return None
    status = await AuditStatus.open(postgres_url)
    try:
        report = await status.last()
    except JOURNAL_FAILED:
        return None
    finally:
        await status.close()
    return None if report is None else _said(report)


def _said(report: AuditReport) -> Said:
    minutes = report.completed_ms_ago // 60_000
    ago = f"{minutes} minutes ago" if minutes else "less than a minute ago"
    if report.counts:
        told = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
        return Said("unsafe", f"found {told}, {ago}: run `availability audit`, which tells what and what to do")
    if report.completed_ms_ago > LATE_MS:
        return Said("unsafe", f"was complete {ago}: see whether `availability keeper` runs, and what it says")
    return Said("ok", f"found no difference between the ledger and its journal, {ago}")
