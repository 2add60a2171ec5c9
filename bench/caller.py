"""Owns how the bench asks: until there is a verdict, the way that DESIGN 9 tells a client to.

503 and 429 mean not done: the same again after ``Retry-After``. 500, 504 and a lost answer mean unknown: an operation
that has a key is looked up under it, anything else repeats harmlessly.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from bench.http_client import HttpAnswer, HttpClient, Lost, NotSent

PATIENCE_S = 90.0
"""How long one operation is tried: longer than any part of ``up`` takes to be started again."""
PAUSE_S = 0.1
NOT_DONE, UNKNOWN, REFUSED = (429, 503), (500, 504), (401, 403)
JITTER = random.Random(0)  # noqa: S311 - spreads retries, and needs no secrets


class Stuck(Exception):
    """The service gave no verdict in the time it had."""


class Unexpected(Exception):
    """The service answered what the contract does not allow here."""


class Verdict(NamedTuple):
    """A definite answer: 2xx or a 4xx problem. ``body`` is the decoded JSON."""

    status: int
    body: dict[str, Any]

    @property
    def problem(self) -> str:
        """The problem's name, as in ``insufficient-stock``."""
        return str(self.body["type"]).removeprefix("/problems/")


@dataclass
class Caller:
    """Asks over HTTP, each request for up to ``patience_s``; ``tries`` counts what went on until the verdicts came."""

    http: HttpClient
    patience_s: float = PATIENCE_S
    tries: Counter[str] = field(default_factory=Counter)

    async def ask(self, method: str, path: str, form: object = None, key: str | None = None) -> Verdict:
        """The verdict on one request; ``Stuck`` when there is none."""
        body = b"" if form is None else msgspec.json.encode(form)
        give_up_at = time.monotonic() + self.patience_s
        while True:
            answer = await self._try(method, path, body, key)
            if answer.status not in (*NOT_DONE, *UNKNOWN):
                self.tries["replayed"] += "idempotency-replayed" in answer.headers
                return Verdict(answer.status, _told(f"{method} {path}", answer))
            if time.monotonic() > give_up_at:
                raise Stuck(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
            self.tries["not done, asked again" if answer.status in NOT_DONE else "unknown"] += 1
            await asyncio.sleep(_advised_s(answer))
            if answer.status in UNKNOWN and key is not None:
                found = await self.ask("GET", f"/v1/operations/{quote(key, safe='')}")
                if found.status == 200:
                    self.tries["unknown, and was done"] += 1
                    return Verdict(201 if found.body["operation"] == "hold" else 200, found.body["reservation"])

    async def _try(self, method: str, path: str, body: bytes, key: str | None) -> HttpAnswer:
        """The answer; one that did not come is given the status that means the same."""
        self.tries["requests"] += 1
        try:
            return await self.http.request(method, path, body, key)
        except NotSent as error:
            return HttpAnswer(503, {"retry-after": "0"}, str(error).encode())
        except Lost as error:
            return HttpAnswer(504, {"retry-after": "0"}, str(error).encode())


def expect(status: int, verdict: Verdict) -> None:
    """Pass, or ``Unexpected``."""
    if verdict.status == status:
        return
    if verdict.status in REFUSED:
        raise Unexpected(f"the service refuses the token: {verdict.body.get('detail', verdict.status)}")
    raise Unexpected(f"expected {status}, got {verdict.status} {str(verdict.body)[:500]}")


def _told(asked: str, answer: HttpAnswer) -> dict[str, Any]:
    """The JSON of an answer; ``Unexpected`` for anything else, which this service does not answer."""
    try:
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = answer.body[:100].decode(errors="replace")
        raise Unexpected(f"{asked}: what answers is not this service: {answer.status} {said}") from error


def _advised_s(answer: HttpAnswer) -> float:
    """How long to wait; not all of us come back at the same moment."""
    advice = answer.headers.get("retry-after", "")
    return (int(advice) if advice.isdigit() else 0) * JITTER.uniform(0.5, 1.0) + PAUSE_S * JITTER.uniform(0.5, 1.5)
