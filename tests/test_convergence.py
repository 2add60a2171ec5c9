"""P8: any order, duplication and batching of the same events, by HTTP and NATS, ends in the numbers of a small model.

A story is a set of events of one position and one way in which they arrive. Many stories, each with a SKU of its own,
go through the real edges into a real ledger at once. CONVERGENCE_EXAMPLES says how many; a failure names the story.
"""

import asyncio
import itertools
import os
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import nats
import pytest
from api_world import World, text_of
from books import assert_books_balance
from feeding import NOW_MS, MemoryQuarantine, MemoryStatus
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis import Redis
from servers import as_owner
from waiting import wait_until

from availability.feeds.consumer import Feed
from availability.feeds.metrics import FeedMetrics
from availability.feeds.stream import STREAM
from ledger import Ledger, Location, PutLocation, Read, ReadItem, event_key

pytestmark = pytest.mark.long

EXAMPLES_IN_CI: Final = 2_000
EXAMPLES: Final = int(os.environ.get("CONVERGENCE_EXAMPLES", EXAMPLES_IN_CI))
SHRINK: Final = os.environ.get("CONVERGENCE_SHRINK", "no") == "yes"  # minutes, against a story that is short anyway
STORIES: Final = 20
"""Go together: a server's answer is waited for once for all of them."""
BUCKETS: Final = ("on_hand", "damaged", "quality_hold", "in_transit")
LED: Final = "LED"
"""A location whose on-hand only ``wms`` sets; ``OPEN`` believes every source."""
Event = dict[str, Any]


# --- the model ---------------------------------------------------------------------------------------------------


def expected(events: list[Event], bucket: str) -> int:
    """DESIGN 6: the newest snapshot (by time, sequence, id) and all deltas that happened after it.

    What is retracted never happened, a move is a pair of deltas, and others than the authority set no on-hand.
    """
    said = [e for e in events if e["location"] != LED or e["source"] == "wms" or not sets_on_hand(e)]
    never = {(e["source"], e.get("reverses")) for e in said}
    said = [e for e in said if "reverses" not in e and (e["source"], e["id"]) not in never]
    counts = [e for e in said if e["kind"] == "snapshot" and e["bucket"] == bucket]
    base = max(counts, key=age, default={"quantity": 0, "occurred_at": ""})
    later = [e for e in said if e["kind"] != "snapshot" and e["occurred_at"] > base["occurred_at"]]
    given_here = sum(e["quantity"] * (-1 if e["kind"] == "move" else 1) for e in later if e["bucket"] == bucket)
    number: int = base["quantity"] + given_here + sum(e["quantity"] for e in later if e.get("to_bucket") == bucket)
    return number


def sets_on_hand(event: Event) -> bool:
    return bool(event["kind"] == "snapshot" and event["bucket"] == "on_hand")


def age(count: Event) -> tuple[str, int, str, str]:
    """The key, last, tells apart two sources that use the same id."""
    return count["occurred_at"], count.get("sequence", -1), count["id"], event_key(count["source"], count["id"])


# --- stories -----------------------------------------------------------------------------------------------------


@dataclass
class Story:
    """Events of one position, and the batches in which they arrive, some of them more than once."""

    location: str
    events: list[Event]
    batches: list[list[int]]
    form: str

    def arriving(self, sku: str) -> list[list[Event]]:
        """The batches, as events of this SKU."""
        return [[self.events[index] | {"sku": sku} for index in batch] for batch in self.batches]


KINDS = st.sampled_from([*["snapshot"] * 4, *["delta"] * 3, "move", "retraction"])
PLACES = st.sampled_from([*["on_hand"] * 5, "damaged", "quality_hold", "in_transit"])
NAMES = [(source, name) for source in ("wms", "erp", "pos") for name in "abc"]
REPEATED = ("kind", "quantity", "bucket", "to_bucket")
FORMS = st.sampled_from(["list", "alone", "structured", "binary", "base64"])


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Few sources, ids, times and sequences, so that events tie, overtake and retract each other."""
    location = draw(st.sampled_from(["OPEN", "OPEN", LED]))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=9, unique=True))
    events = {name: draw(events_of(location, *name)) for name in names}
    for (source, name), event in events.items():
        if event["kind"] == "retraction":
            target = draw(st.sampled_from([other for other in "abcd" if other != name]))
            # A retraction repeats what it retracts, if that can be repeated.
            account: Event = events.get((source, target), {"kind": "retraction"})
            if account["kind"] == "retraction":
                account = {"kind": "delta", "quantity": 1, "bucket": "on_hand"}
            event.update({field: account[field] for field in REPEATED if field in account}, reverses=target)
    order = draw(st.permutations([*range(len(events)), *draw(st.lists(st.integers(0, len(events) - 1), max_size=4))]))
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1), max_size=5)))
    batches = [order[start:end] for start, end in itertools.pairwise([0, *cuts, len(order)])]
    return Story(location, list(events.values()), batches, draw(FORMS))


@st.composite
def events_of(draw: st.DrawFn, location: str, source: str, name: str) -> Event:
    kind, bucket = draw(KINDS), draw(PLACES)
    event: Event = {"id": name, "source": source, "kind": kind, "location": location, "bucket": bucket}
    event["quantity"] = draw(st.integers(-9, 9) if kind == "delta" else st.integers(0, 30))
    event["occurred_at"] = text_of(NOW_MS + draw(st.integers(0, 3)))
    if kind == "move":
        event["to_bucket"] = draw(st.sampled_from([other for other in BUCKETS if other != bucket]))
    sequence = draw(st.sampled_from([None, None, 0, 1]))
    return event if sequence is None else event | {"sequence": sequence}


def reached(story: Story) -> Iterator[str]:
    """What makes the story hard, so that the test can tell that it tried it."""
    order = [index for batch in story.batches for index in batch]
    counts = [event for event in story.events if event["kind"] == "snapshot" and "reverses" not in event]
    ties = Counter((count["bucket"], count["occurred_at"]) for count in counts)
    namesakes = Counter((count["bucket"], *age(count)[:3]) for count in counts)
    if len(order) > len(story.events):
        yield "a redelivery"
    if max(ties.values(), default=0) > 1:
        yield "two counts of one time"
    if max(namesakes.values(), default=0) > 1:
        yield "two counts of one time, sequence and id"
    for first, second in itertools.combinations(order, 2):
        before, after = story.events[first], story.events[second]
        if "reverses" in before and (before["source"], before["reverses"]) == (after["source"], after["id"]):
            yield "a retraction before its event"
        if "reverses" in after and (after["source"], after["reverses"]) == (before["source"], before["id"]):
            yield f"a {before['kind']} is retracted"
        if (
            after["kind"] == "snapshot"
            and before["kind"] != "snapshot"
            and before["occurred_at"] > after["occurred_at"]
        ):
            yield "a count after a later delta"


# --- the ways in -------------------------------------------------------------------------------------------------

Send = Callable[[list[tuple[Story, str]]], Coroutine[Any, Any, None]]


@asynccontextmanager
async def over_http(ledger: Ledger) -> AsyncIterator[Send]:
    """One request for each batch of a story, or for the batches of all stories."""
    world = World(ledger)

    async def post(events: list[Event]) -> None:
        answer = await world.call("POST", "/v1/stock-events", {"events": events})
        assert answer.status_code == 200, answer.text
        told = {(result["outcome"], result.get("reason")) for result in answer.json()["results"]}
        fine = {(outcome, None) for outcome in ("applied", "superseded", "duplicate")}
        assert told <= fine | {("quarantined", "not-authoritative")}

    async def send(tales: list[tuple[Story, str]]) -> None:
        for turn in itertools.zip_longest(*(story.arriving(sku) for story, sku in tales), fillvalue=[]):
            alone = [batch for (story, _), batch in zip(tales, turn, strict=True) if batch and story.form == "alone"]
            rest = [batch for (story, _), batch in zip(tales, turn, strict=True) if batch and story.form != "alone"]
            together = [event for batch in rest for event in batch]
            await asyncio.gather(*(post(batch) for batch in (*alone, together) if batch))

    yield send


@asynccontextmanager
async def over_nats(ledger: Ledger, url: str) -> AsyncIterator[Send]:
    """Lists, single events and CloudEvents on the stream, through the consumer of the process ``ingest``."""
    quarantine, registry = MemoryQuarantine(), CollectorRegistry()
    feed = Feed(url, ledger, quarantine, MemoryStatus(), FeedMetrics(registry))
    work = asyncio.create_task(feed.run())
    publisher = await nats.connect(url)
    streams = publisher.jetstream()

    async def connected() -> bool:
        return registry.get_sample_value("availability_feed_connected") == 1

    async def is_empty() -> bool:
        return (await streams.stream_info(STREAM)).state.messages == 0

    async def send(tales: list[tuple[Story, str]]) -> None:
        sent = [message for story, sku in tales for message in messages_of(story, sku)]
        for source, body, headers in sent[:-1]:
            await publisher.publish(f"stock.{source}.x", body, headers=headers)
        # The stream has them in the order in which they were sent: with the last one it has all.
        source, body, headers = sent[-1]
        await streams.publish(f"stock.{source}.x", body, headers=headers)
        await wait_until(is_empty)
        assert set(quarantine.reasons) <= {"not-authoritative"}

    await wait_until(connected)
    yield send
    feed.stop()
    await work
    await publisher.close()


def messages_of(story: Story, sku: str) -> Iterator[tuple[str, bytes, dict[str, str] | None]]:
    """Source, body and headers of each message; one carries events of one source only."""
    for batch in story.arriving(sku):
        if story.form != "list":
            yield from ((event["source"], *enveloped(event, story.form)) for event in batch)
            continue
        for source, run in itertools.groupby(batch, key=lambda event: event["source"]):
            yield source, msgspec.json.encode(list(run)), None


def enveloped(event: Event, form: str) -> tuple[bytes, dict[str, str] | None]:
    """Body and headers: the bare event, or a CloudEvent that says for it what it leaves out."""
    if form == "alone":
        return msgspec.json.encode(event), None
    outside = {"id": "id", "source": "source", "occurred_at": "time", "sequence": "sequence"}
    told = {outside[field]: event[field] for field in outside if field in event} | {"specversion": "1.0", "type": "t"}
    data = {field: value for field, value in event.items() if field not in outside}
    if form == "binary":
        return msgspec.json.encode(data), {f"ce-{name}": str(value) for name, value in told.items()}
    if form == "base64":
        told["data_base64"] = b64encode(msgspec.json.encode(data)).decode()
        return msgspec.json.encode(told), None
    return msgspec.json.encode(told | {"data": data}), None


# --- the tests ---------------------------------------------------------------------------------------------------


def converges(valkey_url: str, open_way: Callable[[Ledger], Any], *, shards: int) -> None:
    """Send half of the examples this way; each ends in the model's numbers, and the books balance (P6).

    In CI they are the same ones each time, so that what they reach is no luck.
    """
    numbers, tried = itertools.count(), Counter[str]()

    with asyncio.Runner() as runner:
        ways = AsyncExitStack()
        ledger = Ledger(valkey_url, shards=shards)

        async def open_all() -> Send:
            await ledger.put_location(PutLocation("tests", Location("OPEN")))
            await ledger.put_location(PutLocation("tests", Location(LED, authority="wms")))
            send: Send = await ways.enter_async_context(open_way(ledger))
            return send

        async def close_all() -> None:
            await ways.aclose()
            await ledger.close()

        async def check(send: Send, told: list[Story]) -> None:
            tales = [(story, f"SKU-{next(numbers)}") for story in told]
            await send(tales)
            found = await ledger.read(Read([ReadItem(sku, [story.location]) for story, sku in tales]))
            for (story, sku), item in zip(tales, found.items, strict=True):
                actual = {b: sum(getattr(at.position, b) for at in item.positions) for b in BUCKETS}
                assert actual == {b: expected(story.events, b) for b in BUCKETS}, f"{sku}: {story}"

        send = runner.run(open_all())

        @settings(
            max_examples=EXAMPLES // 2 // STORIES,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if SHRINK else [])],
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(told=st.lists(stories(), min_size=STORIES, max_size=STORIES))
        def all_converge(told: list[Story]) -> None:
            tried.update(hard for story in told for hard in set(reached(story)))
            runner.run(check(send, told))

        try:
            (seed(shards)(all_converge) if EXAMPLES == EXAMPLES_IN_CI else all_converge)()
        finally:
            runner.run(close_all())
    assert next(numbers) >= EXAMPLES // 2
    rare = {hard for hard in HARD if tried[hard] < EXAMPLES // 400}
    assert not rare, f"hardly tried: {rare} of {tried}"
    with Redis.from_url(as_owner(valkey_url)) as client:
        for shard in range(shards):
            assert_books_balance(client, shard)


HARD: Final = {
    "a redelivery",
    "two counts of one time",
    "two counts of one time, sequence and id",
    "a retraction before its event",
    "a snapshot is retracted",
    "a delta is retracted",
    "a count after a later delta",
}


def test_any_way_of_the_same_events_over_http_ends_in_the_same_numbers(valkey_url: str) -> None:
    """P8."""
    converges(valkey_url, over_http, shards=1)


def test_any_way_of_the_same_events_over_nats_ends_in_the_same_numbers(valkey_url: str, nats_url: str) -> None:
    """P8."""
    converges(valkey_url, lambda ledger: over_nats(ledger, nats_url), shards=4)
