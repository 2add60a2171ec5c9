"""Operations on reservations of a ledger with several shards, also of a reservation that takes more than one of them.

An attempt *looks* at every shard first: that finds a replay, finds the reservation, keeps other attempts at the same
operation away (a lock of seconds), and pins a reservation over several shards. What concerns one shard then goes there
unchanged. A hold over several is *prepared* on each (a claim of seconds) and *sealed* when all have accepted, else
dropped; any other change is judged on the whole and then sent to each shard as its *part*.

Whatever a coordinator leaves behind is finished by the next attempt or by the keeper (``finish_unfinished``): done
anywhere is done everywhere, done nowhere is undone. A token per attempt keeps a slow one from going on after that, and
what an attempt sends says until when it may be done: its lock may have ended by then.
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
from ledger.claims import OPERATIONS_MAX, TAKES, Claim, Place, merged, verb_of
from ledger.coalescer import Coalescer
from ledger.errors import LedgerError, Overloaded, Unavailable, Unknown
from ledger.keys import shard_of
from ledger.planning import Plan, plan_of, unknown_in

ATTEMPT_S = 2.0
"""How long an operation waits for another attempt at it to end; a lock or a pin outlives that (``spanning.lua``)."""
AGAIN_FIRST_S, AGAIN_LAST_S = 0.002, 0.05
LOCK_MS = 4_500
"""What is done within this time of a look is under its lock (``spanning.lua``: LOCK_MS, less some slack)."""
LINE_OF_ANOTHER_PART = 0
"""The Lua counts lines from 1."""
NO_END_MS = m.TIME_MS_MAX
"""For what the pin's token keeps apart, however late it comes."""
PLANS_MAX = 8
"""How often a hold is planned anew because others took the stock it was planned with."""

logger = logging.getLogger(__name__)
_change = msgspec.json.Decoder(m.Change)


class Sight(NamedTuple):
    """What all shards know of an operation and of a reservation, at about ``now_ms``."""

    now_ms: int
    until_ms: dict[int, int]
    """By shard: when what the look's lock keeps apart must have been done, by the shard's own clock."""
    busy_with: frozenset[str]
    """Operations of other attempts under way; then there is nothing else in the sight to go by."""
    is_young: bool
    """Whether who has pinned a part may still be at work."""
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
    def all_shards(self) -> list[int]:
        """Those that have a part, or should have."""
        return sorted({shard for span in self.spans for shard in span.shards} | set(self.parts))


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
                return await self._hold_over(hold, sight, look.token)
            return cast(m.HoldOutcome, await self._ask_in_time(hold, sight, *shards))

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
            return cast(m.CommitOutcome, await self._ask_in_time(change, sight, *sight.parts))

    async def finish_unfinished(self) -> None:
        """Finish what coordinators left behind, and forget what has ended on every shard a day ago.

        What a shard that does not answer has a part of waits for it; all else goes on.
        """
        lists = await self._try(dict.fromkeys(self._numbers(), m.Unfinished()))
        found = [each for told in lists.values() if isinstance(told, m.UnfinishedList) for each in told.reservations]
        for reservation, client, shards in {id_: (id_, client, shards) for id_, client, shards in found}.values():
            try:
                await self._finish(reservation, client, shards)
            except LedgerError as error:
                logger.warning("reservation %s cannot be finished now: %s", reservation, error)

    # --- asking -------------------------------------------------------------------------------------------------

    def _numbers(self) -> range:
        return range(len(self._shards))

    def _shard_of(self, name: str) -> int:
        return shard_of(name, len(self._shards))

    async def _ask(self, shard: int, operation: m.Operation) -> m.Outcome:
        return await self._shards[shard].submit(operation)

    async def _ask_in_time(self, operation: m.Verb, sight: Sight, shard: int) -> m.Outcome:
        """Does on one shard what concerns only that one. Raises Overloaded when its lock may have ended."""
        part = m.Part("", sight.now_ms, sight.until_ms[shard], True, operation)
        answer = await self._ask(shard, part)
        if isinstance(answer, m.Unpinned):
            raise Overloaded("it took too long to come to the ledger: nothing was done")
        return replace(answer, shard=shard) if isinstance(answer, m.Done) else answer

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

    async def _sight(self, look: m.Look, shards: Sequence[int] | None = None) -> Sight:
        """Looks at all shards, or at these."""
        home, started_s = self._shard_of(look.id), asyncio.get_running_loop().time()
        asked = self._numbers() if shards is None else shards
        looks = {shard: look if shard == home else replace(look, locks=False) for shard in asked}
        found = dict(zip(looks, cast("list[m.Looked]", await self._ask_all(looks)), strict=True))
        left_ms = max(0, LOCK_MS - int(1_000 * (asyncio.get_running_loop().time() - started_s)))
        return Sight(
            max(looked.now_ms for looked in found.values()),
            {shard: looked.now_ms + left_ms for shard, looked in found.items()},
            frozenset(looked.busy_with for looked in found.values() if looked.busy_with),
            any(looked.is_young for looked in found.values()),
            next((looked.operation for looked in found.values() if looked.operation), None),
            {shard: looked.part for shard, looked in found.items() if looked.part},
        )

    async def _settled_sight(self, reservation: str, client: str) -> Sight:
        """A look at a reservation, when no attempt at it is under way and what one left behind was finished.

        Raises Unknown when an attempt goes on for too long.
        """
        look = m.Look(reservation, client, reservation, "")
        pauses = _Pauses()
        while True:
            sight = await self._sight(look)
            if sight.is_sealed and not sight.is_pinned_by_others(""):
                return sight
            if not sight.is_young:
                await self._finish(reservation, client, sight.all_shards)
            elif not await pauses.pause():
                raise Unknown("an operation on the reservation is under way")

    # --- an attempt ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _attempt(self, look: m.Look) -> AsyncIterator[Sight]:
        """Alone with the operation and, if it changes one, its reservation, after what others left behind was finished.

        Raises Overloaded when another attempt at either goes on for too long, Unknown when that one is at this very
        operation.
        """
        try:
            sight = await self._alone(look)
        except BaseException:
            self._tell(dict.fromkeys(self._numbers(), m.Finish(look.id, look.reservation, look.token)))
            raise
        try:
            yield sight
        finally:
            self._tell({self._shard_of(look.id): m.Finish(look.id, "", look.token)})

    async def _alone(self, look: m.Look) -> Sight:
        pauses = _Pauses()
        while True:
            sight = await self._sight(look)
            left_behind = not sight.is_sealed or (look.intent != "" and sight.is_pinned_by_others(look.token))
            if not sight.busy_with and not left_behind:
                return sight
            await self._try(dict.fromkeys(self._numbers(), m.Finish(look.id, look.reservation, look.token)))
            if not sight.busy_with:
                await self._finish(look.reservation, look.client, sight.all_shards)
            elif not await pauses.pause():
                if look.id in sight.busy_with:
                    raise Unknown("an earlier attempt at this operation is under way")
                raise Overloaded("another operation on the same reservation is under way")

    async def _replayed(self, done: m.OperationDone, fingerprint: str, client: str) -> m.CommitOutcome:
        if done.fingerprint != fingerprint:
            return m.KeyReused(done.fingerprint)
        sight = await self._settled_sight(done.reservation, client)
        if not sight.is_whole:
            return m.NotFound()
        return m.Done(True, done.reservation, merged(sight.parts), min(sight.parts))

    # --- a hold over several shards -----------------------------------------------------------------------------

    async def _hold_over(self, hold: m.Hold, sight: Sight, token: str) -> m.HoldOutcome:
        for _ in range(PLANS_MAX):
            shelf = await self._shelf(hold)
            plan = plan_of(hold, shelf) if (unknown := unknown_in(hold, shelf)) is None else unknown
            if not isinstance(plan, Plan):
                return plan
            if plan.short and (hold.mode == "all" or plan.grants_nothing):
                return m.Insufficient(plan.short)
            prepares = self._prepares(hold, plan, sight, token)
            answers = await self._try(prepares)
            if all(isinstance(answer, m.Done) for answer in answers.values()):
                return await self._seal(hold, token, cast("dict[int, m.Done]", answers))
            await self._try({shard: m.Drop(hold.id, token) for shard in prepares})
            refusal = next((a for a in answers.values() if not isinstance(a, m.Done | m.Insufficient)), None)
            if isinstance(refusal, m.Unpinned):
                raise Overloaded("it took too long to come to every shard: nothing is held")
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

    def _prepares(self, hold: m.Hold, plan: Plan, sight: Sight, token: str) -> dict[int, m.Prepare]:
        granted = [line for index, asked in enumerate(hold.lines) for line in plan.lines_of(index, asked)]
        lines: dict[int, list[m.PartLine]] = {}
        for number, (part, requested) in enumerate(granted, 1):
            line = m.PartLine(number, *part.place, part.quantity, requested)
            lines.setdefault(self._shard_of(part.place.sku), []).append(line)
        return {
            shard: m.Prepare(
                *(hold.id, hold.fingerprint, hold.client, token, lines[shard], sorted(lines)),
                *(hold.channel, hold.customer, sight.until_ms[shard]),
            )
            for shard in sorted(lines)
        }

    async def _seal(self, hold: m.Hold, token: str, prepared: dict[int, m.Done]) -> m.Done:
        now_ms = max(done.reservation.created_at_ms for done in prepared.values())
        seal = m.Seal(hold.id, token, now_ms + hold.ttl_ms)
        answers = await self._try(dict.fromkeys(prepared, seal))
        parts = {shard: answer.reservation for shard, answer in answers.items() if isinstance(answer, m.Done)}
        if len(parts) < len(prepared):
            # Whatever each of them did: it is brought to an end now, and what that is can be seen.
            try:
                await self._finish(hold.id, hold.client, list(prepared))
                sight = await self._sight(m.Look(hold.id, hold.client, hold.id, ""), list(prepared))
            except LedgerError as error:
                raise Unknown("a shard of the ledger did not answer while the hold was sealed") from error
            if not sight.is_whole or not sight.is_sealed:
                raise Unavailable("a shard of the ledger did not answer: nothing is held")
            parts = sight.parts
        self._tell(dict.fromkeys(parts, _done(hold.id)))
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
        answers = await self._try(
            {shard: part_of(change, part, token, sight.now_ms, NO_END_MS) for shard, part in parts.items()}
        )
        done = {shard: answer.reservation for shard, answer in answers.items() if isinstance(answer, m.Done)}
        if len(done) == len(parts):
            self._tell(dict.fromkeys(parts, _done(change.reservation)))
            return m.Done(False, change.reservation, merged(done), min(done))
        failures = [answer for answer in answers.values() if isinstance(answer, Overloaded | Unavailable)]
        if len(failures) == len(parts):
            self._tell(unpin)
            raise failures[0]
        raise Unknown("not every shard of the ledger said that it has done it")

    async def _judge(
        self, change: m.Change, whole: Claim, sight: Sight, token: str
    ) -> tuple[dict[int, m.Reservation], m.CommitOutcome | m.MoveOutcome | None]:
        """The parts, ready for the change, or why it must not be."""
        if not whole.may_operate(change):
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
    ) -> tuple[dict[int, m.Reservation], m.Insufficient | m.OpenReservationsLimit | None]:
        """Claims the expired units anew on every shard; the parts after that, or what is short."""
        # By its own clock a shard may have held units still: they need no claim.
        wanted = {
            shard: units_of(part, commit.lines, ("expired",))
            for shard, part in parts.items()
            if any(line.expired for line in part.lines) and not any(line.held for line in part.lines)
        }
        answers = await self._try(
            {
                shard: m.Reclaim(commit.reservation, commit.client, token, lines)
                for shard, lines in wanted.items()
                if lines
            }
        )
        order = [line.line for line in commit.lines or []]
        short: list[m.ShortLine] = []
        claimed: dict[int, m.Reservation] = {}
        for shard, answer in answers.items():
            match answer:
                case m.Done():
                    claimed[shard] = answer.reservation
                case m.Insufficient():
                    short += [replace(line, line=parts[shard].numbers[line.line - 1]) for line in answer.lines]
                case m.OpenReservationsLimit():
                    return parts, answer
                case _:
                    raise Unavailable("a shard of the ledger did not answer: nothing is committed")
        if short:
            return parts, m.Insufficient(sorted(short, key=lambda line: order.index(line.line) if order else line.line))
        return parts | claimed, None

    async def _move(
        self, move: m.Move, whole: Claim, sight: Sight, token: str
    ) -> tuple[dict[int, m.Reservation], m.MoveOutcome | None]:
        """Moves the line on its shard, first of all parts: they only take note of it."""
        parts = sight.parts
        shard = next((shard for shard, part in parts.items() if move.line in part.numbers), min(parts))
        answer = await self._ask(
            shard, replace(part_of(move, parts[shard], token, sight.now_ms, NO_END_MS), takes=True)
        )
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

    async def _finish(self, reservation: str, client: str, shards: Sequence[int]) -> None:
        """Bring a reservation over several shards to where all its parts agree, whoever left it as it is.

        The look takes every part over, so that no other attempt changes it from then on. Raises what ``Ledger`` raises.
        """
        look = m.Look(reservation, client, reservation, uuid4().hex, takes_over=True)
        token, sight = look.token, await self._sight(look, shards)
        if sight.parts and not sight.is_whole:
            # Who was looked at first may not have had its part yet, which is sealed by now; it is looked at last again.
            missing = [shard for shard in sight.all_shards if shard not in sight.parts]
            later = await self._sight(look, missing)
            sight = sight._replace(parts=dict(sorted((sight.parts | later.parts).items())))
        parts = {shard: part for shard, part in sight.parts.items() if part.span}
        sealed = [part for part in parts.values() if part.span and part.span.sealed]
        if not parts or not sight.is_whole or not sealed:
            # It was never answered as held: a part is missing only if its claim has ended before it was sealed.
            await self._ask_all({shard: m.Drop(reservation, token) for shard in parts})
            return
        if len(sealed) < len(parts):
            seal = m.Seal(reservation, token, sealed[0].expires_at_ms)
            unsealed = [shard for shard, part in parts.items() if part.span and not part.span.sealed]
            await self._ask_all(dict.fromkeys(unsealed, seal))
        if not await self._rolled_forward(parts, token, sight.now_ms):
            return
        if Claim.of(merged(parts)).is_live:
            await self._ask_all(dict.fromkeys(parts, m.Finish("", reservation, token, is_done=True)))
        else:
            await self._ask_all(dict.fromkeys(parts, m.Forget(reservation, token)))

    async def _rolled_forward(self, parts: dict[int, m.Reservation], token: str, at_ms: int) -> bool:
        """Does on all shards a change that was done on some; False when one refuses: then it stays to be looked at."""
        intents = {part.span.intent for part in parts.values() if part.span and part.span.intent}
        for change in map(_change.decode, sorted(intents)):
            undone = {shard: part for shard, part in parts.items() if change.id not in part.operations}
            if len(undone) == len(parts):
                continue
            if isinstance(change, m.Extend):
                done = next(part for shard, part in parts.items() if shard not in undone)
                at_ms = done.expires_at_ms - change.ttl_ms
            logger.warning("operation %s was done on some shards only: it is done on the others now", change.id)
            answers = await self._ask_all(
                {shard: part_of(change, part, token, at_ms, NO_END_MS) for shard, part in undone.items()}
            )
            if not all(isinstance(answer, m.Done) for answer in answers):
                logger.critical("operation %s is done on some shards and refused by others: %s", change.id, answers)
                return False
        return True


class _Pauses:
    """Waits for another attempt to end: longer and longer, but not for ever."""

    def __init__(self) -> None:
        self._until_s = asyncio.get_running_loop().time() + ATTEMPT_S
        self._again_s = AGAIN_FIRST_S

    async def pause(self) -> bool:
        """Waits a little; False when that has been done for long enough."""
        if asyncio.get_running_loop().time() > self._until_s:
            return False
        await asyncio.sleep(uniform(0.5, 1.0) * self._again_s)  # noqa: S311 - not a secret
        self._again_s = min(2 * self._again_s, AGAIN_LAST_S)
        return True


def _done(reservation: str) -> m.Finish:
    """Tells a shard that every part has done what was under way."""
    return m.Finish("", reservation, "", is_done=True)


def units_of(part: m.Reservation, lines: list[m.UnitsOfLine] | None, states: tuple[str, ...]) -> list[m.UnitsOfLine]:
    """The units that a change takes of a part, by the part's own line numbers; ``lines`` has the whole's."""
    if lines is None:
        taken = Claim.of(part).units_to_take(None, states) or []
        return [m.UnitsOfLine(line + 1, quantity) for line, _, quantity in taken]
    own = {number: index for index, number in enumerate(part.numbers, 1)}
    return [m.UnitsOfLine(own[line.line], line.quantity) for line in lines if line.line in own]


def part_of(change: m.Change, part: m.Reservation, token: str, at_ms: int, until_ms: int) -> m.Part:
    """What a change of the whole at ``at_ms`` is for one of its parts."""
    if isinstance(change, m.Extend):
        return m.Part(token, at_ms, until_ms, any(line.held for line in part.lines), change)
    if isinstance(change, m.Move):
        line = part.numbers.index(change.line) + 1 if change.line in part.numbers else LINE_OF_ANOTHER_PART
        return m.Part(token, at_ms, until_ms, line != LINE_OF_ANOTHER_PART, replace(change, line=line))
    lines = units_of(part, change.lines, TAKES[verb_of(change)])
    return m.Part(token, at_ms, until_ms, bool(lines), replace(change, lines=lines))
