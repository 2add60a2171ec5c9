"""Owns the checks after every run: no oversell, no lost acknowledgement, balanced books, refusals that were justified.

First what is unknown is settled, as any client can: by its key. Then everything that was acknowledged is held against
what the service shows, and, where its database can be reached, against its journal.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import msgspec

from bench import journal, opening
from bench.account import Account, Hold
from bench.caller import Caller, Unexpected, expect
from bench.opening import Position
from bench.run import Check
from bench.target import Addresses

SAMPLE: Final = 1_000
SETTLE_S: Final = 30.0
"""How long after the last deadline the positions may take to show what was said: stock events are on their way."""
PAUSE_S: Final = 0.25
AT_ONCE: Final = 32
NO_JOURNAL: Final = "its database is not within reach from here"


@dataclass
class Expected:
    """What the positions must show in the end."""

    on_hand: Counter[Position]
    committed: Counter[Position]


@dataclass
class Verifier:
    """Of one run. ``callers`` has one for each client; ``deadline_s`` (monotonic) is when the last hold has expired."""

    account: Account
    callers: Sequence[Caller]
    opening: Mapping[Position, int]
    fed: Counter[Position]
    """Units that acknowledged stock events over NATS added."""
    events_location: str
    deadline_s: float
    clients: Sequence[str]
    addresses: Addresses | None
    """None where only the API can be reached."""

    async def checks(self) -> list[Check]:
        """All of them. Raises ``Stuck`` and ``Unexpected`` when they cannot be done."""
        unknown, not_done = await self._settle()
        await asyncio.sleep(max(0.0, self.deadline_s - time.monotonic()))
        raised = self.account.raised(self.events_location)
        on_hand = Counter(self.opening)
        on_hand.update(raised)
        on_hand.update(self.fed)
        expected = Expected(on_hand, self.account.committed())
        sampled = await self._check_sample(unknown, not_done)
        checks = [sampled, *check_positions(await self._positions(expected), expected)]
        return [*checks, *await self._check_journal(), check_refusals_by_themselves(self.account)]

    async def _settle(self) -> tuple[int, int]:
        """Ask for everything of which no answer came; how many, and how many of these had not been done."""
        unknown = self.account.unknown()
        found = await _each(unknown, self._reservation)
        for hold, reservation in zip(unknown, found, strict=True):
            self.account.settle(hold, reservation)
        for holds in self.account.told:
            for body in holds.unsettled_events:
                await self._post_again(body, holds.raised)
            holds.unsettled_events.clear()
        return len(unknown), found.count(None)

    async def _reservation(self, hold: Hold) -> dict[str, Any] | None:
        """What the service knows under the hold's key; None when nothing was done."""
        answer = await self.callers[hold.client].ask("GET", f"/v1/operations/{quote(hold.key, safe='')}")
        if answer.status == 404:
            return None
        expect(200, answer)
        reservation: dict[str, Any] = answer.body["reservation"]
        return reservation

    async def _post_again(self, body: str, raised: dict[str, int]) -> None:
        """Events have ids: each is applied now, or was before."""
        form = msgspec.json.decode(body)
        answer = await self.callers[0].ask("POST", "/v1/stock-events", form)
        expect(200, answer)
        outcomes = {result["outcome"] for result in answer.body["results"]}
        if not outcomes <= {"applied", "duplicate"}:
            raise Unexpected(f"stock events of ours became {outcomes}")
        for event in form["events"]:
            raised[event["sku"]] = raised.get(event["sku"], 0) + event["quantity"]

    async def _check_sample(self, unknown: int, not_done: int) -> Check:
        acknowledged = list(self.account.acknowledged())
        chosen = random.Random(0).sample(acknowledged, min(SAMPLE, len(acknowledged)))  # noqa: S311
        found = await _each(chosen, self._reservation)
        return check_sample(chosen, found, len(acknowledged), unknown, not_done)

    async def _positions(self, expected: Expected) -> dict[Position, dict[str, Any]]:
        """As they are when they show what they must, or when they had long enough for that."""
        give_up_at = time.monotonic() + SETTLE_S
        while True:
            found = await opening.read(self.callers[0], expected.on_hand)
            if not _differing(found, expected) or time.monotonic() > give_up_at:
                return found
            await asyncio.sleep(PAUSE_S)

    async def _check_journal(self) -> list[Check]:
        names = (
            "the journal has caught up with the ledger",
            "the journal has no gap and its chain holds",
            "each acknowledged hold is in the journal, once, and no other is",
            "no position was promised more than it had, at any moment",
            "each refused hold asked for a position that ran short",
        )
        if self.addresses is None:
            return [Check(name, None, NO_JOURNAL) for name in names]
        connection = await asyncpg.connect(self.addresses.postgres)
        try:
            ends = await journal.ends(self.addresses.redis, connection)
            caught_up = await journal.caught_up(connection, ends)
            is_whole = await journal.is_whole(connection)
            held = await journal.held(connection, self.clients)
            least = await journal.least_available(connection, self.account.name)
        finally:
            await connection.close()
        said = (caught_up, is_whole, in_journal(self.account, held), never_oversold(least))
        return [
            *(Check(name, *one) for name, one in zip(names, said, strict=False)),
            Check(names[-1], *ran_short(self.account, least)),
        ]


def check_sample(
    chosen: Sequence[Hold], found: Sequence[Mapping[str, Any] | None], acknowledged: int, unknown: int, not_done: int
) -> Check:
    """Whether each of the chosen holds is there, with the id, lines and ending that were acknowledged."""
    missing = sum(reservation is None for reservation in found)
    otherwise = [
        f"{hold.key} is {reservation['status']}, not {hold.status}"
        for hold, reservation in zip(chosen, found, strict=True)
        if reservation is not None and not _is_as_told(hold, reservation)
    ]
    said = (
        f"{len(chosen):,} of {acknowledged:,} looked up by key: {missing:,} missing, {len(otherwise):,} otherwise"
        f"{'; ' + otherwise[0] if otherwise else ''}; {unknown:,} were unknown, {not_done:,} of them not done"
    )
    return Check("no acknowledged hold is lost", not missing and not otherwise, said)


def _is_as_told(hold: Hold, reservation: Mapping[str, Any]) -> bool:
    lines = [(line["location"], line["sku"], line["quantity"]) for line in reservation["lines"]]
    return (
        reservation["id"] == hold.identity
        and reservation["status"] == hold.status
        and lines == [tuple(line) for line in hold.lines]
    )


def check_positions(found: Mapping[Position, Mapping[str, Any]], expected: Expected) -> list[Check]:
    """Each position as the API shows it, against opening counts, stock events and acknowledged commits."""
    differing = _differing(found, expected)
    units = sum(item["committed"] for item in found.values())
    first = f"; {differing[0]}: {found[differing[0]]}" if differing else ""
    said = (
        f"{len(found):,} positions, {len(differing):,} differ; committed {units:,} = {expected.committed.total():,} "
        f"acknowledged{first}"
    )
    oversold = [position for position, item in found.items() if item["committed"] + item["held"] > item["on_hand"]]
    unbalanced = [position for position, item in found.items() if not _balances(item)]
    return [
        Check("no position is promised more than it has", not oversold, f"{len(oversold):,} are{_first(oversold)}"),
        Check("units committed, and on hand, are those acknowledged; none is held any more", not differing, said),
        Check(
            "available = on hand - held - committed - picked - safety stock",
            not unbalanced,
            f"{len(unbalanced):,} of {len(found):,} positions do not balance{_first(unbalanced)}",
        ),
    ]


def _balances(item: Mapping[str, Any]) -> bool:
    claims = item["held"] + item["committed"] + item["picked"] + item["safety_stock"]
    return bool(item["available"] == max(0, item["on_hand"] - claims))


def _differing(found: Mapping[Position, Mapping[str, Any]], expected: Expected) -> list[Position]:
    return [
        position
        for position, item in found.items()
        if (item["on_hand"], item["committed"], item["held"])
        != (expected.on_hand[position], expected.committed[position], 0)
    ]


def in_journal(account: Account, held: Mapping[str, int]) -> journal.Said:
    """Whether the journal's holds are those acknowledged, each of them once."""
    ours = {hold.identity for hold in account.acknowledged()}
    missing, unasked = len(ours - held.keys()), len(held.keys() - ours)
    twice = sum(times > 1 for times in held.values())
    figures = f"{len(ours):,} acknowledged, {missing:,} missing, {unasked:,} that we know nothing of, {twice:,} twice"
    return journal.Said(not (missing or unasked or twice), figures)


def never_oversold(least: Mapping[tuple[str, str], int]) -> journal.Said:
    """Whether available was never below 0."""
    below = [place for place, units in least.items() if units < 0]
    return journal.Said(not below, f"{len(least):,} positions, {len(below):,} were{_first(below)}")


def ran_short(account: Account, least: Mapping[tuple[str, str], int]) -> journal.Said:
    """Whether each refused hold has a line of which there was less, at some moment, than it asked for."""
    refused, unjust = 0, list[str]()
    for hold in account.refused():
        refused += 1
        if not any(least.get((location, sku), 0) < quantity for location, sku, quantity in hold.lines):
            unjust.append(hold.key)
    return journal.Said(not unjust, f"{refused:,} refused, {len(unjust):,} although there was enough{_first(unjust)}")


def check_refusals_by_themselves(account: Account) -> Check:
    """Whether each refusal names lines of which there was less than asked."""
    odd = list(account.odd())
    return Check(
        "refusals name what fell short", not odd, f"{len(odd):,} do not, of the first of each process{_first(odd)}"
    )


def _first(found: Sequence[object]) -> str:
    return f"; {found[0]}" if found else ""


async def _each(
    holds: Sequence[Hold], ask: Callable[[Hold], Awaitable[dict[str, Any] | None]]
) -> list[dict[str, Any] | None]:
    """What is told of each, some at a time."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(hold: Hold) -> dict[str, Any] | None:
        async with turns:
            return await ask(hold)

    return list(await asyncio.gather(*(one(hold) for hold in holds)))
