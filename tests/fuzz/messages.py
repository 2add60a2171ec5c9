"""Owns what must hold for any message of a feed: each event of it ends in the ledger or in quarantine.

The judge reads the message with Python's own ``json``, so that an event which our decoders lose is missed here.
"""

import asyncio
import json
import random
import re
from base64 import b64decode
from pathlib import Path
from typing import Final

from feeding import NOW_MS, MemoryQuarantine, OneShop, an_event, encoded

from availability.feeds.intake import Message, RawEvent, take_all
from availability.feeds.messages import events_in
from ledger import QuarantinedEvent

SUBJECT: Final = "stock.wms.dc-1"
MESSAGES_A_SHOP: Final = 500
"""Then a new one, or what it remembers of all events would be what uses the memory."""

_ENVELOPE: Final = {"specversion": "1.0", "id": "ce-1", "source": "wms", "type": "stock.counted"}
_BINARY: Final = {f"ce-{name}": value for name, value in _ENVELOPE.items()}
_BETWEEN: Final = re.compile(rb"[ \t\r\n,\[\]]*\Z")

HARD: Final = (
    b"[" * 3_000,
    b'{"a":' * 3_000,
    b"9" * 5_000,
    b"-1e999999",
    b"\x00",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xfe",
    b"\xc0\x80",
    b"\xef\xbb\xbf",
    b'"specversion":"1.0",',
    b"9007199254740993",
    b'"9999-12-31T23:59:60Z"',
    b"NaN",
)
"""What a decoder may stumble on, to be put anywhere."""


def headers_of(choice: int, text: str) -> dict[str, str] | None:
    """One of the ways in which a message tells what it is; ``text`` is in its values where it can be."""
    return (
        None,
        {"Content-Type": "application/json"},
        {"Content-Type": "application/cloudevents+json"},
        {"Content-Type": "application/cloudevents-batch+json"},
        dict(_BINARY),
        {**_BINARY, "ce-id": text, "ce-time": "2025-06-01T00:00:00Z"},
        {**_BINARY, "ce-sequence": text},
        {"CE-SpecVersion": text, "ce-data": text, "content-type": text},
    )[choice % 8]


def corpus() -> list[bytes]:
    """Good messages in each form that there is, and two that are others' business (``corpus/``)."""
    move = an_event(
        kind="move", bucket="damaged", to_bucket="on_hand", sequence=7, reference={"reservation": "r", "line": 2}
    )
    ours = [
        encoded(an_event()),
        encoded(move),
        encoded([an_event(id=f"e-{number}", kind="delta", quantity=-number) for number in range(4)]),
        encoded({**_ENVELOPE, "time": "2025-06-01T00:00:00Z", "sequence": "0007", "data": an_event(id=None)}),
        encoded({**_ENVELOPE, "data": [an_event(), move]}),
        encoded({**_ENVELOPE, "data_base64": "e30="}),
        encoded({**_ENVELOPE, "data_base64": "e30=!"}),
        encoded([{**_ENVELOPE, "data": {"appinfoB": 123}}, {**_ENVELOPE, "id": "ce-2", "data": {}}]),
        b"[]",
    ]
    return ours + [path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").iterdir())]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds, changed in a few places."""
    body = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, len(body))
        until = min(len(body), at + chance.randint(0, 12))
        other = chance.choice(seeds)
        body[at:until] = chance.choice(
            (
                b"",
                bytes([chance.randrange(256)]),
                bytes(body[at:until]) * 2,
                chance.choice(HARD),
                other,
                other[: len(other) // 2],
            )
        )
    return bytes(body)


class Judge:
    """Gives messages to the real intake, with the plain rules behind it, and asserts that nothing is lost."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._shop, self._judged = OneShop(), 0

    def judge(self, body: bytes, headers: dict[str, str] | None) -> int:
        """How many events it has. Raises whatever the intake raises, and AssertionError when an event is lost."""
        if self._judged % MESSAGES_A_SHOP == 0:
            self._shop = self._runner.run(OneShop().open())
        self._judged += 1
        quarantine = MemoryQuarantine()
        events = events_in(Message(body, headers), SUBJECT, NOW_MS)
        _assert_all_of_it(body, headers, events)
        taken = self._runner.run(take_all(self._shop, quarantine, "fuzz", events, "nats", now_ms=NOW_MS))
        assert len(taken.results) == len(events), "an event without a result"
        waiting = [event for event, result in zip(events, taken.results, strict=True) if result.waits]
        assert len(quarantine.events) == len(waiting), "an event that is refused and not kept"
        for event, kept in zip(waiting, quarantine.events, strict=True):
            assert kept.raw == (bytes(event.raw) if event.message is None else body), "kept, but not as it came"
            _assert_storable(kept)
        return len(events)


def _assert_all_of_it(body: bytes, headers: dict[str, str] | None, events: list[RawEvent]) -> None:
    if len(events) == 1 and events[0].message is not None and bytes(events[0].raw) == body:
        return
    try:
        carried = _carried(body, headers)
    except (ValueError, RecursionError):
        assert events, "a message became nothing"
        return
    expected = len(carried) if isinstance(carried, list) else 1
    refused = [event for event in events if event.refused is not None]
    assert len(events) == expected or (len(refused) == 1 == len(events)), "not as many events as the message has"
    for event in refused:
        assert bytes(event.raw) == body, "refused, but not kept whole"
    if len(events) > 1 and body.lstrip().startswith(b"["):
        _assert_only_separators(body, events)


def _assert_only_separators(body: bytes, events: list[RawEvent]) -> None:
    """What is left of a list without its events."""
    at = 0
    for event in events:
        found = body.index(bytes(event.raw), at)
        assert _BETWEEN.match(body[at:found]), "bytes between two events belong to none"
        at = found + len(event.raw)
    assert _BETWEEN.match(body[at:]), "bytes behind the last event belong to none"


def _carried(body: bytes, headers: dict[str, str] | None) -> object:
    """The data of the message as Python's own ``json`` reads it; ValueError or RecursionError when it does not."""
    value = _parsed(body)
    is_binary = any(name.lower() == "ce-specversion" for name in headers or {})
    if is_binary or not isinstance(value, dict) or "specversion" not in value:
        return value
    return _parsed(b64decode(value["data_base64"])) if value.get("data_base64") else value.get("data")


def _parsed(body: bytes) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(constant)

    return json.loads(body.decode("utf-8"), parse_constant=refuse, parse_int=str, parse_float=str)


def _assert_storable(kept: QuarantinedEvent) -> None:
    """Postgres takes no NUL and no half of a surrogate pair in a text."""
    for text in (kept.source, kept.event, kept.reason, kept.detail, kept.subject, kept.envelope):
        assert text is None or "\0" not in text, "a NUL in a text"
        assert text is None or text.encode("utf-8") is not None
