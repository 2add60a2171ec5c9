"""The process ``ingest``: stock events from NATS into the ledger, until it is told to stop."""

from prometheus_client import CollectorRegistry

from availability.feeds.consumer import Feed
from availability.feeds.metrics import FeedMetrics
from availability.journal_watch import watched_ledger
from availability.processes import figures_shown, stopped_by_signals
from availability.settings import Settings
from ledger import FeedStatus, Quarantine


async def run(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT: the batch under way is applied and acknowledged first.

    The servers need not be there yet, and may go away at any time: events wait in the stream meanwhile.
    """
    registry = CollectorRegistry()
    quarantine = await Quarantine.open(settings.postgres_url)
    status = await FeedStatus.open(settings.postgres_url)
    try:
        async with watched_ledger(settings) as ledger:
            feed = Feed(settings.nats_url, ledger, quarantine, status, FeedMetrics(registry))
            with stopped_by_signals(feed.stop), figures_shown(registry, settings):
                await feed.run()
    finally:
        await status.close()
        await quarantine.close()
