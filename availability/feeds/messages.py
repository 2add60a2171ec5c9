"""A message of the stream ``STOCK`` into the events that it carries, each with what its subject and envelope say."""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec
from nats.aio.msg import Msg

from availability.feeds.cloudevents import unpack
from availability.feeds.decoding import Undecodable
from availability.feeds.intake import Message, RawEvent
from ledger import Name

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_SUBJECT_LENGTH_MAX: Final = 256
_NANOSECONDS_A_MILLISECOND: Final = 1_000_000
_PARTS: Final = 9
_TIME_AT: Final = 7


def events_of(message: Msg) -> list[RawEvent]:
    """The events in order; a message that cannot be taken apart is one refused event with all of its bytes."""
    return events_in(Message(message.data, message.headers), message.subject, stored_at_ms(message))


def events_in(message: Message, subject: str, received_at_ms: int) -> list[RawEvent]:
    """``events_of`` a message that the stream got at that time on that subject."""
    shown = _CONTROLS.sub("?", subject)[:_SUBJECT_LENGTH_MAX]
    source = source_of(subject)
    if source is None:
        refusal = Undecodable("source-mismatch", "the subject names no source")
        return [RawEvent(message.body, None, shown, None, received_at_ms, refusal, message)]
    parts = unpack(message.body, message.headers)
    if isinstance(parts, Undecodable):
        return [RawEvent(message.body, None, shown, source, received_at_ms, parts, message)]
    whole = message if len(parts) == 1 else None
    return [RawEvent(part.raw, part.defaults, shown, source, received_at_ms, None, whole) for part in parts]


def stored_at_ms(message: Msg) -> int:
    """When the stream got the message."""
    return int(_delivery(message)[0]) // _NANOSECONDS_A_MILLISECOND


def waiting_behind(message: Msg) -> int:
    """How many messages the stream had left to give out after this one."""
    return int(_delivery(message)[1])


def _delivery(message: Msg) -> tuple[str, str]:
    """Time and messages left, from the address to which the message is acknowledged, in its older or its newer form.

    ``$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<left>``; the newer has two parts
    more in front of the stream, and may have one more at the end.
    """
    parts = message.reply.split(".")
    time_at = _TIME_AT if len(parts) == _PARTS else _TIME_AT + 2
    return parts[time_at], parts[time_at + 1]


@lru_cache(maxsize=4_096)
def source_of(subject: str) -> str | None:
    """The second part of ``stock.<source>.<anything>``; characters that a subject cannot have are percent-encoded."""
    try:
        name = unquote_to_bytes(subject.split(".")[1]).decode("utf-8")
        return msgspec.convert(name, Name)
    except (IndexError, UnicodeDecodeError, msgspec.ValidationError):
        return None
