"""Owns the checks after a replay: what the service's API, journal and events say, against the books and the answers.

The journal and the events are read with plain SQL and NATS, by no code of the service.
"""

from collections import Counter
from typing import NamedTuple

import asyncpg
import msgspec
import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from bench import journal
from bench.journal import Ends
from bench.replay import Replay
from bench.run import Check
from bench.target import Addresses

EVENTS_STREAM = "AVAILABILITY"
EVENTS_SUBJECT = "availability.reservation.*"
FETCH_EVENTS = 1_000
FETCH_TIMEOUT_S = 10.0
WORDS = {"hold": "held", "commit": "committed", "ship": "shipped", "release": "released", "expire": "expired"}
"""What an event calls that which the journal's verb did."""

_CHANGES = """
select verb, subject, count(distinct (epoch, shard, seq, operation_index)) as times
from availability.movement where client = $1 and verb = any($2) group by verb, subject
"""
_SHIPPED = """
select coalesce(sum(quantity), 0)::bigint from availability.movement
where client = $1 and from_bucket = 'committed' and to_bucket = 'shipped'
"""

Changes = Counter[tuple[str, str]]
"""How often each reservation was held, committed and so on."""


class Announced(NamedTuple):
    """The events of our client, and how many had an id that another had."""

    changes: Changes
    twice: int


async def first_event(addresses: Addresses) -> int:
    """The number that the next message on the stream of events will have."""
    client = await nats.connect(addresses.nats)
    try:
        return int((await client.jetstream().stream_info(EVENTS_STREAM)).state.last_seq) + 1
    except NotFoundError:
        return 1
    finally:
        await client.close()


async def check_all(replay: Replay, addresses: Addresses, client: str, events_from: int) -> list[Check]:
    """Every check; ``client`` made the reservations, and ``events_from`` is ``first_event`` before them."""
    connection = await asyncpg.connect(addresses.postgres)
    try:
        checks = [_check_lines(replay), _check_verdicts(replay), await _check_counts(replay, connection)]
        checks.append(await _check_on_hand(replay))
        ends = await journal.ends(addresses.redis, connection)
        checks += await _check_journal(replay, connection, client, ends)
        checks.append(await _check_events(replay, connection, client, ends, addresses.nats, events_from))
    finally:
        await connection.close()
    return checks


def _check_lines(replay: Replay) -> Check:
    tally = replay.tally
    ended = tally.lines["held"] + tally.lines["refused"] + tally.rejected.total()
    detail = f"{tally.lines_read:,} = {tally.lines['held']:,} + {tally.lines['refused']:,} + {tally.rejected.total():,}"
    return Check("each line read was held, refused or rejected", ended == tally.lines_read, detail)


def _check_verdicts(replay: Replay) -> Check:
    tally = replay.tally
    detail = f"{tally.reservations['asked']:,} reservations, {tally.faults_count:,} answered otherwise"
    return Check("each answer is what the books say", tally.faults_count == 0, detail)


async def _check_counts(replay: Replay, connection: asyncpg.Connection) -> Check:
    late = await replay.stores.wait_counted(replay.counted_at_ms)
    quarantined = await connection.fetchval(
        "select count(*) from availability.quarantine where source = $1", replay.stores.source
    )
    detail = f"{sum(replay.tally.counts.values()):,} counts; {len(late):,} positions without theirs, "
    return Check("each count arrived", not late and not quarantined, f"{detail}{quarantined:,} events quarantined")


async def _check_on_hand(replay: Replay) -> Check:
    """On hand is opening minus shipped, and no claim is left."""
    books = replay.books
    found = await replay.stores.read(list(books.opening))
    wrong = [
        place
        for place, item in found.items()
        if item["on_hand"] != books.left(place) or item["held"] or item["committed"] or item["picked"]
    ]
    there = sum(item["on_hand"] for item in found.values())
    units = f"{there:,} = {sum(books.opening.values()):,} - {books.sold.total():,}"
    first = f"; {wrong[0]}: {found[wrong[0]]}, the books say {books.left(wrong[0])}" if wrong else ""
    detail = f"{len(found):,} positions, {len(wrong):,} differ; units {units}{first}"
    return Check("on hand = opening counts - shipped, per position", not wrong, detail)


async def _check_journal(replay: Replay, connection: asyncpg.Connection, client: str, ends: Ends) -> list[Check]:
    caught_up = await journal.caught_up(connection, ends)  # before it is asked what it has
    whole, shipped = await journal.is_whole(connection), await connection.fetchval(_SHIPPED, client)
    return [
        Check("the journal has caught up with the ledger", *caught_up),
        Check("the journal has no gap and its chain holds", *whole),
        Check(
            "the journal's units shipped are the books' units sold",
            shipped == replay.books.sold.total(),
            f"{shipped:,} and {replay.books.sold.total():,}",
        ),
    ]


async def _check_events(
    replay: Replay, connection: asyncpg.Connection, client: str, ends: Ends, nats_url: str, events_from: int
) -> Check:
    """One event for each state change, of the same reservation: journal, answers and stream agree."""
    waited_s = await journal.until(lambda: journal.has_come_to(connection, journal.ANNOUNCED, ends))
    rows = await connection.fetch(_CHANGES, client, list(WORDS))
    journaled: Changes = Counter({(WORDS[row["verb"]], row["subject"]): row["times"] for row in rows})
    announced = await _announced(nats_url, client, events_from)
    answered = replay.tally.changes
    detail = (
        f"{announced.changes.total():,} events, {journaled.total():,} in the journal, {answered.total():,} answered, "
        f"{announced.twice:,} twice, {journal.after(waited_s)}"
    )
    passed = waited_s is not None and announced.twice == 0 and announced.changes == journaled == answered
    return Check("one event for each state change", passed, detail)


async def _announced(nats_url: str, client: str, events_from: int) -> Announced:
    """All events of reservations from that number on, which are this client's."""
    connection = await nats.connect(nats_url)
    try:
        return await _read_events(connection.jetstream(), client, events_from)
    finally:
        await connection.close()


async def _read_events(jetstream: JetStreamContext, client: str, events_from: int) -> Announced:
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=events_from
    )
    subscription = await jetstream.pull_subscribe(EVENTS_SUBJECT, stream=EVENTS_STREAM, config=config)
    pending = (await subscription.consumer_info()).num_pending or 0
    changes: Changes = Counter()
    identities: Counter[str] = Counter()
    while pending:
        for message in await subscription.fetch(FETCH_EVENTS, timeout=FETCH_TIMEOUT_S):
            pending = message.metadata.num_pending
            headers = message.headers or {}
            if msgspec.json.decode(message.data)["client"] == client:
                changes[message.subject.rpartition(".")[2], headers["ce-subject"]] += 1
                identities[headers["ce-id"]] += 1
    return Announced(changes, sum(times - 1 for times in identities.values()))
