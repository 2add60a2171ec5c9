"""Owns the question whether NATS still takes what it is sent.

After one failed write or fsync a stream refuses every message until NATS is started again, also when its disk is well
by then. Publishers get no answer; JetStream's own, and who reads the stream, show nothing. Only ``GET /healthz`` on the
monitoring port says so.
"""

import asyncio
import json
from typing import Final
from urllib.error import HTTPError
from urllib.request import urlopen

TIMEOUT_S: Final = 2.0


async def refusal_of(monitor_url: str) -> str | None:
    """Why NATS takes nothing more, in its words; None when it takes all. ``OSError`` when it cannot be asked."""
    return await asyncio.to_thread(_asked, f"{monitor_url.rstrip('/')}/healthz")


def _asked(url: str) -> str | None:
    try:
        with urlopen(url, timeout=TIMEOUT_S):  # noqa: S310 - its setting has to be an http address
            return None
    except HTTPError as error:
        with error:
            told = error.read()
        try:
            return str(json.loads(told)["error"])
        except (ValueError, KeyError, TypeError):
            return f"it answers {error.code}"
