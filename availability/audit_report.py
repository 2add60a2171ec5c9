"""Owns what is said of the keeper's audit where an operator looks: in ``doctor``."""

from typing import Final

from ledger import JOURNAL_FAILED, AuditReport, AuditStatus, Finding

LATE_MS: Final = 3_600_000
"""A round of a million positions and reservations takes minutes; one that is older than this was not followed."""
SUBJECT: Final = "the audit"


async def audit_said(postgres_url: str) -> list[Finding]:
    """Of the last complete rounds; nothing where there was none, or Postgres cannot be asked (which others tell)."""
    if not postgres_url:
        return []
    status = await AuditStatus.open(postgres_url)
    try:
        report = await status.last()
    except JOURNAL_FAILED:
        return []
    finally:
        await status.close()
    return [] if report is None else _said(report)


def _said(report: AuditReport) -> list[Finding]:
    found = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
    if found:
        newest_ms = min(filter(None, (report.completed_ms_ago, report.claims_completed_ms_ago)), default=0)
        text = f"found {found}, {_ago(newest_ms)}: run `availability audit`, which tells what and what to do"
        return [Finding("unsafe", SUBJECT, text)]
    if report.completed_ms_ago is None or report.completed_ms_ago > LATE_MS:
        text = f"{_when(report.completed_ms_ago)}: see whether `availability keeper` runs, and what it says"
        return [Finding("unsafe", SUBJECT, text)]
    text = f"found no difference between the ledger's stock and its journal, {_ago(report.completed_ms_ago)}"
    return [Finding("ok", SUBJECT, text), _of_claims(report)]


def _of_claims(report: AuditReport) -> Finding:
    """Reservations may be further behind, while a sale is faster than they can be followed."""
    subject, claims = f"{SUBJECT} of reservations", report.claims
    behind = f"{claims.behind_entries:,} entries ({claims.behind_ms / 1_000:,.0f} s) behind the ledger"
    since_ms = report.claims_completed_ms_ago
    if since_ms is None or since_ms > LATE_MS:
        text = f"{_when(since_ms)}, and is {behind}: it goes on, and catches up when less is sold"
        return Finding("warning", subject, f"{text}; `availability audit` compares them now")
    left_out = f"; {claims.left_out:,} that changed meanwhile were left to the next round" if claims.left_out else ""
    return Finding("ok", subject, f"found no difference, {_ago(since_ms)}, {behind}{left_out}")


def _when(since_ms: int | None) -> str:
    return "was never complete" if since_ms is None else f"was complete {_ago(since_ms)}"


def _ago(since_ms: int) -> str:
    minutes = since_ms // 60_000
    return f"{minutes} minutes ago" if minutes else "less than a minute ago"
