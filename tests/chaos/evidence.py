"""Owns what is known of a window from inside: its journal entries, and what the live ledger has, at a quiet point."""

import asyncio
import time
from collections import Counter
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from books import escaped
from folding import expected_of, live_of
from redis import Redis

from chaos.history import History
from chaos.stage import Stage
from ledger import Journal, Place, event_key
from ledger.journal.fold import Fold, is_live
from ledger.journal.records import Cursor
from ledger.messages import JournalEntry, Movement, Reservation, StockEvent

SHARD: Final = 0
REST_S: Final = 30.0
"""How long everything may take to come to rest: holds end after 5 s at most, feeds catch up, the journal too."""
POLL_S: Final = 0.1
_RESERVATIONS: Final = msgspec.msgpack.Decoder(Reservation)
_EVENTS: Final = msgspec.msgpack.Decoder(StockEvent)
_START: Final = Place(0, 0)


class Effect(NamedTuple):
    """One operation in the journal. ``key`` is its id, or a stock event's key; ``mark`` is a hold's customer."""

    place: Place
    at_ms: int
    verb: str
    subject: str
    client: str
    key: str
    mark: str
    movements: list[Movement]


class Evidence:
    """Reads on where it stopped. ``effects`` are those of the window, in the journal's order."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.effects: list[Effect] = []
        self.fold = Fold()
        self.entries = 0
        self.unrested: list[str] = []
        self._read_to = _START
        self._head: Cursor | None = None

    # --- coming to rest -----------------------------------------------------------------------------------------

    async def settle(self, history: History) -> None:
        """Until nothing is under way any more: holds have ended, feeds are applied, the journal has it all.

        ``unrested`` says what had not come to rest in time.
        """
        await self._stage.wait_ready()
        self.effects = []
        until_s = time.monotonic() + REST_S
        while True:
            try:
                await self._read()
                self.unrested = await self._restless(history)
            except (OSError, asyncpg.PostgresError) as error:
                self.unrested = [f"Postgres: {error!r}"]
            if not self.unrested or time.monotonic() > until_s:
                return
            await asyncio.sleep(POLL_S)

    async def _restless(self, history: History) -> list[str]:
        found = []
        if (end := self.ledger_end()) != self._read_to:
            found.append(f"the journal is at {self._read_to}, the ledger at {end}")
        held = [
            id_ for id_, packed in self.fold.reservations.items() if any(line.held for line in packed.reservation.lines)
        ]
        if held:
            found.append(f"{len(held)} reservations are still held: {held[:5]}")
        known = {effect.key for effect in self.effects} | await self.quarantined()
        missing = [
            published.event["id"]
            for published in history.published
            if published.way == "nats" and event_key(published.event["source"], published.event["id"]) not in known
        ]
        if missing:
            found.append(f"{len(missing)} events are neither applied nor in quarantine: {missing[:5]}")
        return found

    # --- the journal --------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Go on to where the journal is now."""
        journal = await Journal.open(self._stage.url("postgres"))
        try:
            async for entry in journal.entries(SHARD, after=self._read_to):
                self.fold.take(entry)
                self.effects.extend(_effects(entry))
                self.entries += 1
                self._read_to = Place(entry.epoch, entry.seq)
        finally:
            await journal.close()

    async def journal_flaws(self) -> list[str]:
        """Gaps, broken links, rejects, and whether what was read at the last quiet point is still the same."""
        journal = await Journal.open(self._stage.url("postgres"))
        connection = await asyncpg.connect(self._stage.url("postgres"))
        try:
            flaws = [f"{problem.kind}: {problem.detail}" for problem in await journal.verify_chain(SHARD)]
            status = await journal.status()
            if status.rejects:
                flaws.append(f"{status.rejects} rejects")
            if self._head is not None:
                place, hash_ = self._head
                now = await connection.fetchval(
                    "select hash from availability.entry where (shard, epoch, seq) = ($1, $2, $3)", SHARD, *place
                )
                if now != hash_:
                    flaws.append(f"entry {place} is not what it was at the last quiet point")
            self._head = await journal.cursor(SHARD)
        finally:
            await connection.close()
            await journal.close()
        return flaws

    async def quarantined(self) -> set[str]:
        """The keys of the events that are in quarantine."""
        connection = await asyncpg.connect(self._stage.url("postgres"))
        try:
            rows = await connection.fetch("select source, event from availability.quarantine where event is not null")
        finally:
            await connection.close()
        return {event_key(row["source"], row["event"]) for row in rows}

    # --- the live ledger ----------------------------------------------------------------------------------------

    def ledger_end(self) -> Place:
        """The last entry in the ledger's own stream."""
        with Redis.from_url(self._stage.url("redis")) as redis:
            newest: Any = redis.xrevrange(f"{{s{SHARD}}}:journal", count=1)
        epoch, _, seq = newest[0][0].decode().partition("-") if newest else ("0", "", "0")
        return Place(int(epoch), int(seq))

    def differing(self) -> list[str]:
        """The keys of the live ledger that are not what the journal folds to (P7)."""
        with Redis.from_url(self._stage.url("redis")) as redis:
            live = live_of(redis, SHARD)
        try:
            expected = expected_of(self.fold, []) | self._clients()
        except KeyError as error:
            return [f"the journal names an operation that it does not have: {error}"]
        return [
            f"{key}: folded {expected.get(key)!r:.300}, live {live.get(key)!r:.300}"
            for key in sorted(expected.keys() | live.keys())
            if expected.get(key) != live.get(key)
        ]

    def _clients(self) -> dict[str, object]:
        """What each client has open, and holds (``folding.expected_of`` would have it from all entries at once)."""
        opened, held = Counter[str](), Counter[str]()
        for packed in self.fold.reservations.values():
            reservation = packed.reservation
            if is_live(reservation):
                opened[reservation.client] += 1
                held[reservation.client] += sum(line.held for line in reservation.lines)
        return {f"client:{escaped(name)}": [count, held[name]] for name, count in opened.items()}


def _effects(entry: JournalEntry) -> list[Effect]:
    place = Place(entry.epoch, entry.seq)
    effects = []
    for operation in entry.operations:
        key, mark = operation.operation_id, ""
        if operation.verb == "hold":
            key, mark = operation.subject, _RESERVATIONS.decode(operation.body).customer or ""
        elif operation.verb in ("apply", "view"):
            key = _EVENTS.decode(operation.body).key
        effects.append(
            Effect(
                *(place, entry.at_ms, operation.verb, operation.subject, operation.client, key, mark),
                operation.movements,
            )
        )
    return effects
