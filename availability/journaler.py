"""The process ``journal``: the ledger's streams into Postgres, from there its events to NATS, and what is searched."""

import asyncio
import logging

from prometheus_client import CollectorRegistry, Counter, Gauge

from availability.checkpoint_command import Maker
from availability.events import Announcer
from availability.processes import figures_shown, pause, stop_event
from availability.self_check import self_checked
from availability.settings import Settings
from availability.telemetry import Checks
from ledger import JOURNAL_FAILED, Follower, Indexer, Observer, StreamStatus, Written, migrate

BACKOFF_FIRST_S, BACKOFF_LAST_S = 0.1, 5.0

logger = logging.getLogger(__name__)


class JournalMetrics:
    """The figures of the process; made once, each with the shard as its label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"availability_journal_{name}", text, ["shard"], registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"availability_journal_{name}", text, ["shard"], registry=registry)

        self._entries = counter("entries", "Entries stored")
        self._movements = counter("movements", "Movements stored")
        self._rejects = counter("rejects", "Entries stored without their movements, because something in them is bad")
        self._conflicts = counter("conflicts", "Entries whose number the journal has with other content: an alarm")
        self._gaps = counter("gaps", "Places where entries are missing: an alarm")
        self._events = counter("events", "Events that NATS has acknowledged")
        self._backlog = gauge("backlog_entries", "Entries in the stream that the journal has not got")
        self._lag = gauge("lag_seconds", "Age of the oldest entry that the journal has not got")
        self._stopped = gauge("stopped", "1 while a conflict is not settled, and nothing is journaled: an alarm")
        self._behind = gauge("ledger_behind", "1 when the ledger has lost entries that the journal has: an alarm")

    def written(self, shard: int, written: Written) -> None:
        label = str(shard)
        self._entries.labels(label).inc(written.entries)
        self._movements.labels(label).inc(written.movements)
        self._rejects.labels(label).inc(written.rejects)
        self._conflicts.labels(label).inc(written.conflicts)
        self._gaps.labels(label).inc(written.gaps)

    def status(self, shard: int, status: StreamStatus) -> None:
        label = str(shard)
        self._backlog.labels(label).set(status.backlog_entries)
        self._lag.labels(label).set(status.lag_ms / 1_000)
        self._behind.labels(label).set(status.ledger_behind)
        self._stopped.labels(label).set(status.is_stopped)

    def announced(self, shard: int, events: int) -> None:
        self._events.labels(str(shard)).inc(events)


async def run(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT: the batches under way are stored and acknowledged first.

    The servers need not be there yet, and may go away at any time: entries wait in the streams meanwhile.
    """
    registry = CollectorRegistry()
    with stop_event() as stop, figures_shown(registry, settings):
        async with self_checked(settings) as checked:  # it changes no ledger: what is unsafe is told, and journaled on
            registry.register(Checks(checked.counted))
            await _work(settings, registry, stop)


async def _work(settings: Settings, registry: CollectorRegistry, stop: asyncio.Event) -> None:
    if await _migrated(settings.postgres_url, stop):
        await _journal(settings, JournalMetrics(registry), stop)


async def _migrated(postgres_url: str, stop: asyncio.Event) -> bool:
    """Bring the schema up to date, as soon as Postgres is there; false when told to stop before that."""
    pause_s = BACKOFF_FIRST_S
    while not stop.is_set():
        try:
            applied = await migrate(postgres_url)
        except JOURNAL_FAILED as error:
            logger.warning("waiting for Postgres (%s: %s)", type(error).__name__, error)
        else:
            if applied:
                logger.info("the schema of the journal is new up to %s", applied[-1])
            return True
        await pause(stop, pause_s)
        pause_s = min(2 * pause_s, BACKOFF_LAST_S)
    return False


async def _journal(settings: Settings, metrics: JournalMetrics, stop: asyncio.Event) -> None:
    """Follow, announce and index every shard until ``stop``."""
    announcers = {
        shard: Announcer(
            settings.nats_url, settings.postgres_url, shard, settings.stale_after_ms, announced=metrics.announced
        )
        for shard in range(settings.shards)
    }

    indexers = {shard: Indexer(settings.postgres_url, shard) for shard in range(settings.shards)}

    def written(shard: int, batch: Written) -> None:
        metrics.written(shard, batch)
        announcers[shard].wake()
        indexers[shard].wake()

    observer = Observer(written, metrics.status)
    followers = [
        Follower(settings.redis_url, settings.postgres_url, shard, observer) for shard in range(settings.shards)
    ]
    workers: list[Follower | Announcer | Indexer | Maker] = [*followers, *announcers.values(), *indexers.values()]
    if settings.checkpoint_movements:
        workers.append(Maker(settings))
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run())
        await stop.wait()
        for worker in workers:
            worker.stop()
