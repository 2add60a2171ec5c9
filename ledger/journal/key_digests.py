"""Owns what an audit remembers of the keys that no operation tells of: of each field 16 bytes, not what stands in it.

A window of 512 events takes 8 KB so. The digests are good for this process only.
"""

import struct
from collections.abc import Hashable, Mapping
from typing import Final, Protocol

import msgspec

from ledger.journal.fold import COUNT, COUNT_KEPT_MS, Fold
from ledger.keys import unescaped
from ledger.messages import KeyAfter

_FIELD: Final = struct.Struct("<qq")
_SIZE: Final = _FIELD.size
_NAME: Final = struct.Struct("<q")
_text = msgspec.msgpack.Decoder(str).decode
LOCATIONS: Final = "locations"


class Changed(Protocol):
    """What is wanted of an entry."""

    @property
    def at_ms(self) -> int: ...
    @property
    def keys(self) -> list[KeyAfter]: ...


class FieldsUnlike(msgspec.Struct, frozen=True):
    """How the fields of a live hash differ from those of the journal; ``lost`` ones are known by number only."""

    there: int
    known: int
    changed: list[str]
    unknown: list[str]
    lost: int


class KeyDigests:
    """Of one shard. Keys are named without the shard's tag, escaped as the server has them."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin with an empty ledger."""
        self.hashes: dict[str, bytearray] = {}
        self.counts: dict[str, tuple[int, int]] = {}
        """When each count was taken, and a digest of its fingerprint; in the order of time."""

    def take(self, entry: Changed) -> None:
        """Goes on by one entry."""
        for key in entry.keys:
            if key.key.startswith(COUNT):
                self._take_count(key.key, entry.at_ms, _text(key.fields[""]))
                continue
            for name, value in key.fields.items():
                self.put(key.key, name, bytes(value))
            if key.gone:
                self._remove(key.key, key.gone)

    def load(self, fold: Fold) -> None:
        """Begin with what was folded."""
        self.clear()
        for key, fields in fold.hashes.items():
            for name, value in fields.items():
                self.put(key, name, value)
        for key, (at_ms, fingerprint) in fold.counts.items():
            self._take_count(key, at_ms, fingerprint)

    def put(self, key: str, name: str, value: Hashable) -> None:
        """A field of a hash is ``value`` now."""
        digests = self.hashes.get(key)
        if digests is None:
            digests = self.hashes[key] = bytearray()
        field = _FIELD.pack(hash(name), hash(value))
        at = _find(digests, field[:8])
        if at < 0:
            digests += field
        else:
            digests[at : at + _SIZE] = field

    def _remove(self, key: str, names: list[str]) -> None:
        digests = self.hashes.get(key, bytearray())
        for name in names:
            at = _find(digests, _NAME.pack(hash(name)))
            if at >= 0:
                del digests[at : at + _SIZE]
        if not digests:
            self.hashes.pop(key, None)

    def _take_count(self, key: str, at_ms: int, fingerprint: str) -> None:
        self.counts.pop(key, None)
        self.counts[key] = at_ms, hash(fingerprint)
        while (oldest := next(iter(self.counts.items())))[1][0] <= at_ms - COUNT_KEPT_MS:
            del self.counts[oldest[0]]

    def unlike(self, key: str, found: Mapping[str, Hashable]) -> FieldsUnlike | None:
        """How the live fields of a hash differ; None when they do not."""
        digests = self.hashes.get(key, b"")
        known = dict(_FIELD.iter_unpack(digests))
        changed, unknown, same = [], [], 0
        for name, value in found.items():
            there = known.get(hash(name))
            if there is None:
                unknown.append(name)
            elif there != hash(value):
                changed.append(name)
            else:
                same += 1
        lost = len(known) - same - len(changed)
        if not (changed or unknown or lost):
            return None
        return FieldsUnlike(len(found), len(known), sorted(changed), sorted(unknown), lost)

    def is_fingerprint(self, key: str, found: str) -> bool:
        """Whether it is that of the count."""
        return self.counts[key][1] == hash(found)

    def fields_of(self, key: str) -> int:
        """How many fields the hash has, about."""
        return len(self.hashes.get(key, b"")) // _SIZE


def subject_of(key: str) -> str:
    """What a key is told as: ``sku@location`` of a window, the SKU of a view, the name of others."""
    kind, *names = key.split(":")
    return "@".join(map(unescaped, names)) if kind in ("feed", "view") else key


def _find(digests: bytearray, name: bytes) -> int:
    """Where the field's digest begins, -1 = nowhere."""
    at = digests.find(name)
    while at % _SIZE and at >= 0:
        at = digests.find(name, at + 1)
    return at
