"""Owns ``availability quarantine``: stock events that could not be applied are looked at, tried again, or settled.

Each command prints what it found and answers its exit code: 0 = done, 1 = refused, or not all could be done;
``NotChecked`` means that the servers did not let it find out. What came from outside is shown with its control
characters escaped, so that no event can write to the operator's terminal.
"""

import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from availability.cli_running import NotChecked
from availability.feeds.decoding import Undecodable
from availability.feeds.gaps import GAP
from availability.feeds.intake import Envelope, Message, RawEvent, take_all
from availability.feeds.messages import events_in, source_of
from availability.journal_watch import compared_ledger
from availability.settings import Settings
from availability.shapes import time_text
from availability.terminal import printable, table
from ledger import JOURNAL_FAILED, Ledger, LedgerError, Quarantine, QuarantinedEvent, QuarantineRow

CLIENT: Final = "quarantine"
"""The author of what a replay changes; the event itself names its source."""
PAGE_ROWS: Final = 100
DETAIL_SHOWN: Final = 60
COLUMNS: Final = ("ID", "RECEIVED", "SOURCE", "EVENT", "REASON", "DETAIL")


async def list_open(settings: Settings, *, limit: int, before: int | None, as_json: bool) -> int:
    """A page of what waits, newest first; as JSON, an object a line."""
    async with _opened(settings) as quarantine:
        rows = await quarantine.newest(limit + 1, before)
        size = await quarantine.size()
    page = rows[:limit]
    if as_json:
        for row in page:
            click.echo(msgspec.json.encode(_told(row)))
        return 0
    if not page:
        click.echo("the quarantine is empty" if size == 0 else f"nothing before {before}; {size} wait")
        return 0
    for line in table([COLUMNS, *map(_cells, page)]):
        click.echo(line)
    if len(rows) > limit:
        click.echo(f"{size} wait; for the next page: --before {page[-1].id}")
    return 0


async def show(settings: Settings, event_id: int, *, raw_only: bool) -> int:
    """All that is known of an event; or its bytes, as they came, and nothing else."""
    async with _opened(settings) as quarantine:
        row = await quarantine.get(event_id)
    if row is None:
        return _no_such(event_id)
    if raw_only:
        click.echo(row.raw, nl=False)
        return 0
    fields = {name: value for name, value in _told(row).items() if not name.startswith("raw")}
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {printable(str(value or '-'))}")
    click.echo(f"\n{printable(row.raw.decode('utf-8', 'backslashreplace'))}")
    return 0


async def replay(settings: Settings, event_id: int | None) -> int:
    """Try one event again, or all that wait now; what is refused again stays, with the reason of this time."""
    async with _opened(settings) as quarantine:
        if event_id is not None:
            row = await quarantine.get(event_id)
            if row is None:
                return _no_such(event_id)
            if row.state != "open":
                return _settled(row)
            rows = [row]
        else:
            rows = await quarantine.newest(1)
            if not rows:
                click.echo("the quarantine is empty")
                return 0
        async with compared_ledger(settings) as (ledger, reason):
            if reason is not None:
                click.echo(reason, err=True)
                return 1
            if event_id is not None:
                outcomes = await _replay(ledger, quarantine, rows)
            else:
                outcomes = await _replay_until(ledger, quarantine, last=rows[0].id)
    click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return 1 if "quarantined" in outcomes else 0


async def discard(settings: Settings, event_id: int, *, agreed: Callable[[], bool]) -> int:
    """Settle an event without applying it, when ``agreed`` says so after it was shown."""
    async with _opened(settings) as quarantine:
        row = await quarantine.get(event_id)
        if row is None:
            return _no_such(event_id)
        if row.state != "open":
            return _settled(row)
        for line in table([COLUMNS, _cells(row)]):
            click.echo(line)
        if not agreed():
            click.echo("it stays")
            return 1
        if not await quarantine.discard(event_id):
            click.echo(f"{event_id} was settled by somebody else meanwhile", err=True)
            return 1
    click.echo(f"{event_id} is discarded; what came is kept")
    return 0


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Quarantine]:
    """The quarantine; failures of the servers become ``NotChecked``."""
    try:
        quarantine = await Quarantine.open(settings.postgres_url)
        try:
            yield quarantine
        finally:
            await quarantine.close()
    except LedgerError as error:
        raise NotChecked(f"the ledger: {error}") from error
    except JOURNAL_FAILED as error:
        raise NotChecked(f"Postgres: {str(error) or type(error).__name__}") from error


class _Refusals:
    """Takes what ``take_all`` would put into quarantine: it is there already, and only the reason may be new."""

    def __init__(self) -> None:
        self.events: list[QuarantinedEvent] = []

    async def store(self, events: list[QuarantinedEvent], /) -> None:
        self.events += events


async def _replay_until(ledger: Ledger, quarantine: Quarantine, *, last: int) -> Counter[str]:
    """All that is open up to the id ``last``: what a feed adds meanwhile waits for another time."""
    outcomes: Counter[str] = Counter()
    after = 0
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=await quarantine.size())
        while rows := [row for row in await quarantine.list(PAGE_ROWS, after) if row.id <= last]:
            outcomes += await _replay(ledger, quarantine, rows)
            progress.advance(task, len(rows))
            after = rows[-1].id
    return outcomes


async def _replay(ledger: Ledger, quarantine: Quarantine, rows: Sequence[QuarantineRow]) -> Counter[str]:
    """Apply the rows' events, settle the rows of which nothing is refused, and count the outcomes of the events."""
    parts = [_events_of(row) for row in rows]
    refusals = _Refusals()
    taken = await take_all(ledger, refusals, CLIENT, [event for events in parts for event in events], "nats")
    results, refused = iter(taken.results), iter(refusals.events)
    for row, events in zip(rows, parts, strict=True):
        again = [next(refused) for _ in events if next(results).waits]
        if not again:
            await quarantine.mark_replayed(row.id)
            continue
        await quarantine.still_refused(row.id, again[0].reason, again[0].detail)
        click.echo(f"{row.id} stays: {printable(': '.join(filter(None, (again[0].reason, again[0].detail))))}")
    seen = [result.outcome == "quarantined" and not result.waits for result in taken.results]
    return Counter("view" if is_view else result.outcome for result, is_view in zip(taken.results, seen, strict=True))


def _events_of(row: QuarantineRow) -> list[RawEvent]:
    """The row's bytes as the way in would have them: one event of several, or a whole message, to be taken apart.

    What never came cannot be tried again: it stays until somebody has its snapshot and discards it.
    """
    if row.reason == GAP:
        return [RawEvent(row.raw, refused=Undecodable(GAP, row.detail, None, row.source))]
    if row.transport == "http":
        return [RawEvent(row.raw)]
    envelope = msgspec.json.decode(row.envelope, type=Envelope) if row.envelope else Envelope()
    subject = row.subject or ""
    if envelope.told is None:
        return events_in(Message(row.raw, envelope.headers), subject, row.received_at_ms)
    return [RawEvent(row.raw, envelope.told, subject, source_of(subject), row.received_at_ms)]


def _told(row: QuarantineRow) -> dict[str, object]:
    """A row with times as texts, and its bytes as a text where they are one."""
    told: dict[str, object] = {
        "id": row.id,
        "state": row.state,
        "received_at": time_text(row.received_at_ms),
        "source": row.source,
        "event": row.event,
        "reason": row.reason,
        "detail": row.detail,
        "transport": row.transport,
        "subject": row.subject,
        "envelope": row.envelope,
        "owner": row.owner,
        "resolved_at": None if row.resolved_at_ms is None else time_text(row.resolved_at_ms),
    }
    try:
        return told | {"raw": row.raw.decode("utf-8")}
    except UnicodeDecodeError:
        return told | {"raw_base64": base64.b64encode(row.raw).decode("ascii")}


def _cells(row: QuarantineRow) -> tuple[str, ...]:
    detail = printable(row.detail)
    shown = detail if len(detail) <= DETAIL_SHOWN else f"{detail[: DETAIL_SHOWN - 1]}…"
    texts = (printable(text or "-") for text in (row.source, row.event, row.reason))
    return str(row.id), time_text(row.received_at_ms), *texts, shown


def _no_such(event_id: int) -> int:
    click.echo(f"there is no event {event_id} in the quarantine", err=True)
    return 1


def _settled(row: QuarantineRow) -> int:
    assert row.resolved_at_ms is not None
    click.echo(f"{row.id} was {row.state} at {time_text(row.resolved_at_ms)}", err=True)
    return 1
