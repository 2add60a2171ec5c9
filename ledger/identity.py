"""How an operation, an event and a request are recognised when they come again."""

import hashlib
from base64 import b32encode
from collections.abc import Mapping

import msgspec


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

    ``call`` is the verb and, where there is one, the path's id; ``fields`` are the body's fields that were given.
    """
    parts = [f"call:{_short(call)}"]
    parts += [f"{name}:{_short(fields[name])}" for name in sorted(fields) if fields[name] is not None]
    return " ".join(parts)


def differing_field(first: str, second: str) -> str:
    """The first field in which two unequal fingerprints differ; ``call`` when they were different calls."""
    left, right = (dict(part.split(":") for part in text.split(" ")) for text in (first, second))
    for name in ["call", *sorted((left.keys() | right.keys()) - {"call"})]:
        if left.get(name) != right.get(name):
            return name
    raise AssertionError("the fingerprints are equal")


def _short(value: object) -> str:
    """40 bits of a value: an accidental match is one in 10**12, and a contrived one fools only its author."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=5).hexdigest()
