"""Owns the checks of settings, servers, clocks and disks: one list, for ``doctor`` and for every process while it runs.

What may lose an acknowledged operation stops every change in the ledger, as its refusal (P9); what else is unsafe makes
the API not ready. A server that does not answer is left to whoever uses it: what was last found of it stays.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from availability.feeds.checks import check_nats
from availability.settings import Settings
from ledger import CheckLimits, Finding, check_postgres, check_shards, check_valkey

EVERY_S: Final = 10.0
AGAIN_S: Final = 1.0
"""While something is unsafe, or a server is away: so that what is mended, or came back otherwise, is seen soon."""
NOT_CHECKED: Final = "the settings of its servers were not checked yet"
TOLD: Final = ("unsafe", "unchecked")

log = logging.getLogger(__name__)


async def examine(settings: Settings) -> list[Finding]:
    """Everything about the servers that can be told from here, all at the same time; in seconds at most."""
    limits = CheckLimits(settings.clock_difference_ms_max, settings.disk_warning_percent, settings.disk_full_percent)
    checks = []
    if settings.redis_url:
        checks.append(check_valkey(settings.redis_url, limits))
        checks.append(check_shards(settings.redis_url, settings.shards))
    if settings.nats_url:
        checks.append(check_nats(settings.nats_url, settings.nats_monitor_url))
    if settings.postgres_url:
        checks.append(check_postgres(settings.postgres_url, limits))
    return [finding for findings in await asyncio.gather(*checks) for finding in findings]


def _tells(finding: Finding, server: str) -> bool:
    return finding.subject.startswith(server) and not finding.away


class SelfCheck:
    """What is known of the servers; ``look`` asks them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._findings: list[Finding] = []
        self._said: set[str] = set()
        self._away = False
        self._unseen = {
            server for server, url in (("Valkey", settings.redis_url), ("Postgres", settings.postgres_url)) if url
        }
        self.refusal: str | None = NOT_CHECKED
        """Why nothing may be changed."""
        self.flaws: list[str] = []
        """What else is unsafe."""

    async def look(self) -> None:
        """Ask the servers now, and say in the log what is new."""
        found = await examine(self._settings)
        away = tuple(finding.subject for finding in found if finding.away)
        self._away = bool(away)
        self._unseen -= {server for server in self._unseen for finding in found if _tells(finding, server)}
        kept = [finding for finding in self._findings if finding.verdict == "unsafe" and not finding.away]
        kept = [finding for finding in kept if finding.subject.startswith(away) and finding not in found]
        self._findings = [*kept, *found]
        stopping = [str(finding) for finding in self._findings if finding.stops]
        stopping += [f"{NOT_CHECKED} ({server})" for server in sorted(self._unseen)]
        self.refusal = "; ".join(stopping) if stopping else None
        flaws = [finding for finding in self._findings if finding.verdict == "unsafe" and not finding.stops]
        self.flaws = [str(finding) for finding in flaws if not finding.away]
        told = {f"{finding.verdict}: {finding}" for finding in self._findings if finding.verdict in TOLD}
        for text in sorted(told - self._said):
            log.error("%s", text)
        for text in sorted(self._said - told):
            log.info("no longer %s", text)
        self._said = told

    def counted(self) -> dict[str, int]:
        """Findings by verdict."""
        return dict(Counter(finding.verdict for finding in self._findings))

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            well = self.refusal is None and not self.flaws and not self._away
            await asyncio.sleep(EVERY_S if well else AGAIN_S)


@asynccontextmanager
async def self_checked(settings: Settings) -> AsyncIterator[SelfCheck]:
    """One that looks for as long as the block lasts."""
    checked = SelfCheck(settings)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(checked.watch())
        try:
            yield checked
        finally:
            watching.cancel()
