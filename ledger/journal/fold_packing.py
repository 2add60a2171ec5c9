"""Owns a fold as bytes: in chunks, each of some thousand things of one kind, and a fold from chunks again."""

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from ledger.claims import Place as At
from ledger.journal.fold import Fold, Packed
from ledger.messages import KeptOperation, Location, PositionAfter, Record

THINGS_IN_CHUNK: Final = 5_000
"""At most some megabytes."""
LEVEL: Final = 1

Thing = TypeVar("Thing")


class BadChunk(Exception):
    """The bytes are not a chunk."""


class Chunk(Record, frozen=True):
    """Some of what a fold has. In the order of the chunks, each kind is in the order in which the fold has it."""

    at_ms: int
    positions: list[PositionAfter] = msgspec.field(default_factory=list)
    locations: list[Location] = msgspec.field(default_factory=list)
    reservations: list[tuple[str, int, bytes]] = msgspec.field(default_factory=list)
    operations: list[KeptOperation] = msgspec.field(default_factory=list)
    hashes: list[tuple[str, dict[str, bytes]]] = msgspec.field(default_factory=list)
    counts: list[tuple[str, int, str]] = msgspec.field(default_factory=list)
    ended: list[tuple[str, int]] = msgspec.field(default_factory=list)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Chunk).decode


def chunks(fold: Fold) -> Iterator[bytes]:
    """The fold, which must not go on meanwhile."""
    kinds: dict[str, Iterable[Any]] = {
        "positions": (PositionAfter(*place, position) for place, position in fold.positions.items()),
        "locations": fold.locations.values(),
        "reservations": ((id_, *packed) for id_, packed in fold.reservations.items()),
        "operations": fold.operations.values(),
        "hashes": fold.hashes.items(),
        "counts": ((key, *counted) for key, counted in fold.counts.items()),
        "ended": fold.ended.items(),
    }
    for kind, things in kinds.items():
        for some in _portions(things):
            yield zlib.compress(_encode(Chunk(fold.at_ms, **{kind: some})), LEVEL)


def unpack(fold: Fold, body: bytes) -> None:
    """Give the fold what is in the chunk; those of a fold must come in order. Raises ``BadChunk``."""
    try:
        chunk = _decode(zlib.decompress(body))
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadChunk(str(error)) from error
    fold.at_ms = chunk.at_ms
    fold.positions.update((At(after.sku, after.location), after.position) for after in chunk.positions)
    fold.locations.update((location.id, location) for location in chunk.locations)
    fold.reservations.update((id_, Packed(at_ms, packed)) for id_, at_ms, packed in chunk.reservations)
    fold.operations.update((operation.id, operation) for operation in chunk.operations)
    fold.hashes.update(chunk.hashes)
    fold.counts.update((key, (at_ms, told)) for key, at_ms, told in chunk.counts)
    fold.ended.update(chunk.ended)


def _portions(things: Iterable[Thing]) -> Iterator[list[Thing]]:
    left = iter(things)
    while some := list(islice(left, THINGS_IN_CHUNK)):
        yield some
