"""What cannot be applied is kept raw until somebody has dealt with it; and when each source was heard."""

from collections.abc import AsyncIterator

import pytest
from servers import as_user

from availability import access
from ledger.journal import FeedStatus, Journal, Quarantine, QuarantinedEvent, SourceStatus, migrate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def quarantine(postgres_url: str) -> AsyncIterator[Quarantine]:
    await migrate(postgres_url)
    opened = await Quarantine.open(as_user(postgres_url, access.OPERATOR))
    yield opened
    await opened.close()


def event(number: int, raw: bytes = b"{}") -> QuarantinedEvent:
    return QuarantinedEvent("wms", f"e-{number}", "late", "older than the window", raw, "nats", "stock.wms.x", number)


async def test_event_is_kept_raw_until_resolved_once(quarantine: Quarantine) -> None:
    await quarantine.store([event(1), event(2, raw=b"\x00\xff"), event(3)])

    first, second, third = await quarantine.list()
    assert (second.raw, second.state, second.subject) == (b"\x00\xff", "open", "stock.wms.x")
    assert [third] == await quarantine.list(limit=10, after=second.id)
    assert [first] == await quarantine.list(limit=1)

    assert await quarantine.discard(first.id)
    assert await quarantine.mark_replayed(second.id)
    assert not await quarantine.mark_replayed(first.id)
    assert not await quarantine.discard(10**9)

    resolved = await quarantine.get(first.id)
    assert resolved is not None
    assert resolved.state == "discarded"
    assert resolved.resolved_at_ms is not None
    assert await quarantine.size() == 1
    assert None is await quarantine.get(10**9)


async def test_a_redelivered_event_waits_once(quarantine: Quarantine) -> None:
    await quarantine.store([event(1), event(1)])
    await quarantine.store([event(1), event(2)])
    first, _ = await quarantine.list()
    assert await quarantine.size() == 2

    await quarantine.discard(first.id)
    await quarantine.store([event(1)])
    assert await quarantine.size() == 2


async def test_texts_that_postgres_refuses_are_still_kept(quarantine: Quarantine) -> None:
    """A poison event's own words must not make it poison for the quarantine too."""
    await quarantine.store([QuarantinedEvent("w\0ms", "\ud800", "invalid", "a\0b", b"\0", "http", None, 1)])

    [row] = await quarantine.list()
    assert (row.source, row.event, row.detail, row.raw) == ("w\\0ms", "\\ud800", "a\\0b", b"\0")


async def test_sources_remember_the_newest(postgres_url: str, quarantine: Quarantine) -> None:
    await quarantine.store([event(1)])
    feeds = await FeedStatus.open(as_user(postgres_url, access.OPERATOR))
    await feeds.heard([("wms", 100, 1_000), ("erp", 50, 900)])
    await feeds.heard([("wms", 90, 1_100)])
    expected = [SourceStatus("erp", 50, 900), SourceStatus("wms", 100, 1_100)]
    assert expected == await feeds.all()
    await feeds.close()

    journal = await Journal.open(as_user(postgres_url, access.OPERATOR))
    status = await journal.status()
    await journal.close()
    assert (expected, 1, 0) == (status.sources, status.quarantine_open, status.rejects)
