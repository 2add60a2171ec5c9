"""How an operation, an event and a request are recognised when they come again."""

import hashlib
from base64 import b32encode, b85encode
from collections.abc import Mapping

import msgspec

FIELDS = (
    *("call", "lines", "channel", "customer", "ttl_seconds", "mode", "strategy", "max_splits", "by", "near"),
    *("order_id", "reacquire", "disposition", "occurred_at", "line", "location", "as_of"),
)
"""What requests are told apart by. Fingerprints name a field by its place here: one is only ever added at the end."""
PART_LENGTH = 8
_LETTERS = {name: chr(ord("a") + place) for place, name in enumerate(FIELDS)}


def _digest(*parts: str) -> str:
    """24 letters and digits from 120 bits: no two of a client's keys will ever meet by chance."""
    joined = "\0".join(parts).encode()
    return b32encode(hashlib.blake2b(joined, digest_size=15).digest()).decode().lower()


def operation_id(client: str, key: str) -> str:
    """The id of the operation that ``client`` named ``key``; of a hold, also the reservation's id."""
    return _digest(client, key)


def event_key(source: str, event: str) -> str:
    """The key under which the ledger remembers a source's event."""
    return _digest(source, event)


def fingerprint(call: str, fields: Mapping[str, object]) -> str:
    """A short text that tells, field by field, whether two requests are the same.

    ``call`` is the verb and, where there is one, the path's id; ``fields`` are the body's fields that were given, of
    those in ``FIELDS``. Each takes eight characters, because every reservation keeps its fingerprint in memory.
    """
    parts = [_part("call", call)]
    parts += [_part(name, fields[name]) for name in FIELDS if fields.get(name) is not None]
    assert len(parts) == 1 + sum(value is not None for value in fields.values()), "a field that FIELDS does not name"
    return "".join(parts)


def differing_field(first: str, second: str) -> str:
    """The first field in which two unequal fingerprints differ; ``call`` when they were different calls."""
    left, right = (
        {text[start]: text[start + 1 : start + PART_LENGTH] for start in range(0, len(text), PART_LENGTH)}
        for text in (first, second)
    )
    for name, letter in _LETTERS.items():
        if left.get(letter) != right.get(letter):
            return name
    raise AssertionError("the fingerprints are equal")


def _part(name: str, value: object) -> str:
    """A letter for the field, and 40 bits of its value.

    An accidental match is one in 10**12, and a contrived one fools only its author.
    """
    return _LETTERS[name] + b85encode(hashlib.blake2b(msgspec.json.encode(value), digest_size=5).digest()).decode()
