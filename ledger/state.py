"""What a ledger says of itself: whether it may promise, and how far it has come."""

from typing import NamedTuple

import msgspec
from msgspec import Struct

from ledger.journal.records import Place


class State(NamedTuple):
    """``reasons`` say why it is not ``ready``; ``queue_depth`` counts the operations that wait for the next call."""

    ready: bool
    reasons: list[str]
    queue_depth: int


FILLING = 0
"""In place of the number of shards while the ledger is filled anew: only who fills it may use it."""


class ShardRecord(Struct, array_like=True, frozen=True):
    """What a shard knows of itself; ``shards``, of the whole ledger, is None where only an older version wrote."""

    epoch: int
    seq: int
    clock_ms: int
    shards: int | None = None


shard_record = msgspec.msgpack.Decoder(ShardRecord).decode
"""The record from the bytes of a shard's own key."""


class Standing(NamedTuple):
    """How far a ledger has come: the place of its last journal entry.

    ``run`` names the life of its server, which is another one after each start. ``entry`` is the body of the entry at
    the place that was asked about, None when the ledger's stream has none there.
    """

    run: str
    place: Place
    entry: bytes | None


def wrong_shards(there: int, said: int) -> str:
    """Why a ledger with ``there`` shards cannot be used by a process whose settings say another number."""
    if there == FILLING:
        return (
            "the ledger is being filled anew: wait for `availability rebuild` (or `rehome`, `failover`) to end;"
            " if it broke off, run the same again"
        )
    remedy = f"set shards = {there}, or run `availability rehome --shards {said}`"
    return f"the ledger has {there} shards, the settings say {said}: {remedy}"


class Step(NamedTuple):
    """How far an audit has come: what it is at, and how much of how much is done."""

    name: str
    done: int
    total: int
