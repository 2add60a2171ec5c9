"""Owns the audit that the process ``keeper`` makes all the time, within a few percent of one core.

It has a thread of its own, so that nothing of the keeper waits for it and the CPU time that it takes is known exactly:
after each small step it rests for as long as that step was worth.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry, Counter, Gauge

from availability.processes import pause
from availability.settings import Settings
from ledger import JOURNAL_FAILED, KINDS, LIVE_FAILED, MEANINGS, Audit, AuditStatus, NotAudited, Step

SHARE: Final = 0.04
"""Of one core. What is not measured, as the rest itself, stays below the hundredth that is missing to 5 %."""
ROUND_PAUSE_S: Final = 30.0
FOLLOW_S: Final = 2.0
"""Between two looks for what the journal has got."""
RETRY_S: Final = 5.0
AGAIN_ENTRIES: Final = 20_000
"""Entries that a round reads again, of each shard: a long journal does not keep the next round waiting."""
LOGGED_MAX: Final = 10

logger = logging.getLogger(__name__)


class AuditFigures:
    """What the keeper shows of its audit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._began_s = time.monotonic()
        self._completed_s: float | None = None
        self._differences = Gauge(
            "availability_audit_differences",
            "Differences that the last complete round found: an alarm",
            ["kind"],
            registry=registry,
        )
        for kind in KINDS:
            self._differences.labels(kind).set(0)
        self._rounds = Counter("availability_audit_rounds", "Complete rounds", registry=registry)
        self._cpu = Counter("availability_audit_cpu_seconds", "CPU time that the audit took", registry=registry)
        self._behind = Gauge(
            "availability_audit_behind_entries", "Entries of the ledger that the audit has not taken", registry=registry
        )
        age = Gauge(
            "availability_audit_round_age_seconds",
            "Since a round was complete, or since the start when none was",
            registry=registry,
        )
        age.set_function(self._age_s)

    def _age_s(self) -> float:
        return time.monotonic() - (self._began_s if self._completed_s is None else self._completed_s)

    def took(self, cpu_s: float, behind_entries: int) -> None:
        self._cpu.inc(cpu_s)
        self._behind.set(behind_entries)

    def completed(self, counts: dict[str, int]) -> None:
        self._rounds.inc()
        self._completed_s = time.monotonic()
        for kind in KINDS:
            self._differences.labels(kind).set(counts.get(kind, 0))


class Auditor:
    """``run`` fills a thread until ``stop``."""

    def __init__(self, settings: Settings, figures: AuditFigures, *, round_pause_s: float = ROUND_PAUSE_S) -> None:
        self._settings = settings
        self._figures = figures
        self._round_pause_s = round_pause_s
        self._loop = uvloop.new_event_loop()
        self._stop = asyncio.Event()
        self._measured = (0.0, 0.0)
        self._said: list[str] = []

    def stop(self) -> None:
        """From any thread; ``run`` returns after its step."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def run(self) -> None:
        """Audit round after round."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        settings = self._settings
        self._measured = time.thread_time(), time.monotonic()
        audit = await Audit.open(
            settings.redis_url, settings.postgres_url, settings.shards, again_entries_max=AGAIN_ENTRIES
        )
        status = await AuditStatus.open(settings.postgres_url)
        try:
            while not self._stop.is_set():
                await self._round(audit, status)
        finally:
            await audit.close()
            await status.close()

    async def _round(self, audit: Audit, status: AuditStatus) -> None:
        try:
            if not await self._step_by_step(audit, audit.round()):
                return
            counts: dict[str, int] = {kind: count for kind, count in audit.counts.items() if count}
            self._figures.completed(counts)
            self._say(audit)
            await status.tell(counts, audit.differences)
            until_s = time.monotonic() + self._round_pause_s
            while not self._stop.is_set() and time.monotonic() < until_s:
                await pause(self._stop, min(FOLLOW_S, until_s - time.monotonic()))
                await self._step_by_step(audit, audit.follow())
        except (NotAudited, *JOURNAL_FAILED, *LIVE_FAILED) as error:
            self._say_once([f"the ledger cannot be audited ({type(error).__name__}: {error})"])
            await self._rest(audit)
            await pause(self._stop, RETRY_S)

    async def _step_by_step(self, audit: Audit, steps: AsyncIterator[Step]) -> bool:
        """Rest after each; false when told to stop before the end."""
        async for _ in steps:
            await self._rest(audit)
            if self._stop.is_set():
                return False
        await self._rest(audit)
        return True

    async def _rest(self, audit: Audit) -> None:
        """As long as what was done since the last rest is worth. Time without work is not saved for later."""
        cpu_s, at_s = self._measured
        spent_s = time.thread_time() - cpu_s
        self._figures.took(spent_s, audit.behind_entries)
        await pause(self._stop, max(0.0, spent_s / SHARE - (time.monotonic() - at_s)))
        self._measured = cpu_s + spent_s, time.monotonic()

    def _say(self, audit: Audit) -> None:
        counts = audit.counts
        told = [
            f"{difference.kind}: {difference.subject} in shard {difference.shard} ({MEANINGS[difference.kind]})"
            for difference in audit.differences[:LOGGED_MAX]
        ]
        if told:
            told.append(f"the audit found {counts.total()} differences: run `availability audit`, which tells them all")
        self._say_once(told)

    def _say_once(self, texts: list[str]) -> None:
        """What was not said the last time, and that it is over."""
        for text in texts:
            if text not in self._said:
                logger.warning(text)
        if self._said and not texts:
            logger.warning("the audit finds no difference any more")
        self._said = texts
