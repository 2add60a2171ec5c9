"""Folds a shard's journal by the ledger's own fold and compares every key of the live shard with it (P7).

Not compared is what passes in seconds (locks, pins), and what derives from it (``spanning``,
``deadlines``, ``held``): of the deadlines, that none is missing.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from books import assert_deadlines_are_those_of_the_holds, escaped, fold_clients, journal_of
from msgspec.structs import replace
from redis import Redis

from ledger.journal.fold import Fold
from ledger.messages import JournalEntry, Location, Position, Reservation

unpack = msgspec.msgpack.decode
PASSING = ("lock", "spanning", "deadlines", "held", "journal", "shard", "rate")


def folded(entries: Iterable[JournalEntry]) -> Fold:
    fold = Fold()
    for entry in entries:
        fold.take(entry)
    return fold


def unpinned(reservation: Reservation) -> Reservation:
    if reservation.span is None:
        return reservation
    return replace(reservation, span=replace(reservation.span, token="", intent="", pinned_until_ms=0))


def expected_of(fold: Fold, entries: list[JournalEntry]) -> dict[str, Any]:
    """Every key of the shard, as ``live_of`` reads them."""
    keys: dict[str, Any] = {}
    for place, position in fold.positions.items():
        keys.setdefault(f"sku:{escaped(place.sku)}", {})[place.location] = position
    if fold.locations:
        keys["locations"] = fold.locations
    for id_, packed in fold.reservations.items():
        keys[f"op:{id_}"] = unpinned(packed.reservation)
        for operation in packed.reservation.operations:
            known = fold.operations[operation]
            keys[f"op:{operation}"] = [known.verb, known.client, known.fingerprint, id_]
    hashes = {key: {name: unpack(value) for name, value in fields.items()} for key, fields in fold.hashes.items()}
    keys |= {key: fields for key, fields in hashes.items() if fields}
    keys |= {key: fingerprint for key, (_, fingerprint) in fold.counts.items()}
    keys |= {f"client:{escaped(name)}": list(counted) for name, counted in fold_clients(entries).items()}
    return keys


def live_of(client: Redis, shard: int) -> dict[str, Any]:
    """Every key of the live shard that is compared."""
    keys: dict[str, Any] = {}
    for name in client.scan_iter(f"{{s{shard}}}:*", count=1_000):
        key = name.decode().partition(":")[2]
        kind = key.partition(":")[0]
        if kind not in PASSING:
            keys[key] = _READ[kind](client, name)
    return keys


def _fields(client: Redis, name: bytes, as_type: Any = Any) -> dict[str, Any]:
    fields: Any = client.hgetall(name)
    return {field.decode(): unpack(value, type=as_type) for field, value in fields.items()}


def _record(client: Redis, name: bytes) -> Any:
    packed: Any = client.get(name)
    return unpinned(unpack(packed, type=Reservation)) if unpack(packed)[0] == "hold" else unpack(packed)


def _text(client: Redis, name: bytes) -> str:
    text: Any = client.get(name)
    return str(text.decode())


def _numbers(client: Redis, name: bytes) -> Any:
    packed: Any = client.get(name)
    return unpack(packed)


_READ = {
    "sku": lambda client, name: _fields(client, name, Position),
    "locations": lambda client, name: _fields(client, name, Location),
    "feed": _fields,
    "view": _fields,
    "overcommitted": _fields,
    "safety_stock": _fields,
    "op": _record,
    "client": _numbers,
    "count": _text,
}


def assert_folds(client: Redis, shard: int = 0, epoch: int = 1, entries: list[JournalEntry] | None = None) -> Fold:
    """The entries of the shard's epoch, by default those of its stream, fold to the live shard."""
    entries = journal_of(client, shard) if entries is None else entries
    entries = [entry for entry in entries if entry.epoch == epoch]
    fold = folded(entries)
    assert_deadlines_are_those_of_the_holds(client, shard)
    expected, live = expected_of(fold, entries), live_of(client, shard)
    assert expected.keys() == live.keys()
    for key, value in expected.items():
        assert live[key] == value, key
    claimed = {place: (units["held"], units["committed"], units["picked"]) for place, units in fold.claims().items()}
    for place, position in fold.positions.items():
        assert claimed.get(place, (0, 0, 0)) == (position.held, position.committed, position.picked), place
    return fold
