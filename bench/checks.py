"""Owns the checks after a replay: what the service's API, journal and events say, against the books and the answers.

The journal and the events are read with plain SQL and NATS, by no code of the service.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import asyncpg
import msgspec
import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from redis.asyncio import Redis

from bench.replay import Replay
from bench.target import Addresses

CATCH_UP_S = 90.0
PAUSE_S = 0.05
EVENTS_STREAM = "AVAILABILITY"
EVENTS_SUBJECT = "availability.reservation.*"
FETCH_EVENTS = 1_000
FETCH_TIMEOUT_S = 10.0
WORDS = {"hold": "held", "commit": "committed", "ship": "shipped", "release": "released", "expire": "expired"}
"""What an event calls that which the journal's verb did."""

_CHAIN = """
with ordered as (
    select shard, epoch, seq, body, hash, lag(epoch) over w as epoch_before, lag(seq) over w as seq_before,
        coalesce(lag(hash) over w, decode(repeat('00', 32), 'hex')) as hash_before
    from availability.entry window w as (partition by shard order by epoch, seq)
)
select count(*) as entries,
    count(*) filter (where not case
        when epoch_before is null then seq = 1
        when epoch_before = epoch then seq = seq_before + 1
        else seq in (1, seq_before + 1)
    end) as gaps,
    count(*) filter (where hash <> sha256(hash_before || body)) as broken
from ordered
"""
_BEHIND = "select shard, epoch, seq from availability.cursor"
_ANNOUNCED = "select shard, epoch, seq from availability.outbox_cursor"
_CHANGES = """
select verb, subject, count(distinct (epoch, shard, seq, operation_index)) as times
from availability.movement where client = $1 and verb = any($2) group by verb, subject
"""
_SHIPPED = """
select coalesce(sum(quantity), 0)::bigint from availability.movement
where client = $1 and from_bucket = 'committed' and to_bucket = 'shipped'
"""

Ends = dict[int, tuple[int, int]]
"""For each shard, the epoch and seq of an entry."""
Changes = Counter[tuple[str, str]]
"""How often each reservation was held, committed and so on."""


class Check(NamedTuple):
    """A claim, whether it held, and the figures of both sides."""

    claim: str
    passed: bool
    detail: str


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
        ends = await _ends(addresses.redis, connection)
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
    waited_s = await _until(lambda: _has_come_to(connection, _BEHIND, ends))
    where = ", ".join(f"shard {shard} at {epoch}-{seq}" for shard, (epoch, seq) in sorted(ends.items()))
    (chain,) = await connection.fetch(_CHAIN)
    rejects = await connection.fetchval("select count(*) from availability.reject")
    shipped = await connection.fetchval(_SHIPPED, client)
    detail = f"{chain['entries']:,} entries, {chain['gaps']} gaps, {chain['broken']} broken links, {rejects} rejects"
    return [
        Check("the journal has caught up with the ledger", waited_s is not None, f"{where}, {_after(waited_s)}"),
        Check("the journal has no gap and its chain holds", not (chain["gaps"] or chain["broken"] or rejects), detail),
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
    waited_s = await _until(lambda: _has_come_to(connection, _ANNOUNCED, ends))
    rows = await connection.fetch(_CHANGES, client, list(WORDS))
    journaled: Changes = Counter({(WORDS[row["verb"]], row["subject"]): row["times"] for row in rows})
    announced = await _announced(nats_url, client, events_from)
    answered = replay.tally.changes
    detail = (
        f"{announced.changes.total():,} events, {journaled.total():,} in the journal, {answered.total():,} answered, "
        f"{announced.twice:,} twice, {_after(waited_s)}"
    )
    passed = waited_s is not None and announced.twice == 0 and announced.changes == journaled == answered
    return Check("one event for each state change", passed, detail)


async def _ends(redis_url: str, connection: asyncpg.Connection) -> Ends:
    """The last entry in the ledger of each shard that has a journal."""
    ends: Ends = {}
    async with Redis.from_url(redis_url) as redis:
        for row in await connection.fetch(_BEHIND):
            newest: Any = await redis.xrevrange(f"{{s{row['shard']}}}:journal", count=1)
            for identity, _fields in newest:
                epoch, _, seq = identity.decode().partition("-")
                ends[row["shard"]] = int(epoch), int(seq)
    return ends


async def _has_come_to(connection: asyncpg.Connection, query: str, ends: Ends) -> bool:
    rows = await connection.fetch(query)
    found = {row["shard"]: (row["epoch"], row["seq"]) for row in rows}
    return bool(ends) and all(found.get(shard, (0, 0)) >= end for shard, end in ends.items())


async def _until(condition: Callable[[], Awaitable[bool]]) -> float | None:
    """How long it took in seconds until it was so; None when it is not, after ``CATCH_UP_S``."""
    began_at = time.monotonic()
    while not await condition():
        if time.monotonic() > began_at + CATCH_UP_S:
            return None
        await asyncio.sleep(PAUSE_S)
    return time.monotonic() - began_at


def _after(waited_s: float | None) -> str:
    return f"not within {CATCH_UP_S:.0f} s" if waited_s is None else f"after {waited_s:.1f} s"


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
