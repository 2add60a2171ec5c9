"""Owns the audit that the process ``keeper`` makes all the time, within a few percent of one core.

It has a thread of its own, so that nothing of the keeper waits for it and the CPU time that it takes is known exactly:
after each small step it rests for as long as that step was worth.

Stock, claims and the journal itself have rounds of their own, which take turns. What stock needs of an entry is so
little that it follows any sale; claims need all of it, and may fall behind a fast one: then the figures and ``doctor``
tell how far.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry, Counter, Gauge

from availability.processes import pause
from availability.settings import Settings
from ledger import (
    JOURNAL_FAILED,
    KINDS,
    LIVE_FAILED,
    MEANINGS,
    SCOPES,
    Audit,
    AuditScope,
    AuditStatus,
    Behind,
    ClaimsStanding,
    NotAudited,
    Step,
)

SHARE: Final = 0.04
"""Of one core. What is not measured, as the rest itself, stays below the hundredth that is missing to 5 %."""
ROUND_PAUSE_S: Final = 30.0
FOLLOW_S: Final = 2.0
"""Between two looks for what the journal has got."""
RETRY_S: Final = 5.0
LOGGED_MAX: Final = 10

logger = logging.getLogger(__name__)


class AuditFigures:
    """What the keeper shows of its audit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        began_s = time.monotonic()
        self._completed_s: dict[AuditScope, float] = dict.fromkeys(SCOPES, began_s)
        self._differences = Gauge(
            "availability_audit_differences",
            "Differences that the last complete rounds found: an alarm",
            ["kind"],
            registry=registry,
        )
        for kind in KINDS:
            self._differences.labels(kind).set(0)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"availability_audit_{name}", text, ["scope"], registry=registry)

        self._rounds = Counter("availability_audit_rounds", "Complete rounds", ["scope"], registry=registry)
        self._cpu = Counter("availability_audit_cpu_seconds", "CPU time that the audit took", registry=registry)
        self._behind_entries = gauge("behind_entries", "Entries of the ledger that the audit has not taken")
        self._behind_s = gauge("behind_seconds", "How much older what it has taken is than the ledger's clock")
        age = gauge("round_age_seconds", "Since a round was complete, or since the start when none was")
        for scope in SCOPES:
            age.labels(scope).set_function(partial(self._age_s, scope))

    def _age_s(self, scope: AuditScope) -> float:
        return time.monotonic() - self._completed_s[scope]

    def took(self, scope: AuditScope, cpu_s: float, behind: Behind) -> None:
        self._cpu.inc(cpu_s)
        self._behind_entries.labels(scope).set(behind.entries)
        self._behind_s.labels(scope).set(behind.ms / 1_000)

    def completed(self, scope: AuditScope, counts: dict[str, int]) -> None:
        self._rounds.labels(scope).inc()
        self._completed_s[scope] = time.monotonic()
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
        self._free = asyncio.Condition()
        self._busy = False
        self._waiting: set[AuditScope] = set()
        self._spent_s: dict[AuditScope, float] = dict.fromkeys(SCOPES, 0.0)
        self._measured = (0.0, 0.0)
        self._said: dict[str, list[str]] = {}

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
        audit = await Audit.open(settings.redis_url, settings.postgres_url, settings.shards, scopes=SCOPES)
        status = await AuditStatus.open(settings.postgres_url)
        try:
            async with asyncio.TaskGroup() as tasks:
                for scope in SCOPES:
                    tasks.create_task(self._rounds(audit, status, scope))
        finally:
            await audit.close()
            await status.close()

    async def _rounds(self, audit: Audit, status: AuditStatus, scope: AuditScope) -> None:
        """Round after round of one scope; steps of several take turns."""
        while not self._stop.is_set():
            try:
                self._spent_s[scope] = 0.0
                if not await self._step_by_step(audit, scope, audit.round(scope)):
                    return
                self._say_once(scope, [])
                await self._ended(audit, status, scope)
                until_s = time.monotonic() + self._round_pause_s
                while not self._stop.is_set() and time.monotonic() < until_s:
                    await pause(self._stop, min(FOLLOW_S, until_s - time.monotonic()))
                    self._spent_s[scope] = 0.0
                    await self._step_by_step(audit, scope, audit.follow(scope))
            except (NotAudited, *JOURNAL_FAILED, *LIVE_FAILED) as error:
                self._say_once(scope, [f"its {scope} cannot be audited ({type(error).__name__}: {error})"])
                await pause(self._stop, RETRY_S)

    async def _ended(self, audit: Audit, status: AuditStatus, scope: AuditScope) -> None:
        counts: dict[str, int] = {kind: count for kind, count in audit.counts.items() if count}
        self._figures.completed(scope, counts)
        self._say(audit)
        standing = ClaimsStanding(*audit.behind("claims"), audit.left_out("claims"))
        await status.tell(counts, audit.differences, standing, scope)

    async def _step_by_step(self, audit: Audit, scope: AuditScope, steps: AsyncIterator[Step]) -> bool:
        """Rest after each; false when told to stop before the end."""
        going = True
        while going and not self._stop.is_set():
            async with self._turn(scope):
                try:
                    going = await anext(steps, None) is not None
                finally:
                    await self._rest(audit, scope)
        return not going

    @asynccontextmanager
    async def _turn(self, scope: AuditScope) -> AsyncIterator[None]:
        """One at a time: of those who wait, the one whose round has taken least so far."""
        async with self._free:
            self._waiting.add(scope)
            await self._free.wait_for(
                lambda: not self._busy and scope == min(self._waiting, key=self._spent_s.__getitem__)
            )
            self._waiting.remove(scope)
            self._busy = True
        try:
            yield
        finally:
            async with self._free:
                self._busy = False
                self._free.notify_all()

    async def _rest(self, audit: Audit, scope: AuditScope) -> None:
        """As long as what was done since the last rest is worth. Time without work is not saved for later."""
        cpu_s, at_s = self._measured
        spent_s = time.thread_time() - cpu_s
        self._spent_s[scope] += spent_s
        self._figures.took(scope, spent_s, audit.behind(scope))
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
        self._say_once("differences", told)

    def _say_once(self, topic: str, texts: list[str]) -> None:
        """What was not said of this the last time, and that it is over."""
        said = self._said.get(topic, [])
        for text in texts:
            if text not in said:
                logger.warning("the ledger and its journal: %s", text)
        if said and not texts:
            logger.warning("the ledger and its journal: the audit finds nothing wrong any more (%s)", topic)
        self._said[topic] = texts
