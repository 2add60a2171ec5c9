"""Pulls messages from a JetStream consumer: a client that no message can stop, and the protocol of pull requests.

The pull requests are written here, not left to nats-py's ``fetch``, because only these bound the bytes as well as the
messages, hear the server's heartbeats, and tell "nothing to do" from "the consumer is gone".
"""

import asyncio
import time
from collections import deque
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

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


class TolerantClient(Client):
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
    """One consumer's messages over one connection, at most one pull request open at a time."""

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._messages: deque[Msg] = deque()
        self._outstanding = 0
        self._heard_at = 0.0
        self._broken: str | None = None
        self._stopped = False
        self._something = asyncio.Event()

    async def open(self) -> None:
        """Start listening; messages come with the first ``batch``."""
        await self._client.subscribe(self._inbox, cb=self._hear)

    @property
    def waiting(self) -> list[Msg]:
        """Messages that have arrived and are in no batch yet."""
        return list(self._messages)

    async def batch(self) -> list[Msg]:
        """The messages that are here, or the next ones; none at all after ``stop``. ``Broken``: see there."""
        while not self._stopped:
            if self._broken is not None:
                raise Broken(self._broken)
            if self._outstanding == 0:
                await self._ask()
            if self._messages:
                return self._cut()
            self._something.clear()
            try:
                async with asyncio.timeout(self._heard_at + SILENCE_MAX_S - time.monotonic()):
                    await self._something.wait()
            except TimeoutError:
                raise Broken(f"not a word from the server for {SILENCE_MAX_S} s") from None
        return []

    def stop(self) -> None:
        """No more batches."""
        self._stopped = True
        self._something.set()

    def forget_request(self) -> None:
        """The connection is a new one, on which the server knows of no request of ours."""
        self._outstanding = 0
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

    async def _hear(self, message: Msg) -> None:
        self._heard_at = time.monotonic()
        if message.reply.startswith("$JS.ACK."):
            self._messages.append(message)
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
        while self._messages and len(messages) < MESSAGES_MAX and size < BATCH_BYTES:
            messages.append(self._messages.popleft())
            size += len(messages[-1].data)
        return messages


_PEACEFUL: Final = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes", "Leadership Change"})
