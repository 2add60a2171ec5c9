"""Short ways to talk to a ledger in tests: one shop, few words, either ledger."""

import itertools
from typing import Any

from ledger import messages as m
from ledger.identity import event_key, operation_id

START_MS = 1_800_000_000_000
CLIENT = "web"
_names = itertools.count()
"""Tells the keys of one shop from another's."""


class Clock:
    """The ledger's time, set by the test."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


class Shop:
    """Speaks to a ledger as one client; each call has a key of its own unless one is given."""

    def __init__(self, ledger: Any, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock
        name = next(_names)
        self._keys = (f"{name}-{number}" for number in itertools.count())

    def key(self, key: str | None, client: str = CLIENT) -> str:
        return operation_id(client, key or next(self._keys))

    async def open(self, location: str = "S1", **fields: Any) -> None:
        await self.ledger.put_location(m.PutLocation("ops", m.Location(location, **fields)))

    async def keep(self, sku: str, quantity: int, location: str = "S1") -> Any:
        """Safety stock."""
        item = m.SafetyStock(sku, location, quantity)
        return await self.ledger.put_safety_stock(m.PutSafetyStock("ops", [item]))

    async def stock(self, sku: str, quantity: int, location: str = "S1", **fields: Any) -> m.EventResult:
        """A snapshot of now, unless the fields say otherwise."""
        return await self.event("snapshot", sku, quantity, location, **fields)

    async def event(
        self, kind: Any, sku: str, quantity: int, location: str = "S1", *, source: str = "wms", **fields: Any
    ) -> m.EventResult:
        name = fields.pop("id", None) or next(self._keys)
        at_ms = fields.pop("at_ms", self.clock.now_ms)
        event = m.StockEvent(event_key(source, name), source, name, kind, sku, location, quantity, at_ms, **fields)
        applied: m.Applied = await self.ledger.apply(m.Apply("feed", [event]))
        return applied.results[0]

    async def hold(self, *lines: tuple[str, int] | tuple[str, int, str | None], **fields: Any) -> Any:
        """Lines are (sku, quantity) at S1, or (sku, quantity, location)."""
        asked = [m.HoldLine(line[0], line[1], line[2] if len(line) == 3 else "S1") for line in lines]
        key, client = fields.pop("key", None), fields.pop("client", CLIENT)
        fingerprint = fields.pop("fingerprint", "call:hold")
        hold = m.Hold(self.key(key, client), fingerprint, client, asked, fields.pop("ttl_ms", 60_000), **fields)
        return await self.ledger.hold(hold)

    async def extend(self, reservation: str, ttl_ms: int, **head: Any) -> Any:
        return await self.ledger.extend(m.Extend(*self._head("extend", reservation, **head), ttl_ms))

    async def commit(
        self,
        reservation: str,
        *lines: tuple[int, int],
        reacquire: bool = False,
        order_id: str = "order-1",
        **head: Any,
    ) -> Any:
        head_ = self._head("commit", reservation, **head)
        return await self.ledger.commit(m.Commit(*head_, order_id, reacquire, _units(lines)))

    async def release(self, reservation: str, *lines: tuple[int, int], **head: Any) -> Any:
        return await self.ledger.release(m.Release(*self._head("release", reservation, **head), _units(lines)))

    async def ship(
        self, reservation: str, *lines: tuple[int, int], occurred_at_ms: int | None = None, **head: Any
    ) -> Any:
        return await self.ledger.ship(m.Ship(*self._head("ship", reservation, **head), _units(lines), occurred_at_ms))

    async def pick(self, reservation: str, *lines: tuple[int, int], **head: Any) -> Any:
        return await self.ledger.pick(m.Pick(*self._head("pick", reservation, **head), _units(lines)))

    async def cancel(self, reservation: str, *lines: tuple[int, int], **head: Any) -> Any:
        return await self.ledger.cancel(m.Cancel(*self._head("cancel", reservation, **head), _units(lines)))

    async def give_back(
        self, reservation: str, *lines: tuple[int, int], disposition: m.Disposition = "sellable", **head: Any
    ) -> Any:
        shipped = m.Return(*self._head("return", reservation, **head), _units(lines), disposition)
        return await self.ledger.return_(shipped)

    async def move(self, reservation: str, line: int, location: str, **head: Any) -> Any:
        return await self.ledger.move(m.Move(*self._head("move", reservation, **head), line, location))

    async def reported(self, reservation: str, quantity: int, line: int = 1, **fields: Any) -> m.EventResult:
        """The WMS tells of units of A that left S1 for a line of the reservation."""
        reference: dict[str, Any] = {"reference_reservation": reservation, "reference_line": line}
        return await self.event("delta", "A", -quantity, **reference, **fields)

    async def views(self, sku: str = "A", location: str | None = None) -> list[m.View]:
        found: m.ViewList = await self.ledger.views(m.Views(sku, location))
        return found.views

    async def found(self, reservation: str, client: str = CLIENT) -> m.Reservation:
        """The reservation as it is now."""
        found: m.Found = await self.ledger.find(m.Find(reservation, client))
        return found.reservation

    async def position(self, sku: str, location: str = "S1") -> m.Position:
        read: m.Positions = await self.ledger.read(m.Read([m.ReadItem(sku, [location])]))
        return read.items[0].positions[0].position

    def _head(
        self, verb: str, reservation: str, *, key: str | None = None, client: str = CLIENT
    ) -> tuple[str, str, str, str]:
        return self.key(key, client), f"call:{verb}", client, reservation


def _units(lines: tuple[tuple[int, int], ...]) -> list[m.UnitsOfLine] | None:
    return [m.UnitsOfLine(*line) for line in lines] or None


def counts(line: m.ReservationLine) -> dict[str, int]:
    """The states of a line that have units."""
    states = ("held", "committed", "picked", "shipped", "released", "expired", "cancelled", "returned")
    return {state: getattr(line, state) for state in states if getattr(line, state)}
