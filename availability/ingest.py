"""The process ``ingest``: stock events from NATS into the ledger, until it is told to stop."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from availability.feeds.consumer import Feed
from availability.feeds.metrics import FeedMetrics
from availability.settings import Settings
from ledger import FeedStatus, Ledger, Quarantine


async def run(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT: the batch under way is applied and acknowledged first.

    The servers need not be there yet, and may go away at any time: events wait in the stream meanwhile.
    """
    registry = CollectorRegistry()
    quarantine = await Quarantine.open(settings.postgres_url)
    status = await FeedStatus.open(settings.postgres_url)
    ledger = Ledger(
        settings.redis_url,
        operations_max=settings.batch_operations_max,
        queue_operations_max=settings.queue_operations_max,
        backlog_entries_max=settings.journal_backlog_entries_max,
        low_stock=settings.low_stock,
        timeout_ms=settings.ledger_timeout_ms,
    )
    feed = Feed(settings.nats_url, ledger, quarantine, status, FeedMetrics(registry))
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, feed.stop)
    try:
        with _shown(registry, settings):
            await feed.run()
    finally:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signal_number)
        await ledger.close()
        await status.close()
        await quarantine.close()


@contextmanager
def _shown(registry: CollectorRegistry, settings: Settings) -> Iterator[None]:
    """Serve /metrics meanwhile, if the settings name a port."""
    if settings.metrics_port == 0:
        yield
        return
    server, thread = start_http_server(settings.metrics_port, addr=settings.api_host, registry=registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
