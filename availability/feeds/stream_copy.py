"""Owns copies of whole streams: to two files while the server runs, and back to a server that has no such stream.

The server's own snapshot, consumers and what they have acknowledged included: what was taken is not given out again.
"""

from typing import Any, BinaryIO

import msgspec
import nats
from msgspec import Struct
from nats.aio.client import Client
from nats.errors import Error

CHUNK_BYTES = 128 << 10
TIMEOUT_S = 30.0
NO_SUCH_STREAM = 10_059


class StreamNotCopied(Exception):
    """NATS is away or refuses; the text says why."""


class _Refusal(Struct):
    err_code: int = 0
    description: str = ""


class _Answer(Struct):
    error: _Refusal | None = None
    config: dict[str, Any] = {}
    state: dict[str, Any] = {}
    deliver_subject: str = ""


async def copy_stream(url: str, name: str, about: BinaryIO, content: BinaryIO) -> bool:
    """Copy a stream; False when there is none. ``about`` gets its settings, ``content`` the server's own archive."""
    client = await _connected(url)
    try:
        inbox = client.new_inbox()
        chunks = await client.subscribe(inbox)
        wish = {"deliver_subject": inbox, "chunk_size": CHUNK_BYTES}
        answer = await _asked(client, f"$JS.API.STREAM.SNAPSHOT.{name}", msgspec.json.encode(wish))
        if answer.error is not None and answer.error.err_code == NO_SUCH_STREAM:
            return False
        _insist(name, answer)
        about.write(msgspec.json.encode({"config": answer.config, "state": answer.state}))
        while (message := await chunks.next_msg(TIMEOUT_S)).data:
            content.write(message.data)
            if message.reply:  # it waits before it sends more
                await message.respond(b"")
        if (status := (message.headers or {}).get("Status", "204")) != "204":
            raise StreamNotCopied(f"the copy of {name} broke off: {status}")
    except (Error, OSError, msgspec.DecodeError) as error:
        raise StreamNotCopied(f"the stream {name} cannot be copied ({type(error).__name__}: {error})") from error
    else:
        return True
    finally:
        await client.close()


async def put_back_stream(url: str, name: str, about: bytes, content: BinaryIO) -> None:
    """Make the stream that ``copy_stream`` copied."""
    client = await _connected(url)
    try:
        begun = await _asked(client, f"$JS.API.STREAM.RESTORE.{name}", about)
        _insist(name, begun)
        while chunk := content.read(CHUNK_BYTES):
            if (taken := await client.request(begun.deliver_subject, chunk, timeout=TIMEOUT_S)).data:
                _insist(name, msgspec.json.decode(taken.data, type=_Answer))
        _insist(name, await _asked(client, begun.deliver_subject, b""))
    except (Error, OSError, msgspec.DecodeError) as error:
        raise StreamNotCopied(f"the stream {name} cannot be put back ({type(error).__name__}: {error})") from error
    finally:
        await client.close()


async def _connected(url: str) -> Client:
    try:
        return await nats.connect(url, allow_reconnect=False, connect_timeout=2, error_cb=_quietly)
    except (Error, OSError) as error:
        raise StreamNotCopied(f"NATS cannot be used ({type(error).__name__}: {error})") from error


async def _asked(client: Client, subject: str, body: bytes) -> _Answer:
    return msgspec.json.decode((await client.request(subject, body, timeout=TIMEOUT_S)).data, type=_Answer)


def _insist(name: str, answer: _Answer) -> None:
    if answer.error is not None:
        raise StreamNotCopied(f"NATS refuses the copy of {name}: {answer.error.description}")


async def _quietly(_error: Exception) -> None:
    """What goes wrong is raised; nats-py's own way is a traceback on standard error."""
