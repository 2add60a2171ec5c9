"""The process ``serve``: puts the API together, serves it, and watches what it stands on until it is told to stop."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, Protocol

from availability.api.edge import Door, Edge, Searches, clock_ms
from availability.api.gate import TICK_S, Gate
from availability.api.keyring import keep_fresh
from availability.api.limits import RateLimits
from availability.api.service import service
from availability.api.tokens import Keys, Tokens
from availability.feeds.intake import Keeps
from availability.http_server import http_server
from availability.journal_report import stopped
from availability.journal_watch import watched_ledger
from availability.processes import stopped_by_signals
from availability.self_check import SelfCheck, self_checked
from availability.settings import Rate, Settings
from availability.telemetry import Telemetry
from ledger import JOURNAL_FAILED, FeedStatus, Journal, Ledger, Quarantine, Reservations, State, Status

WATCH_S: Final = 1.0
COLLECTED_EVERY_OBJECTS: Final = 20_000
STOP_S: Final = 5.0
"""After this long a request that was under way is given up; its outcome is then unknown to its client."""

log = logging.getLogger(__name__)


class Stated(Door, Protocol):
    """A ledger that says whether it may promise, and how much waits for it."""

    @property
    def ready(self) -> bool: ...

    def state(self) -> State: ...
    def queue_wait_s(self) -> float: ...
    def refused(self) -> dict[str, int]: ...


class Api:
    """The application with its parts, as far as a process or a test handles them."""

    def __init__(
        self,
        settings: Settings,
        ledger: Stated,
        quarantine: Keeps,
        reservations: Searches,
        *,
        telemetry: Telemetry | None = None,
        checked: SelfCheck | None = None,
        now_ms: Callable[[], int] = clock_ms,
    ) -> None:
        self.stopping = False
        self.warnings: list[str] = []
        """What somebody must mend although it is ready: reads, commits and releases go on with a stopped journal."""
        self._backlog_entries_max = settings.journal_backlog_entries_max
        self.telemetry = telemetry or Telemetry()
        self.tokens = Tokens(Keys(), settings.token_issuer, settings.token_audience, lambda: now_ms() / 1_000)
        self.gate = Gate(settings.overload_wait_ms)
        limits = RateLimits(
            ledger.admit,
            Rate(settings.client_requests_per_second, settings.client_requests_burst),
            settings.client_rates,
        )
        self._ledger = ledger
        self._checked = checked
        self.edge = Edge(
            ledger,
            quarantine,
            reservations,
            low_stock=settings.low_stock,
            stale_after_ms=settings.stale_after_ms,
            ready=self.ready,
            reasons=self.reasons,
            warnings=lambda: self.warnings,
            metrics=self.telemetry.page,
            jwks=lambda: self.tokens.keys.document,
            limits=limits,
            now_ms=now_ms,
        )
        if checked is not None:
            self.telemetry.checks(checked.counted)
        self.telemetry.queue(lambda: ledger.state().queue_depth, ledger.queue_wait_s)
        self.telemetry.shed(lambda: {**self.gate.refused(), **limits.refused(), **ledger.refused()})
        for name, lane in self.gate.lanes.items():
            self.telemetry.lane(name, partial(getattr, lane, "under_way"), partial(getattr, lane, "limit"))
        self.telemetry.loop_lag(self.gate.lag_s)
        self.asgi = service(self.edge, self.tokens, self.gate, self.telemetry)

    def ready(self) -> bool:
        """Whether there are no ``reasons``, told cheaply."""
        safe = self._checked is None or not self._checked.flaws
        return self._ledger.ready and self.tokens.keys.loaded and safe and not self.stopping

    def heard_of(self, status: Status) -> None:
        """Take over how the journal does."""
        self.telemetry.status(status, clock_ms())
        self.warnings = [str(finding) for finding in stopped(status.shards, self._backlog_entries_max)]

    def reasons(self) -> list[str]:
        """Why it is not ready; empty when it is."""
        reasons = list(self._ledger.state().reasons)
        if self._checked is not None:
            reasons += self._checked.flaws
        if not self.tokens.keys.loaded:
            reasons.append("the issuer's keys are not loaded yet")
        if self.stopping:
            reasons.append("the process is stopping")
        return reasons


async def run(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT: not ready at once, then what is under way is answered, then all is closed.

    It listens at once. The servers need not be there yet, and may go away at any time: ``/health/ready`` tells.
    """
    telemetry = Telemetry()
    async with (
        self_checked(settings) as checked,
        watched_ledger(settings, telemetry.ledger_call, checked) as ledger,
        _journal(settings) as (journal, feeds, quarantine, reservations),
    ):
        api = Api(settings, ledger, quarantine, reservations, telemetry=telemetry, checked=checked)
        async with asyncio.TaskGroup() as tasks:
            watchers = [
                tasks.create_task(keep_fresh(api.tokens, settings.jwks_file, settings.jwks_url, settings.jwks_ca_file)),
                tasks.create_task(_watch_ledger(ledger)),
                tasks.create_task(_watch_journal(api, journal, feeds)),
                tasks.create_task(_watch_gate(api.gate)),
            ]
            _collect_seldom()
            await _serve(api, settings.api_host, settings.api_port)
            for watcher in watchers:
                watcher.cancel()


@asynccontextmanager
async def _journal(settings: Settings) -> AsyncIterator[tuple[Journal, FeedStatus, Quarantine, Reservations]]:
    journal = await Journal.open(settings.postgres_url)
    feeds = await FeedStatus.open(settings.postgres_url)
    quarantine = await Quarantine.open(settings.postgres_url)
    reservations = await Reservations.open(settings.postgres_url, shards=settings.shards)
    try:
        yield journal, feeds, quarantine, reservations
    finally:
        await reservations.close()
        await quarantine.close()
        await feeds.close()
        await journal.close()


async def _watch_ledger(ledger: Ledger) -> None:
    """Ask now and then, so that readiness is of now even when nobody calls."""
    while True:
        await ledger.check()
        await asyncio.sleep(WATCH_S)


async def _watch_gate(gate: Gate) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        gate.tick()


async def _watch_journal(api: Api, journal: Journal, feeds: FeedStatus) -> None:
    """Show how the journal, the feeds and the quarantine do, and note which sources the API heard."""
    reachable = True
    while True:
        heard = api.edge.take_heard()
        try:
            if heard:
                now_ms = clock_ms()
                await feeds.heard([(source, newest_ms, now_ms) for source, newest_ms in heard.items()])
            status = await journal.status()
        except JOURNAL_FAILED as error:
            api.edge.heard(heard)
            if reachable:
                log.warning("the journal's database cannot be asked: %s", type(error).__name__)
            reachable = False
        else:
            reachable = True
            api.heard_of(status)
        await asyncio.sleep(WATCH_S)


def _collect_seldom() -> None:
    """Look for cycles where few requests pay for it: what serves is never garbage, and answers make no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_EVERY_OBJECTS, 20, 20)


async def _serve(api: Api, host: str, port: int) -> None:
    """Serve until a signal; several processes can share the port (SO_REUSEPORT). Raises when the server just ends."""
    server = http_server(api.asgi, host, port)
    asked = asyncio.Event()
    end_server: Callable[[], None] = server.stop

    def stop() -> None:
        api.stopping = True
        asked.set()
        end_server()

    with stopped_by_signals(stop):
        serving = asyncio.create_task(server.serve())
        log.info("serving on %s:%d", host, port)
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not asked.is_set():
            await serving
            raise RuntimeError("the HTTP server ended by itself")
        with suppress(TimeoutError):
            await asyncio.wait_for(serving, STOP_S)
