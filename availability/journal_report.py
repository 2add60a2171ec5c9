"""Owns what is said of a journal that has stopped, where an operator looks: in ``doctor`` and ``/health/ready``."""

from collections.abc import Iterable

from ledger import JOURNAL_FAILED, Finding, Journal, ShardStatus

REMEDY = "`availability conflicts` shows what came and what the journal has, and how to settle it"


def stopped(shards: Iterable[ShardStatus], backlog_entries_max: int) -> list[Finding]:
    """Of each shard whose journal has stopped at a conflict. ``stops`` is never set: the ledger goes on, see P9."""
    return [
        Finding(
            "unsafe",
            f"the journal of shard {shard.shard}",
            f"has stopped at entry {shard.stopped_at}, where the ledger contradicts it;"
            f" {_consequence(shard.backlog_entries, backlog_entries_max)}: {REMEDY}",
        )
        for shard in shards
        if shard.stopped_at is not None
    ]


def _consequence(backlog_entries: int, backlog_entries_max: int) -> str:
    if backlog_entries >= backlog_entries_max:
        return f"{backlog_entries:,} entries wait, and new holds and stock are refused"
    return f"{backlog_entries:,} entries wait, and from {backlog_entries_max:,} on new holds and stock are refused"


async def journal_said(postgres_url: str, backlog_entries_max: int) -> list[Finding]:
    """The same, asked now; nothing where Postgres cannot be asked, which others tell."""
    if not postgres_url:
        return []
    journal = await Journal.open(postgres_url)
    try:
        return stopped(await journal.shards(), backlog_entries_max)
    except JOURNAL_FAILED:
        return []
    finally:
        await journal.close()
