"""Owns what the processes have in common: being told to stop, pausing, their ledger, and showing their figures."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from availability.settings import Settings
from ledger import Ledger

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at SIGTERM and SIGINT while the block lasts."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def stop_event() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set while the block lasts."""
    stop = asyncio.Event()
    with stopped_by_signals(stop.set):
        yield stop


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until ``stop``."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def ledger_of(
    settings: Settings, observe: Callable[[int, float], None], refusal: Callable[[int, str], str | None]
) -> Ledger:
    """The ledger that the settings name, not connected yet; ``observe`` and ``refusal`` as in ``Ledger``."""
    return Ledger(
        settings.redis_url,
        shards=settings.shards,
        operations_max=settings.batch_operations_max,
        queue_operations_max=settings.queue_operations_max,
        queue_wait_ms_max=settings.queue_wait_ms_max,
        backlog_entries_max=settings.journal_backlog_entries_max,
        low_stock=settings.low_stock,
        timeout_ms=settings.ledger_timeout_ms,
        client_open_reservations_max=settings.client_open_reservations_max,
        client_held_units_max=settings.client_held_units_max,
        observe=observe,
        refusal=refusal,
    )


@contextmanager
def figures_shown(registry: CollectorRegistry, settings: Settings) -> Iterator[None]:
    """Serve /metrics on ``metrics_port`` while the block lasts, if the settings name one."""
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
