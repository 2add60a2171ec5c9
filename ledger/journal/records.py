"""Owns the form of journal entries on their way to Postgres: positions, the hash chain, and rows made of bytes."""

import hashlib
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from ledger.messages import JournalEntry

GENESIS = bytes(32)
"""The hash before the first entry of a shard."""

_DECODER = msgspec.msgpack.Decoder(JournalEntry)


class Place(NamedTuple):
    """Where an entry stands in its shard's journal. Places compare as the journal is ordered."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


START = Place(0, 0)
"""Before the first entry."""


class RawEntry(NamedTuple):
    """An entry as it stands in a shard's stream."""

    place: Place
    body: bytes


class Cursor(NamedTuple):
    """The last entry that the journal has of a shard, and the hash of the chain up to it."""

    place: Place
    hash: bytes


class Reject(NamedTuple):
    """Something that the journal could not take as it was; ``reason`` is one of those in 0001_journal.sql."""

    place: Place
    reason: str
    raw: bytes
    error: str


class Prepared(NamedTuple):
    """An entry made ready to be stored: its own row, its movements' rows and, if it has none because it is bad, why."""

    raw: RawEntry
    hash: bytes
    row: tuple[object, ...]
    movements: list[tuple[object, ...]]
    reject: Reject | None


ENTRY_COLUMNS = ("shard", "epoch", "seq", "at_ms", "body", "hash")
MOVEMENT_COLUMNS = (
    *("shard", "epoch", "seq", "operation_index", "movement_index", "at_ms", "sku", "location"),
    *("from_bucket", "to_bucket", "quantity", "verb", "subject", "client", "reason", "event"),
)


class Unreadable(Exception):
    """The bytes of an entry are not the entry that they should be."""


class Numbered(Protocol):
    """What every way to read an entry reads of it."""

    @property
    def epoch(self) -> int: ...
    @property
    def seq(self) -> int: ...


Read = TypeVar("Read", bound=Numbered)


def decode(place: Place, body: bytes) -> JournalEntry:
    """The entry in ``body``; ``Unreadable`` when there is none, or one that names another place."""
    return decode_as(_DECODER, place, body)


def decode_as(decoder: msgspec.msgpack.Decoder[Read], place: Place, body: bytes) -> Read:
    """The same, by a decoder that reads as much of it as is wanted."""
    try:
        entry = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    if (entry.epoch, entry.seq) != place:
        raise Unreadable(f"it calls itself {entry.epoch}-{entry.seq}")
    return entry


def chained(previous: bytes, body: bytes) -> bytes:
    """The hash of the chain after ``body``."""
    return hashlib.sha256(previous + body).digest()


def follows(before: Place, after: Place) -> bool:
    """Whether no entry can be missing between the two.

    Within an epoch numbers rise by one. A new epoch (each recovery makes one, and one may fail half-way) either counts
    from 1 again or goes on where the last one was.
    """
    if after.epoch == before.epoch:
        return after.seq == before.seq + 1
    return after.epoch > before.epoch and after.seq in (1, before.seq + 1)


def prepare(shard: int, previous: bytes, raw: RawEntry, met_at_ms: int) -> Prepared:
    """Make an entry ready to be stored behind the chain's ``previous`` hash, whatever is in it."""
    after = chained(previous, raw.body)
    epoch, seq = raw.place
    try:
        entry = decode(raw.place, raw.body)
    except Unreadable as error:
        reject = Reject(raw.place, "unreadable", raw.body, str(error))
        return Prepared(raw, after, (shard, epoch, seq, met_at_ms, raw.body, after), [], reject)
    at_ms = entry.at_ms
    movements: list[tuple[object, ...]] = [
        (
            shard,
            epoch,
            seq,
            operation_index,
            movement_index,
            at_ms,
            move.sku,
            move.location,
            move.from_bucket,
            move.to_bucket,
            move.quantity,
            operation.verb,
            operation.subject,
            operation.client,
            move.reason,
            move.event,
        )
        for operation_index, operation in enumerate(entry.operations)
        for movement_index, move in enumerate(operation.movements)
    ]
    return Prepared(raw, after, (shard, epoch, seq, at_ms, raw.body, after), movements, None)
