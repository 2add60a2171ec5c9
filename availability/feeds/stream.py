"""The stream ``STOCK`` and the consumer ``ingest`` as DESIGN 10 wants them, and what is unsafe about those found.

The stream is a work queue: an acknowledged message is gone. So ``discard: new`` refuses publishers only when that much
is really waiting, and a consumer that has to be made anew starts with what nobody has taken, not with all of history.
"""

from datetime import datetime
from typing import Final, NamedTuple

from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import BadRequestError, NotFoundError

from availability.feeds.connecting import connect

STREAM: Final = "STOCK"
SUBJECTS: Final = "stock.>"
DURABLE: Final = "ingest"
BACKLOG_BYTES_MAX: Final = 1 << 30
DUPLICATE_WINDOW_S: Final = 120
ACK_WAIT_S: Final = 5
"""After this long without a word from us, a message is given out again: what a dead ingest had in hand waits for it."""
UNACKNOWLEDGED_MAX: Final = 50_000


class Ensured(NamedTuple):
    """What is unsafe about the stream and the consumer, in words, and which consumer it is."""

    flaws: list[str]
    consumer_made_at: datetime | None


async def ensure(jetstream: JetStreamContext) -> Ensured:
    """Make the stream and the consumer if they are not there."""
    try:
        found = (await jetstream.stream_info(STREAM)).config
    except NotFoundError:
        found = (await jetstream.add_stream(WANTED)).config
    consumer = await _ensure_consumer(jetstream)
    return Ensured([*flaws_of_stock(found), *flaws_of_consumer(consumer.config)], consumer.created)


async def missing_streams(url: str, *names: str) -> list[str]:
    """Which of these streams are not there, in words; connects for this call only."""
    try:
        client = await connect(url, allow_reconnect=False, connect_timeout=2, error_cb=_quietly)
        try:
            return [f"the stream {name} is not there yet" for name in names if not await _exists(client, name)]
        finally:
            await client.close()
    except (Error, OSError) as error:
        return [f"NATS cannot be used: {type(error).__name__}"]


async def _quietly(_error: Exception) -> None:
    """What goes wrong is in the answer; nats-py's own way is a traceback on standard error."""


async def _exists(client: Client, name: str) -> bool:
    try:
        await client.jetstream().stream_info(name)
    except NotFoundError:
        return False
    return True


WANTED: Final = StreamConfig(
    name=STREAM,
    subjects=[SUBJECTS],
    storage=StorageType.FILE,
    retention=RetentionPolicy.WORK_QUEUE,
    discard=DiscardPolicy.NEW,
    max_bytes=BACKLOG_BYTES_MAX,
    duplicate_window=DUPLICATE_WINDOW_S,
    allow_atomic=True,  # many events, one fsync: for senders that do not make lists
)


async def _ensure_consumer(jetstream: JetStreamContext) -> ConsumerInfo:
    wanted = ConsumerConfig(
        durable_name=DURABLE,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        deliver_policy=DeliverPolicy.ALL,
        max_ack_pending=UNACKNOWLEDGED_MAX,
        max_deliver=-1,
    )
    try:
        consumer: ConsumerInfo = await jetstream.add_consumer(STREAM, wanted)
    except BadRequestError:  # there is one that cannot be changed into ours
        consumer = await jetstream.consumer_info(STREAM, DURABLE)
    return consumer


def flaws_of_stream(config: StreamConfig, wanted: StreamConfig) -> list[str]:
    """What of a stream's settings can lose events, or lets none in, and the remedy."""
    subjects, [subject] = config.subjects or [], wanted.subjects or []
    window_s = wanted.duplicate_window or 0
    flaws = {
        f"does not take {subject}: add it (nats stream edit --subjects)": subject not in subjects
        and ">" not in subjects,
        "is not kept in files: make it anew with --storage file": config.storage != StorageType.FILE,
        "drops unread events when it is full (discard is not new): nats stream edit --discard new": (
            config.discard != DiscardPolicy.NEW
        ),
        "takes events without acknowledging them: nats stream edit --ack": config.no_ack,
        f"knows a repeated event for less than {window_s:.0f} s: nats stream edit --dupe-window {window_s:.0f}s": (
            (config.duplicate_window or 0) < window_s
        ),
    }
    return [f"the stream {wanted.name} {flaw}" for flaw, is_so in flaws.items() if is_so]


def flaws_of_stock(config: StreamConfig) -> list[str]:
    """As ``flaws_of_stream``, of the stream that the stock events come by: nothing of it may go before it was taken."""
    flaws = {
        "drops unread events by age: nats stream edit --max-age 0": bool(config.max_age),
        "keeps acknowledged events until it is full and then takes none (retention is limits): make it anew with"
        " --retention work": config.retention == RetentionPolicy.LIMITS and (config.max_bytes or -1) > 0,
    }
    more = [f"the stream {STREAM} {flaw}" for flaw, is_so in flaws.items() if is_so]
    return flaws_of_stream(config, WANTED) + more


def flaws_of_consumer(config: ConsumerConfig) -> list[str]:
    """What of a consumer's settings can keep events from us."""
    flaws = {
        "does not wait for acknowledgements: delete it, and ingest makes it anew": config.ack_policy
        != AckPolicy.EXPLICIT,
        "gives up on events (max_deliver): nats consumer edit --max-deliver -1": (config.max_deliver or -1) > 0,
        "does not get all events: take its filter away": bool(config.filter_subject or config.filter_subjects),
    }
    return [f"the consumer {DURABLE} {flaw}" for flaw, is_so in flaws.items() if is_so]
