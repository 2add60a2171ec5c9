"""Owns what the processes without HTTP have in common: being told to stop, pausing, and showing their figures."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from availability.settings import Settings

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_event() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set while the block lasts."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until ``stop``."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


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
