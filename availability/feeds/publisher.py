"""Owns putting stock events onto the stream ``STOCK``: what the demo does, and a source could."""

from collections.abc import Sequence

import msgspec
from nats.errors import Error

from availability.feeds.connecting import connect

EVENTS_MAX = 1_000
"""Events in one message: it stays well below a server's usual limit of 1 MB."""


class NotPublished(Exception):
    """The stream did not acknowledge everything; publishing it again with the same ids is safe."""


async def publish(url: str, subject: str, events: Sequence[dict[str, object]]) -> None:
    """Publish the events as lists, each acknowledged by the stream; ``NotPublished`` when one was not.

    Connects for this call only, so that nothing has to be watched in between.
    """
    try:
        client = await connect(url, allow_reconnect=False, connect_timeout=2)
        try:
            for start in range(0, len(events), EVENTS_MAX):
                body = msgspec.json.encode(events[start : start + EVENTS_MAX])
                await client.jetstream().publish(subject, body, timeout=5)
        finally:
            await client.close()
    except (Error, OSError) as error:
        raise NotPublished(str(error) or type(error).__name__) from error
