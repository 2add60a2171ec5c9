"""Pulls messages from a JetStream consumer: a client that no message can stop, and the protocol of pull requests.

The pull requests are written here, not left to nats-py's ``fetch``, because only these bound the bytes as well as the
messages, hear the server's heartbeats, and tell "nothing to do" from "the consumer is gone".
"""

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from availability.feeds.connecting import VerifyingClient

MESSAGES_MAX: Final = 500
"""In one batch, and in one pull request."""
BATCH_BYTES: Final = 262_144
"""A batch ends with the message that reaches this, so it can be longer by one message."""
HEARTBEAT_S: Final = 1.0
SILENCE_MAX_S: Final = 4.0
"""The server sends something at least every ``HEARTBEAT_S`` while a request is open; past this, something is broken."""
EXPIRES_S: Final = 30.0

_NANOSECONDS: Final = 1_000_000_000
_ENVELOPE_BYTES_MAX: Final = 65_536


class Broken(Exception):
    """No message will come any more by this connection, or from this consumer: start anew."""


class TolerantClient(VerifyingClient):
    """A client whose reading survives what nats-py 2.16 stops at, without a word to any callback.

    A server passes on header blocks without a line end and subjects that are no UTF-8; either ends nats-py's reading
    loop, and the message would end it again at each delivery.
    """

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (IndexError, UnicodeDecodeError):
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        readable = subject.decode("utf-8", "backslashreplace").encode()
        message: Msg = super()._build_message(sid, readable, reply, data, headers)
        return message


class Pulling:
    """One consumer's messages over one connection, at most one pull request open at a time.

    ``waiting`` are the messages that have arrived and are in no batch yet, those of an earlier connection first.
    """

    def __init__(self, client: Client, stream: str, consumer: str, waiting: deque[Msg]) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._waiting = waiting
        self._outstanding = 0
        self._heard_at = 0.0
        self._broken: str | None = None
        self._stopped = False
        self._something = asyncio.Event()

    async def open(self) -> None:
        """Start listening; messages come with the first ``batch``."""
        await self._client.subscribe(self._inbox, cb=self._hear)

    async def batch(self) -> list[Msg]:
        """The messages that are here, or the next ones; none at all after ``stop``. ``Broken``: see there."""
        while not self._stopped:
            if self._broken is not None:
                raise Broken(self._broken)
            if self._outstanding == 0:
                await self._ask()
            if self._waiting:
                return self._cut()
            self._something.clear()
            await self._wait()
        return []

    def stop(self) -> None:
        """No more batches."""
        self._stopped = True
        self._something.set()

    def fail(self, why: str) -> None:
        """No more messages: ``batch`` raises ``Broken`` from now on."""
        self._broken = why
        self._something.set()

    async def _ask(self) -> None:
        request = {
            "batch": MESSAGES_MAX,
            # A message that is longer than this would never come, and block all others.
            "max_bytes": self._client.max_payload + _ENVELOPE_BYTES_MAX,
            "expires": int(EXPIRES_S * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * _NANOSECONDS),
        }
        self._outstanding = MESSAGES_MAX
        self._heard_at = time.monotonic()
        await self._client.publish(self._subject, msgspec.json.encode(request), reply=self._inbox)

    async def _wait(self) -> None:
        """Until there is something to do, or the server has been silent for too long."""
        while not self._something.is_set():
            patience_s = self._heard_at + SILENCE_MAX_S - time.monotonic()
            if patience_s <= 0:
                raise Broken(f"not a word from the server for {SILENCE_MAX_S} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._something.wait()

    async def _hear(self, message: Msg) -> None:
        self._heard_at = time.monotonic()
        if message.reply.startswith("$JS.ACK."):
            self._waiting.append(message)
            self._outstanding = max(0, self._outstanding - 1)
            self._something.set()
            return
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        # 404 and 408 end a request in peace, and so do these conflicts; any other answer means that it never can work.
        if status in ("404", "408") or description in _PEACEFUL:
            self._outstanding = 0
            self._something.set()
        else:
            self.fail(f"the server answered {status} {description}".rstrip())

    def _cut(self) -> list[Msg]:
        messages: list[Msg] = []
        size = 0
        while self._waiting and len(messages) < MESSAGES_MAX and size < BATCH_BYTES:
            messages.append(self._waiting.popleft())
            size += len(messages[-1].data)
        return messages


_PEACEFUL: Final = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes", "Leadership Change"})
