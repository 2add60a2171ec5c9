"""Operations on reservations of a ledger with several shards, also of a reservation that takes more than one of them.

An attempt *looks* at every shard first: that finds a replay, finds the reservation, keeps other attempts at the same
operation away (a lock of seconds), and pins a reservation over several shards. What concerns one shard then goes there
unchanged. A hold over several is *prepared* on each (a claim of seconds) and *sealed* when all have accepted, else
dropped; any other change is judged on the whole and then sent to each shard as its *part*.

Whatever a coordinator leaves behind is finished by the next attempt or by the keeper (``finish_unfinished``): done
anywhere is done everywhere, done nowhere is undone. A token per attempt keeps a slow one from going on after that.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import uniform
from typing import NamedTuple, cast
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from ledger import messages as m
from ledger.claims import TAKES, Claim, Place, verb_of
from ledger.coalescer import Coalescer
from ledger.errors import LedgerError, Overloaded, Unavailable, Unknown
from ledger.keys import shard_of
from ledger.planning import Plan, plan_of, unknown_in
from ledger.rules import OPERATIONS_MAX

ATTEMPT_S = 2.0
"""How long an operation waits for another attempt at it to end; a lock or a pin outlives that (``spanning.lua``)."""
AGAIN_FIRST_S, AGAIN_LAST_S = 0.002, 0.05
UNDER_WAY_MS = 3_000
"""A pin that has longer to go is an attempt's own affair (``spanning.lua``: PIN_MS less LOOK_AGAIN_MS)."""
LINE_OF_ANOTHER_PART = 0
PLANS_MAX = 8
"""How often a hold is planned anew because others took the stock it was planned with."""

logger = logging.getLogger(__name__)
_change = msgspec.json.Decoder(m.Change)


class Sight(NamedTuple):
    """What all shards know of an operation and of a reservation, at about ``now_ms``."""

    now_ms: int
    is_busy: bool
    operation: m.OperationDone | None
    parts: dict[int, m.Reservation]
    """By shard."""

    @property
    def is_whole(self) -> bool:
        """Whether there is a reservation, with every part of it."""
        first = next(iter(self.parts.values()), None)
        return first is not None and (first.span is None or set(first.span.shards) == set(self.parts))

    @property
    def spans(self) -> list[m.Span]:
        return [part.span for part in self.parts.values() if part.span]

    @property
    def is_sealed(self) -> bool:
        """False while it is being held, or when that was left behind, so that there may be only some parts."""
        return all(span.sealed for span in self.spans) and (self.is_whole or not self.parts)

    def is_pinned_by_others(self, token: str) -> bool:
        return any(span.token not in ("", token) for span in self.spans)

    @property
    def is_under_way(self) -> bool:
        """Whether a pin is so young that its coordinator may still be at work."""
        return any(span.pinned_until_ms - self.now_ms > UNDER_WAY_MS for span in self.spans)


class Shelf:
    """The stock of some SKUs as it was read: what a hold over several shards is planned with."""

    def __init__(
        self, low_stock: int, locations: Mapping[str, m.Location], items: Mapping[str, m.ItemPositions]
    ) -> None:
        self.low_stock = low_stock
        self.locations = locations
        self._known = {sku for sku, item in items.items() if item.known}
        self._at = {Place(sku, at.location): at for sku, item in items.items() for at in item.positions}

    def is_known(self, sku: str) -> bool:
        return sku in self._known

    def places(self, sku: str) -> list[Place]:
        return [place for place, at in self._at.items() if place.sku == sku and at.enabled]

    def position(self, place: Place) -> m.Position:
        at = self._at.get(place)
        return at.position if at else m.Position(0, 0, 0, 0, 0, 0, 0, 0, 0)

    def left(self, place: Place) -> int:
        at = self._at.get(place)
        return at.left if at else 0


def merged(parts: Mapping[int, m.Reservation]) -> m.Reservation:
    """The whole reservation, its lines in their order; the receipt is that of the first shard."""
    first = parts[min(parts)]
    if first.span is None:
        return first
    lines = {number: line for part in parts.values() for number, line in zip(part.numbers, part.lines, strict=True)}
    return replace(first, lines=[lines[number] for number in sorted(lines)], span=None)


class Spanning:
    """The operations on reservations of a ledger with several shards; raises what ``Ledger`` raises."""

    def __init__(self, shards: Sequence[Coalescer], *, low_stock: int) -> None:
        self._shards = shards
        self._low_stock = low_stock

    async def find(self, find: m.Find) -> m.Found | m.NotFound:
        sight = await self._sight(m.Look(find.id, find.client, find.id, ""))
        verb, target = "hold", find.id
        if sight.operation is not None and sight.operation.verb != "hold":
            verb, target = sight.operation.verb, sight.operation.reservation
        sight = await self._settled_sight(target, find.client)
        if not sight.is_whole:
            return m.NotFound()
        return m.Found(verb, target, merged(sight.parts), min(sight.parts))

    async def hold(self, hold: m.Hold) -> m.HoldOutcome:
        look = m.Look(hold.id, hold.client, hold.id, uuid4().hex, locks=True)
        async with self._attempt(look) as sight:
            if sight.operation is not None:
                return cast(m.HoldOutcome, await self._replayed(sight.operation, hold.fingerprint, hold.client))
            shards = {self._shard_of(line.sku) for line in hold.lines}
            if len(shards) > 1:
                return await self._hold_over(hold, look.token)
            (shard,) = shards
            return cast(m.HoldOutcome, _of_shard(await self._ask(shard, hold), shard))

    async def change(self, change: m.Change) -> m.CommitOutcome | m.MoveOutcome:
        intent = msgspec.json.encode(change).decode()
        look = m.Look(change.id, change.client, change.reservation, uuid4().hex, locks=True, intent=intent)
        async with self._attempt(look) as sight:
            if sight.operation is not None or not sight.is_whole:
                await self._try(dict.fromkeys(sight.parts, m.Finish("", change.reservation, look.token)))
            if sight.operation is not None:
                return await self._replayed(sight.operation, change.fingerprint, change.client)
            if not sight.is_whole:
                return m.NotFound()
            if len(sight.parts) > 1:
                return await self._change_whole(change, sight, look.token)
            (shard,) = sight.parts
            return cast(m.CommitOutcome, _of_shard(await self._ask(shard, change), shard))

    async def finish_unfinished(self) -> None:
        """Finish what coordinators left behind, and forget what has ended on every shard a day ago."""
        lists = cast("list[m.UnfinishedList]", await self._ask_all(dict.fromkeys(self._numbers(), m.Unfinished())))
        for reservation, client in dict(pair for found in lists for pair in found.reservations).items():
            await self._finish(reservation, client)

    # --- asking -------------------------------------------------------------------------------------------------

    def _numbers(self) -> range:
        return range(len(self._shards))

    def _shard_of(self, name: str) -> int:
        return shard_of(name, len(self._shards))

    async def _ask(self, shard: int, operation: m.Operation) -> m.Outcome:
        return await self._shards[shard].submit(operation)

    async def _try(self, operations: Mapping[int, m.Operation]) -> dict[int, m.Outcome | LedgerError]:
        """Asks several shards at once; for each what it answered, or how it failed."""
        answers = await asyncio.gather(
            *(self._ask(shard, operation) for shard, operation in operations.items()), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, LedgerError):
                raise answer
        return dict(zip(operations, cast("list[m.Outcome | LedgerError]", answers), strict=True))

    async def _ask_all(self, operations: Mapping[int, m.Operation]) -> list[m.Outcome]:
        """Asks several shards at once; raises the first failure."""
        answers = await self._try(operations)
        for answer in answers.values():
            if isinstance(answer, LedgerError):
                raise answer
        return cast("list[m.Outcome]", list(answers.values()))

    def _tell(self, operations: Mapping[int, m.Operation]) -> None:
        """Sends what nobody waits for: if it is lost, time or the keeper does the same."""
        for shard, operation in operations.items():
            try:
                answer = self._shards[shard].submit(operation)
            except Overloaded:
                continue
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _sight(self, look: m.Look) -> Sight:
        home = self._shard_of(look.id)
        looks = {shard: look if shard == home else replace(look, locks=False) for shard in self._numbers()}
        found = cast("list[m.Looked]", await self._ask_all(looks))
        return Sight(
            max(looked.now_ms for looked in found),
            any(looked.is_busy for looked in found),
            next((looked.operation for looked in found if looked.operation), None),
            {shard: looked.part for shard, looked in enumerate(found) if looked.part},
        )

    async def _settled_sight(self, reservation: str, client: str) -> Sight:
        """A look at a reservation, after what an attempt left behind was finished."""
        look = m.Look(reservation, client, reservation, "")
        sight = await self._sight(look)
        if sight.is_sealed and not sight.is_pinned_by_others(""):
            return sight
        if not sight.is_under_way:
            await self._finish(reservation, client)
            sight = await self._sight(look)
        return sight if sight.is_sealed else sight._replace(parts={})

    # --- an attempt ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _attempt(self, look: m.Look) -> AsyncIterator[Sight]:
        """Alone with the operation and, if it changes one, its reservation, after what others left behind was finished.

        Raises Overloaded when another attempt at either goes on for too long.
        """
        sight = await self._alone(look)
        try:
            yield sight
        finally:
            self._tell({self._shard_of(look.id): m.Finish(look.id, "", look.token)})

    async def _alone(self, look: m.Look) -> Sight:
        deadline_s = asyncio.get_running_loop().time() + ATTEMPT_S
        again_s = AGAIN_FIRST_S
        while True:
            sight = await self._sight(look)
            left_behind = not sight.is_sealed or (look.intent != "" and sight.is_pinned_by_others(look.token))
            if not sight.is_busy and not left_behind:
                return sight
            await self._try(dict.fromkeys(self._numbers(), m.Finish(look.id, look.reservation, look.token)))
            if asyncio.get_running_loop().time() > deadline_s:
                raise Overloaded("another operation with the same key, or on the same reservation, is under way")
            if sight.is_busy:
                await asyncio.sleep(uniform(0.5, 1.0) * again_s)  # noqa: S311 - not a secret
                again_s = min(2 * again_s, AGAIN_LAST_S)
            else:
                await self._finish(look.reservation, look.client)

    async def _replayed(self, done: m.OperationDone, fingerprint: str, client: str) -> m.CommitOutcome:
        if done.fingerprint != fingerprint:
            return m.KeyReused(done.fingerprint)
        sight = await self._settled_sight(done.reservation, client)
        if not sight.is_whole:
            return m.NotFound()
        return m.Done(True, done.reservation, merged(sight.parts), min(sight.parts))

    # --- a hold over several shards -----------------------------------------------------------------------------

    async def _hold_over(self, hold: m.Hold, token: str) -> m.HoldOutcome:
        for _ in range(PLANS_MAX):
            shelf = await self._shelf(hold)
            plan = plan_of(hold, shelf) if (unknown := unknown_in(hold, shelf)) is None else unknown
            if not isinstance(plan, Plan):
                return plan
            if plan.short and (hold.mode == "all" or plan.grants_nothing):
                return m.Insufficient(plan.short)
            prepares = self._prepares(hold, plan, token)
            answers = await self._try(prepares)
            if all(isinstance(answer, m.Done) for answer in answers.values()):
                return await self._seal(hold, token, cast("dict[int, m.Done]", answers))
            await self._try({shard: m.Drop(hold.id, token) for shard in prepares})
            refusal = next((a for a in answers.values() if not isinstance(a, m.Done | m.Insufficient)), None)
            if isinstance(refusal, m.Unpinned):
                break
            if isinstance(refusal, Unknown):
                raise Unavailable("a shard of the ledger did not answer: nothing is held") from refusal
            if isinstance(refusal, LedgerError):
                raise refusal
            if refusal is not None:
                return cast(m.HoldOutcome, refusal)
        raise Overloaded("others take the same stock")

    async def _shelf(self, hold: m.Hold) -> Shelf:
        """What the hold's SKUs have, at the locations that its lines name or at every enabled one."""
        wanted: dict[str, set[str | None]] = {}
        for line in hold.lines:
            wanted.setdefault(line.sku, set()).add(line.location)
        reads = {}
        for shard in self._numbers():
            items = [
                m.ReadItem(sku, None if locations == {None} else sorted(filter(None, locations)))
                for sku, at in wanted.items()
                if self._shard_of(sku) == shard
                for locations in ({None}, at - {None})
                if locations & at
            ]
            if items:
                reads[shard] = m.Read(items)
        found, listed = await asyncio.gather(self._ask_all(reads), self._ask(0, m.Locations()))
        items_of: dict[str, m.ItemPositions] = {}
        for read, positions in zip(reads.values(), cast("list[m.Positions]", found), strict=True):
            for item, at in zip(read.items, positions.items, strict=True):
                before = items_of.get(item.sku)
                items_of[item.sku] = replace(at, positions=[*(before.positions if before else []), *at.positions])
        locations = {location.id: location for location in cast(m.LocationList, listed).locations}
        return Shelf(self._low_stock, locations, items_of)

    def _prepares(self, hold: m.Hold, plan: Plan, token: str) -> dict[int, m.Prepare]:
        granted = [line for index, asked in enumerate(hold.lines) for line in plan.lines_of(index, asked)]
        lines: dict[int, list[m.PartLine]] = {}
        for number, (part, requested) in enumerate(granted, 1):
            line = m.PartLine(number, *part.place, part.quantity, requested)
            lines.setdefault(self._shard_of(part.place.sku), []).append(line)
        return {
            shard: m.Prepare(
                *(hold.id, hold.fingerprint, hold.client, token, lines[shard], sorted(lines)),
                *(hold.channel, hold.customer),
            )
            for shard in sorted(lines)
        }

    async def _seal(self, hold: m.Hold, token: str, prepared: dict[int, m.Done]) -> m.Done:
        now_ms = max(done.reservation.created_at_ms for done in prepared.values())
        seal = m.Seal(hold.id, token, now_ms + hold.ttl_ms)
        answers = await self._try(dict.fromkeys(prepared, seal))
        parts = {shard: answer.reservation for shard, answer in answers.items() if isinstance(answer, m.Done)}
        if len(parts) < len(prepared):
            raise Unknown("a shard of the ledger did not answer while the hold was sealed")
        self._tell(dict.fromkeys(parts, m.Finish("", hold.id, token)))
        return m.Done(False, hold.id, merged(parts), min(parts))

    # --- another change over several shards ---------------------------------------------------------------------

    async def _change_whole(self, change: m.Change, sight: Sight, token: str) -> m.CommitOutcome | m.MoveOutcome:
        """Judges the change on the whole, and does it on every part or on none."""
        whole = Claim.of(merged(sight.parts))
        if whole.is_overdue(sight.now_ms):
            whole.expire()
        unpin = dict.fromkeys(sight.parts, m.Finish("", change.reservation, token))
        try:
            parts, refusal = await self._judge(change, whole, sight, token)
        except (Overloaded, Unavailable):
            self._tell(unpin)
            raise
        if refusal is not None:
            await self._try(unpin)
            return refusal
        answers = await self._try({shard: part_of(change, part, token, sight.now_ms) for shard, part in parts.items()})
        done = {shard: answer.reservation for shard, answer in answers.items() if isinstance(answer, m.Done)}
        if len(done) == len(parts):
            self._tell(unpin)
            return m.Done(False, change.reservation, merged(done), min(done))
        failures = [answer for answer in answers.values() if isinstance(answer, Overloaded | Unavailable)]
        if len(failures) == len(parts):
            self._tell(unpin)
            raise failures[0]
        raise Unknown("a shard of the ledger did not answer; the others have done it")

    async def _judge(
        self, change: m.Change, whole: Claim, sight: Sight, token: str
    ) -> tuple[dict[int, m.Reservation], m.CommitOutcome | m.MoveOutcome | None]:
        """The parts, ready for the change, or why it must not be."""
        if len(whole.operations) >= OPERATIONS_MAX:
            return sight.parts, m.OperationsLimit(OPERATIONS_MAX)
        if isinstance(change, m.Move):
            return await self._move(change, whole, sight, token)
        judged = whole.judge(change)
        if not isinstance(judged, list):
            return sight.parts, judged
        if isinstance(change, m.Commit) and not whole.units("held"):
            return await self._reclaim(change, sight.parts, token)
        return sight.parts, None

    async def _reclaim(
        self, commit: m.Commit, parts: dict[int, m.Reservation], token: str
    ) -> tuple[dict[int, m.Reservation], m.Insufficient | None]:
        """Claims the expired units anew on every shard; the parts after that, or what is short."""
        wanted = {shard: units_of(part, commit.lines, ("expired",)) for shard, part in parts.items()}
        answers = await self._try(
            {
                shard: m.Reclaim(commit.reservation, commit.client, token, lines)
                for shard, lines in wanted.items()
                if lines
            }
        )
        for answer in answers.values():
            if isinstance(answer, LedgerError):
                raise Unavailable("a shard of the ledger did not answer: nothing is committed") from answer
        order = [line.line for line in commit.lines or []]
        short = [
            replace(line, line=parts[shard].numbers[line.line - 1])
            for shard, answer in answers.items()
            if isinstance(answer, m.Insufficient)
            for line in answer.lines
        ]
        if short:
            return parts, m.Insufficient(sorted(short, key=lambda line: order.index(line.line) if order else line.line))
        return parts | {shard: cast(m.Done, answer).reservation for shard, answer in answers.items()}, None

    async def _move(
        self, move: m.Move, whole: Claim, sight: Sight, token: str
    ) -> tuple[dict[int, m.Reservation], m.MoveOutcome | None]:
        """Moves the line on its shard, first of all parts: they only take note of it."""
        parts = sight.parts
        shard = next((shard for shard, part in parts.items() if move.line in part.numbers), min(parts))
        answer = await self._ask(shard, replace(part_of(move, parts[shard], token, sight.now_ms), takes=True))
        match answer:
            case m.Done():
                return parts, None
            case m.Insufficient(lines=[line]):
                return parts, m.Insufficient([replace(line, line=move.line)])
            case m.UnknownLocation():
                return parts, replace(answer, line=move.line)
            case m.WrongState():
                return parts, whole.wrong_state()
        raise Unknown("another attempt has the reservation by now")

    # --- what was left behind -----------------------------------------------------------------------------------

    async def _finish(self, reservation: str, client: str) -> None:
        """Bring a reservation over several shards to where all its parts agree, whoever left it as it is.

        The look takes every part over, so that no other attempt changes it from then on. Raises what ``Ledger`` raises.
        """
        token = uuid4().hex
        sight = await self._sight(m.Look(reservation, client, reservation, token, takes_over=True))
        parts = {shard: part for shard, part in sight.parts.items() if part.span}
        if not parts:
            return
        sealed = [part for part in parts.values() if part.span and part.span.sealed]
        if not sight.is_whole or not sealed:
            # It was never answered as held: a part is missing only if its claim has ended before it was sealed.
            await self._ask_all({shard: m.Drop(reservation, token) for shard in parts})
            return
        if len(sealed) < len(parts):
            seal = m.Seal(reservation, token, sealed[0].expires_at_ms)
            unsealed = [shard for shard, part in parts.items() if part.span and not part.span.sealed]
            await self._ask_all(dict.fromkeys(unsealed, seal))
        await self._roll_forward(parts, token, sight.now_ms)
        if Claim.of(merged(parts)).is_live:
            await self._ask_all(dict.fromkeys(parts, m.Finish("", reservation, token)))
        else:
            await self._ask_all(dict.fromkeys(parts, m.Forget(reservation, token)))

    async def _roll_forward(self, parts: dict[int, m.Reservation], token: str, at_ms: int) -> None:
        """A change that was done on some shard is done on the others."""
        intents = {part.span.intent for part in parts.values() if part.span and part.span.intent}
        for change in map(_change.decode, sorted(intents)):
            undone = {shard: part for shard, part in parts.items() if change.id not in part.operations}
            if len(undone) < len(parts):
                if isinstance(change, m.Extend):
                    done = next(part for shard, part in parts.items() if shard not in undone)
                    at_ms = done.expires_at_ms - change.ttl_ms
                logger.warning(
                    "operation %s had been done on some shards only: it is done on the others now", change.id
                )
                await self._ask_all({shard: part_of(change, part, token, at_ms) for shard, part in undone.items()})


def units_of(part: m.Reservation, lines: list[m.UnitsOfLine] | None, states: tuple[str, ...]) -> list[m.UnitsOfLine]:
    """The units that a change takes of a part, by the part's own line numbers; ``lines`` has the whole's."""
    if lines is None:
        taken = Claim.of(part).units_to_take(None, states) or []
        return [m.UnitsOfLine(line + 1, quantity) for line, _, quantity in taken]
    own = {number: index for index, number in enumerate(part.numbers, 1)}
    return [m.UnitsOfLine(own[line.line], line.quantity) for line in lines if line.line in own]


def part_of(change: m.Change, part: m.Reservation, token: str, at_ms: int) -> m.Part:
    """What a change of the whole at ``at_ms`` is for one of its parts."""
    if isinstance(change, m.Extend):
        return m.Part(token, at_ms, any(line.held for line in part.lines), change)
    if isinstance(change, m.Move):
        own = part.numbers.index(change.line) + 1 if change.line in part.numbers else LINE_OF_ANOTHER_PART
        return m.Part(token, at_ms, own != LINE_OF_ANOTHER_PART, replace(change, line=own))
    lines = units_of(part, change.lines, TAKES[verb_of(change)])
    return m.Part(token, at_ms, bool(lines), replace(change, lines=lines))


def _of_shard(outcome: m.Outcome, shard: int) -> m.Outcome:
    return replace(outcome, shard=shard) if isinstance(outcome, m.Done | m.Found) else outcome
