"""Owns what is known of a window from inside: its journal entries, and what the live ledger has, at a quiet point."""

import asyncio
import time
from collections import Counter, defaultdict
from typing import Any, Final

import asyncpg
import nats.errors
from books import escaped
from folding import expected_of, live_of
from redis import Redis

from chaos.announced import Announcements, Told
from chaos.effects import Effect, effects_of
from chaos.history import History
from chaos.stage import Stage
from ledger import Journal, Place, event_key
from ledger.claims import merged
from ledger.journal.fold import Fold, is_live
from ledger.journal.records import Cursor
from ledger.messages import Position, Reservation

REST_S: Final = 30.0
"""How long everything may take to come to rest: holds end after 5 s at most, feeds catch up, the journal too."""
POLL_S: Final = 0.1
READING_FAILED: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, nats.errors.Error)
_START: Final = Place(0, 0)


class ShardEvidence:
    """One shard's journal, read on from where it stopped, and its live keys."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.number = number
        self.fold = Fold()
        self.read_to = _START
        self._stage = stage
        self._head: Cursor | None = None

    async def read(self, journal: Journal) -> list[Effect]:
        """Go on to where the journal is now; what was done since the last time."""
        effects: list[Effect] = []
        async for entry in journal.entries(self.number, after=self.read_to):
            self.fold.take(entry)
            effects.extend(effects_of(self.number, entry))
            self.read_to = Place(entry.epoch, entry.seq)
        return effects

    async def flaws(self, journal: Journal, connection: asyncpg.Connection) -> list[str]:
        """Gaps and broken links, and whether what was read at the last quiet point is still the same."""
        flaws = [f"{problem.kind}: {problem.detail}" for problem in await journal.verify_chain(self.number)]
        if self._head is not None:
            place, hash_ = self._head
            now = await connection.fetchval(
                "select hash from availability.entry where (shard, epoch, seq) = ($1, $2, $3)", self.number, *place
            )
            if now != hash_:
                flaws.append(f"entry {place} is not what it was at the last quiet point")
        self._head = await journal.cursor(self.number)
        return [f"shard {self.number}: {flaw}" for flaw in flaws]

    def ledger_end(self) -> Place:
        """The last entry in the ledger's own stream."""
        with Redis.from_url(self._stage.url("redis")) as redis:
            newest: Any = redis.xrevrange(f"{{s{self.number}}}:journal", count=1)
        epoch, _, seq = newest[0][0].decode().partition("-") if newest else ("0", "", "0")
        return Place(int(epoch), int(seq))

    def differing(self) -> list[str]:
        """The keys of the live shard that are not what the journal folds to (P7)."""
        with Redis.from_url(self._stage.url("redis")) as redis:
            live = live_of(redis, self.number)
        try:
            expected = expected_of(self.fold, []) | self._clients()
        except KeyError as error:
            return [f"shard {self.number}: the journal names an operation that it does not have: {error}"]
        return [
            f"shard {self.number}, {key}: folded {expected.get(key)!r:.300}, live {live.get(key)!r:.300}"
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


class Evidence:
    """Of all shards. ``effects`` are those of the window, each shard's in its order; so is ``told``, of all shards."""

    def __init__(self, stage: Stage, shards: int) -> None:
        self.shards = [ShardEvidence(stage, number) for number in range(shards)]
        self.effects: list[Effect] = []
        self.told: list[Told] = []
        self.unrested: list[str] = []
        self._stage = stage
        self._announcements = Announcements(stage)

    # --- coming to rest -----------------------------------------------------------------------------------------

    async def settle(self, history: History) -> None:
        """Until nothing is under way any more: holds have ended, feeds are applied, the journal and NATS have it all.

        ``unrested`` says what had not come to rest in time.
        """
        await self._stage.wait_ready()
        self.effects, self.told = [], []
        until_s = time.monotonic() + REST_S
        while True:
            try:
                await self._read()
                self.unrested = await self._restless(history)
                if not self.unrested:
                    self.told = await self._announcements.read()
            except READING_FAILED as error:
                self.unrested = [f"what is there cannot be read: {error!r}"]
            if not self.unrested or time.monotonic() > until_s:
                return
            await asyncio.sleep(POLL_S)

    async def _read(self) -> None:
        journal = await Journal.open(self._stage.url("postgres"))
        try:
            for shard in self.shards:
                self.effects += await shard.read(journal)
        finally:
            await journal.close()

    async def _restless(self, history: History) -> list[str]:
        found = []
        announced = await self._announced_to()
        for shard in self.shards:
            where = f"shard {shard.number}: the journal is at {shard.read_to}"
            if (end := shard.ledger_end()) != shard.read_to:
                found.append(f"{where}, the ledger at {end}")
            if (end := announced.get(shard.number, _START)) != shard.read_to:
                found.append(f"{where}, what is announced at {end}")
            kept = shard.fold.reservations.items()
            held = [id_ for id_, packed in kept if any(line.held for line in packed.reservation.lines)]
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

    async def _announced_to(self) -> dict[int, Place]:
        rows = await self._fetch("select shard, epoch, seq from availability.outbox_cursor")
        return {row["shard"]: Place(row["epoch"], row["seq"]) for row in rows}

    async def quarantined(self) -> set[str]:
        """The keys of the events that are in quarantine."""
        rows = await self._fetch("select source, event from availability.quarantine where event is not null")
        return {event_key(row["source"], row["event"]) for row in rows}

    async def _fetch(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._stage.url("postgres"))
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query)
            return rows
        finally:
            await connection.close()

    # --- at rest ------------------------------------------------------------------------------------------------

    def reservations(self) -> dict[str, Reservation]:
        """Those of the window, whole, as they were left; without those that are not held on each of their shards."""
        touched = {effect.subject for effect in self.effects}
        parts: dict[str, dict[int, Reservation]] = defaultdict(dict)
        for shard in self.shards:
            for id_ in touched & shard.fold.reservations.keys():
                parts[id_][shard.number] = shard.fold.reservations[id_].reservation
        return {id_: merged(kept) for id_, kept in parts.items() if _is_whole(kept)}

    def positions(self) -> dict[tuple[str, str], Position]:
        """As the journal has them now."""
        return {
            (place.sku, place.location): position
            for shard in self.shards
            for place, position in shard.fold.positions.items()
        }

    async def journal_flaws(self) -> list[str]:
        """Of all shards, and whether there are rejects."""
        journal = await Journal.open(self._stage.url("postgres"))
        connection = await asyncpg.connect(self._stage.url("postgres"))
        try:
            flaws = [flaw for shard in self.shards for flaw in await shard.flaws(journal, connection)]
            status = await journal.status()
        finally:
            await connection.close()
            await journal.close()
        return [*flaws, f"{status.rejects} rejects"] if status.rejects else flaws

    def ledger_ends(self) -> list[Place]:
        """The last entry in each shard's own stream."""
        return [shard.ledger_end() for shard in self.shards]

    def differing(self) -> list[str]:
        """The keys of all live shards that are not what the journal folds to (P7)."""
        return [difference for shard in self.shards for difference in shard.differing()]


def _is_whole(parts: dict[int, Reservation]) -> bool:
    spans = [part.span for part in parts.values() if part.span]
    return not spans or (all(span.sealed for span in spans) and set(spans[0].shards) == set(parts))
