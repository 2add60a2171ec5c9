"""Owns checkpoints: what an epoch of the journal folds to, kept in Postgres, so that a fold can begin there.

A checkpoint is believed only if every byte of it is what was written, if the journal's chain is where it was then, and
if this very version of the fold made it. Otherwise it is passed over, with a word: it can only save time.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

import asyncpg
import msgspec

from ledger.journal.fold import Fold
from ledger.journal.fold_packing import BadChunk, chunks, unpack
from ledger.journal.folding import Folding
from ledger.journal.postgres import DERIVED, connect, now_ms
from ledger.journal.reader import Journal
from ledger.journal.records import Cursor, Place

MAKER_LOCK: Final = 0x6368_6563
"""The class of the advisory lock that makes who makes a checkpoint the only one ("chec")."""
KEPT: Final = 2
"""Checkpoints of an epoch: the second is for when the first cannot be used."""
FOLDED_BY: Final = ("fold.py", "fold_packing.py")
"""What decides what a checkpoint has: when their text changes, checkpoints of before are of no use."""

logger = logging.getLogger(__name__)


class Unusable(Exception):
    """A checkpoint must not be used; the text says why."""


class ShardPlace(NamedTuple):
    """How far a checkpoint's fold of a shard has come: the last entry, the chain's hash there; and its chunks."""

    seq: int
    hash: bytes
    chunks: int


class StoredCheckpoint(NamedTuple):
    """What there is of a checkpoint now."""

    id: int
    bytes: int


_places = msgspec.msgpack.Decoder(list[ShardPlace])


@cache
def folded_by() -> str:
    """Names this version of the fold."""
    folder = resources.files("ledger.journal")
    text = "".join((folder / name).read_text(encoding="utf-8") for name in FOLDED_BY)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Checkpoints:
    """The checkpoints in a database; made by ``open``. Every method raises one of ``FAILED`` when Postgres is away."""

    _connection: asyncpg.Connection
    _unusable: set[int] = field(default_factory=set)

    @classmethod
    async def open(cls, postgres_url: str) -> "Checkpoints":
        return cls(await connect(postgres_url, DERIVED))

    async def close(self) -> None:
        """Let somebody else make one, too; safe after any failure."""
        self._connection.terminate()

    async def be_the_maker(self) -> bool:
        """Whether nobody else makes one, from now until ``close``."""
        alone: bool = await self._connection.fetchval("select pg_try_advisory_lock($1, 0)", MAKER_LOCK)
        return alone

    async def movements_since(self) -> int:
        """How many movements the journal got since the newest checkpoint was begun."""
        movements: int = await self._connection.fetchval(
            "select (select coalesce(sum(movements), 0) from availability.cursor)"
            " - coalesce((select movements from availability.checkpoint order by id desc limit 1), 0)"
        )
        return movements

    async def movements(self) -> int:
        """How many movements the journal has."""
        movements: int = await self._connection.fetchval(
            "select coalesce(sum(movements), 0)::bigint from availability.cursor"
        )
        return movements

    async def newest(
        self,
        journal: Journal,
        epoch: int,
        shards: int,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Folding | None:
        """The folding as the newest checkpoint of the epoch that can be used has it; None when there is none.

        ``progress`` is told how many chunks of how many are read.
        """
        rows = await self._connection.fetch(
            "select id, epoch, folded_by, places, hash from availability.checkpoint where epoch = $1 order by id desc",
            epoch,
        )
        for row in rows:
            try:
                return await self._load(row, journal, shards, progress)
            except Unusable as unusable:
                logger.warning("checkpoint %d is not used: %s", row["id"], unusable)
                self._unusable.add(row["id"])
        return None

    async def _load(
        self, row: asyncpg.Record, journal: Journal, shards: int, progress: Callable[[int, int], None]
    ) -> Folding:
        if row["folded_by"] != folded_by():
            raise Unusable("another version of this program made it")
        try:
            places = _places.decode(row["places"])
        except msgspec.DecodeError as error:
            raise Unusable(f"it is damaged ({error})") from error
        if len(places) != shards:
            raise Unusable(f"it has {len(places)} shards, not {shards}")
        cursors = [Cursor(Place(row["epoch"], place.seq), place.hash) for place in places]
        for shard, cursor in enumerate(cursors):
            await _check_place(journal, shard, cursor)
        folds: list[Fold] = [Fold() for _ in places]
        hashes: list[bytes] = []
        total = sum(place.chunks for place in places)
        for shard, place in enumerate(places):
            for number in range(place.chunks):
                hashes.append(await self._load_chunk(row["id"], shard, number, folds[shard]))
                progress(len(hashes), total)
        if _hash(row["epoch"], row["folded_by"], row["places"], hashes) != row["hash"]:
            raise Unusable("it is damaged: its hash is another")
        return Folding(row["epoch"], folds, cursors, checkpoint=row["id"])

    async def _load_chunk(self, id_: int, shard: int, number: int, fold: Fold) -> bytes:
        """Give it to the fold; its hash."""
        body = await self._connection.fetchval(
            "select body from availability.checkpoint_chunk where checkpoint = $1 and shard = $2 and number = $3",
            *(id_, shard, number),
        )
        if body is None:
            raise Unusable(f"chunk {number} of shard {shard} is missing")
        try:
            unpack(fold, body)
        except BadChunk as error:
            raise Unusable(f"chunk {number} of shard {shard} is damaged: {error}") from error
        return hashlib.sha256(body).digest()

    async def store(self, folding: Folding, movements: int, progress: Callable[[int], None]) -> StoredCheckpoint:
        """Keep what is folded, as of ``movements`` in the journal, and forget what is not needed any more.

        ``progress`` is told how many shards are done. Only for the maker, see ``be_the_maker``.
        """
        id_: int = 1 + await self._connection.fetchval(
            "select greatest((select max(id) from availability.checkpoint),"
            " (select max(checkpoint) from availability.checkpoint_chunk), 0)"
        )
        counts, hashes, total = [], [], 0
        for shard, fold in enumerate(folding.folds):
            number = -1
            for number, body in enumerate(chunks(fold)):
                await self._connection.execute(
                    "insert into availability.checkpoint_chunk values ($1, $2, $3, $4)", id_, shard, number, body
                )
                hashes.append(hashlib.sha256(body).digest())
                total += len(body)
            counts.append(number + 1)
            progress(shard + 1)
        places = msgspec.msgpack.encode(
            [
                ShardPlace(cursor.place.seq, cursor.hash, count)
                for cursor, count in zip(folding.cursors, counts, strict=True)
            ]
        )
        hash_ = _hash(folding.epoch, folded_by(), places, hashes)
        await self._connection.execute(
            "insert into availability.checkpoint values ($1, $2, $3, $4, $5, $6, $7, $8)",
            *(id_, folding.epoch, folded_by(), places, hash_, movements, now_ms(), total),
        )
        await self._prune(folding.epoch)
        return StoredCheckpoint(id_, total)

    async def _prune(self, epoch: int) -> None:
        """Forget all but the newest good ones of this epoch and this version, and what was broken off."""
        await self._connection.execute(
            "delete from availability.checkpoint where id not in (select id from availability.checkpoint"
            " where epoch = $1 and folded_by = $2 and id <> all($3) order by id desc limit $4)",
            *(epoch, folded_by(), list(self._unusable), KEPT),
        )
        await self._connection.execute(
            "delete from availability.checkpoint_chunk where checkpoint not in (select id from availability.checkpoint)"
        )


async def _check_place(journal: Journal, shard: int, cursor: Cursor) -> None:
    """The journal must be where it was: the same entry, and before it, by the chain, the same ones."""
    there = await journal.last_until(shard, cursor.place)
    if there.hash != cursor.hash or (cursor.place.seq > 0 and there.place != cursor.place):
        raise Unusable(f"the journal of shard {shard} is not the one that it was made from")


def _hash(epoch: int, by: str, places: bytes, hashes: list[bytes]) -> bytes:
    """Of all of a checkpoint; ``hashes`` are those of its chunks."""
    return hashlib.sha256(msgspec.msgpack.encode((epoch, by, places, hashes))).digest()
