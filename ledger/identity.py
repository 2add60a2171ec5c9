"""How an operation, an event and a request are recognised when they come again."""

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

FIELDS: Final = (
    *("call", "lines", "channel", "customer", "ttl_seconds", "mode", "strategy", "max_splits", "by", "near"),
    *("order_id", "reacquire", "disposition", "occurred_at", "line", "location", "as_of"),
)
"""What requests are told apart by. Fingerprints name a field by its place here: one is only ever added at the end."""
WHOLE: Final = "body"
"""What differs where no field is seen to differ, which is once in 65,536 times."""
_LETTERS: Final = {name: chr(ord("a") + place) for place, name in enumerate(FIELDS)}
_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_TEN_BITS: Final = [first + second for first in _BASE32 for second in _BASE32]

_encode = msgspec.json.Encoder().encode


def _digest(*parts: str) -> str:
    """24 letters and digits from 120 bits: no two of a client's keys will ever meet by chance."""
    bits = int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=15).digest())
    two, low, middle, high = _TEN_BITS, bits & 0xFFFFFFFFFF, bits >> 40 & 0xFFFFFFFFFF, bits >> 80
    # Base32 by ten bits at a time, written out: the library's takes longer than the digest.
    return (
        f"{two[high >> 30]}{two[high >> 20 & 1023]}{two[high >> 10 & 1023]}{two[high & 1023]}"
        f"{two[middle >> 30]}{two[middle >> 20 & 1023]}{two[middle >> 10 & 1023]}{two[middle & 1023]}"
        f"{two[low >> 30]}{two[low >> 20 & 1023]}{two[low >> 10 & 1023]}{two[low & 1023]}"
    )


def operation_id(client: str, key: str) -> str:
    """The id of the operation that ``client`` named ``key``; of a hold, also the reservation's id."""
    return _digest(client, key)


def event_key(source: str, event: str) -> str:
    """The key under which the ledger remembers a source's event."""
    return _digest(source, event)


def fingerprint(call: str, fields: Mapping[str, object]) -> str:
    """A short text that tells whether two requests are the same and, field by field, where they are not.

    ``call`` is the verb and, where there is one, the path's id; ``fields`` are the body's fields that were given, of
    those in ``FIELDS``; their order does not matter. 64 bits are of the whole request. An accidental match is one in
    10**19, and a contrived one fools only its author. 16 bits are of each field, only to name one that differs. It is
    short because every reservation keeps its fingerprint in memory.
    """
    letters, texts = "a", [call.encode()]
    for name, value in sorted(fields.items()):
        if value is not None:
            assert name in _LETTERS, f"FIELDS does not name {name}"
            letters += _LETTERS[name]
            texts.append(_encode(value))
    whole = b"\n".join((letters.encode(), *texts))
    digests = blake2b(whole, digest_size=8).digest()
    for text in texts:
        digests += (crc32(text) & 0xFFFF).to_bytes(2)
    return f"{letters}.{b2a_base64(digests, newline=False).decode().rstrip('=')}"


def differing_field(first: str, second: str) -> str:
    """The first field in which two unequal fingerprints differ; ``call`` when they were different calls."""
    assert first != second, "the fingerprints are equal"
    left, right = _fields(first), _fields(second)
    for name, letter in _LETTERS.items():
        if left.get(letter) != right.get(letter):
            return name
    return WHOLE


def _fields(told: str) -> dict[str, bytes]:
    """The digest of each field, by its letter."""
    letters, _, text = told.partition(".")
    digests = a2b_base64(text + "=" * (-len(text) % 4))[8:]
    return {letter: digests[2 * place : 2 * place + 2] for place, letter in enumerate(letters)}
