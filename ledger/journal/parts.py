"""Owns the parts of reservations over several shards in Postgres, of which the search has the whole.

Each shard's indexer stores its own parts, and makes what is whole with them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import asyncpg
import msgspec

from ledger.claims import merged
from ledger.journal.postgres import Row, arrays
from ledger.journal.records import Place
from ledger.messages import JournalOperation, Reservation

PARTS_LOCK = 0x7061_7274
"""The advisory lock under which parts are stored ("part"): two indexers that store the last two parts of a reservation
at once would each miss the other's."""

_UPSERT = """
insert into availability.reservation_part as known (id, shard, epoch, seq, body)
select * from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bytea[])
on conflict (id, shard) do update set epoch = excluded.epoch, seq = excluded.seq, body = excluded.body
where (known.epoch, known.seq) <= (excluded.epoch, excluded.seq)
"""
_DELETE = """
delete from availability.reservation_part as known using
    unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bytea[])
    as gone (id, shard, epoch, seq, body)
where (known.id, known.shard) = (gone.id, gone.shard) and (known.epoch, known.seq) <= (gone.epoch, gone.seq)
"""
_DECODER = msgspec.msgpack.Decoder(Reservation)


class Part(NamedTuple):
    """What a shard's journal last says of its part of a reservation.

    ``is_hold`` is false before the seal, and when the hold did not come about.
    """

    id: str
    place: Place
    body: bytes
    is_hold: bool


class Whole(NamedTuple):
    """A reservation with all its parts, and the shard whose receipt it has."""

    shard: int
    reservation: Reservation


def part_of(place: Place, operation: JournalOperation, reservation: Reservation) -> Part:
    """The part as the operation left it."""
    assert reservation.span is not None
    is_hold = reservation.span.sealed and operation.verb != "drop"
    return Part(operation.subject, place, bytes(operation.body), is_hold)


async def store_parts(connection: asyncpg.Connection, shard: int, parts: Iterable[Part]) -> dict[str, Whole]:
    """Store a shard's parts, and say which reservations are whole with them, by id.

    To be called within a transaction: no other indexer stores parts until it ends.
    """
    await connection.execute("select pg_advisory_xact_lock($1)", PARTS_LOCK)
    kept: list[Row] = []
    left: list[Row] = []
    for part in parts:
        (kept if part.is_hold else left).append((part.id, shard, *part.place, part.body))
    for rows, statement in ((kept, _UPSERT), (left, _DELETE)):
        if rows:
            await connection.execute(statement, *arrays(rows))
    found = await connection.fetch(
        "select id, shard, body from availability.reservation_part where id = any($1)", [row[0] for row in kept]
    )
    stored: dict[str, dict[int, Reservation]] = {}
    for row in found:
        stored.setdefault(row["id"], {})[row["shard"]] = _DECODER.decode(row["body"])
    wholes = {id_: _whole(shard, known) for id_, known in stored.items()}
    return {id_: whole for id_, whole in wholes.items() if whole is not None}


def _whole(shard: int, stored: dict[int, Reservation]) -> Whole | None:
    """The reservation that the shard's part belongs to, if its other parts are stored too."""
    span = stored[shard].span
    assert span is not None
    parts = {
        number: part
        for number, part in stored.items()
        if part.span is not None and part.span.shards == span.shards and number in span.shards
    }
    return Whole(min(parts), merged(parts)) if len(parts) == len(span.shards) else None
