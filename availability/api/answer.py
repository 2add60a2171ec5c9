"""What a handler gives back: status and bytes, ready to be sent."""

from typing import Final

import msgspec
from litestar.types import Send
from msgspec import Struct

JSON: Final = b"application/json"
PROBLEM_JSON: Final = b"application/problem+json"

_encode = msgspec.json.Encoder().encode

Headers = tuple[tuple[bytes, bytes], ...]
NO_HEADERS: Final[Headers] = ()


class Answer(Struct, frozen=True):
    """An answer; ``outcome`` is one word for the metrics: a problem's name, or what was done."""

    status: int
    body: bytes
    outcome: str
    content_type: bytes = JSON
    headers: Headers = ()


def ok(shape: object, outcome: str = "ok", status: int = 200, headers: Headers = ()) -> Answer:
    """``shape`` as JSON."""
    return Answer(status, _encode(shape), outcome, JSON, headers)


async def respond(send: Send, answer: Answer, told: Headers = NO_HEADERS) -> None:
    """Send the answer and the headers ``told`` besides. No cache may store it, or a reader take it for another type."""
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [
                (b"content-type", answer.content_type),
                (b"content-length", b"%d" % len(answer.body)),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
                *answer.headers,
                *told,
            ],
        }
    )
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
