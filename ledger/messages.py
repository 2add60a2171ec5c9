"""What goes into the ledger and what comes out: the operations, the records and the outcomes.

Each struct is an array on the wire, so its field order *is* the format that the Lua library reads and
writes (``ledger/lua``). A field is only ever added at the end. Times are whole milliseconds since 1970 UTC,
days are whole days since 1970 UTC, quantities are whole base units.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

QUANTITY_MAX = 1_000_000
"""Units in one line of a reservation (DESIGN 9)."""
STOCK_QUANTITY_MAX = 1_000_000_000
"""Units in a count or an event (DESIGN 9); sums of a million of these stay below 2**53."""
LINES_MAX = 100
CLIENT_OPEN_RESERVATIONS_MAX = 1_000_000
CLIENT_HELD_UNITS_MAX = 10_000_000
"""A web shop is one client, so these only stop one that hoards or has gone mad, unless they are set lower."""
TIME_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999: what RFC 3339 can write."""

# `\Z`, not `$`: msgspec's `$` lets a trailing newline through.
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~](?:[ -~]*[!-~])?\Z")]
"""A SKU or the id of a location, pool or channel: printable ASCII with no space at either end."""
Reference = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~](?:[ -~]*[!-~])?\Z")]
"""Another system's name for its own thing: a customer, an order, an event."""

Bucket = Literal["on_hand", "damaged", "quality_hold", "in_transit"]
Disposition = Literal["sellable", "damaged", "quality_hold", "discard"]
Mode = Literal["all", "available"]
Strategy = Literal["priority", "nearest", "most_stock", "fewest_splits"]
StockStatus = Literal["in_stock", "low", "held_out", "sold_out", "unknown"]
ReservationStatus = Literal["held", "committed", "shipped", "returned", "cancelled", "released", "expired"]
EventOutcome = Literal["applied", "duplicate", "superseded", "quarantined"]


class Record(Struct, array_like=True, frozen=True):
    """A struct that travels as an array. Each says ``frozen`` again, for the type checker."""


# --- records: what the ledger keeps -----------------------------------------------------------------------------


class ReservationLine(Record, frozen=True):
    """A line of a reservation; the eight counts from ``held`` on add up to ``quantity``, which is what was granted."""

    sku: str
    location: str
    quantity: int
    requested: int
    held: int
    committed: int
    picked: int
    shipped: int
    released: int
    expired: int
    cancelled: int
    returned: int
    promise_day: int


class Span(Record, frozen=True):
    """What a part of a reservation over several shards knows of the whole (``ledger.spanning``).

    ``shards`` are those that have a part; ``numbers`` the numbers that this part's lines have in the whole. A part that
    is not ``sealed`` is a claim of seconds. While an attempt to change the whole is under way, the part is pinned by
    its ``token`` until ``pinned_until_ms``: no other attempt changes it, and nothing of it expires. ``intent`` is the
    operation under way, as JSON, so that another process can finish it. ``reclaimed`` tells that expired units were
    claimed anew: what the part holds since then is for a commit that has still to come.
    """

    shards: list[int]
    numbers: list[int]
    sealed: bool
    token: str
    intent: str
    pinned_until_ms: int
    reclaimed: bool = False


class Reservation(Record, frozen=True, tag="hold"):
    """A claim by one buyer. It is also the record of the hold operation that made it: they share their id.

    Where a reservation takes several shards, each has a record of its own lines, with a ``span``.
    """

    client: str
    fingerprint: str
    created_at_ms: int
    expires_at_ms: int
    order_id: str | None
    channel: str | None
    customer: str | None
    epoch: int
    seq: int
    operations: list[str]
    lines: list[ReservationLine]
    span: Span | None = None

    @property
    def numbers(self) -> list[int]:
        """The number of each line, as clients name it."""
        return self.span.numbers if self.span else list(range(1, len(self.lines) + 1))

    @property
    def status(self) -> ReservationStatus:
        """DESIGN 9: held while any unit is, else committed while any is, else the ending of most units."""
        if any(line.held for line in self.lines):
            return "held"
        if any(line.committed or line.picked for line in self.lines):
            return "committed"
        endings: tuple[ReservationStatus, ...] = ("shipped", "returned", "cancelled", "released", "expired")
        return max(endings, key=lambda ending: sum(getattr(line, ending) for line in self.lines))


class Position(Record, frozen=True):
    """One SKU at one location. ``as_of_ms`` is when the newest stock event that reached it happened; 0 = none did."""

    on_hand: int
    held: int
    committed: int
    picked: int
    safety_stock: int
    damaged: int
    quality_hold: int
    in_transit: int
    as_of_ms: int

    @property
    def available(self) -> int:
        """What can still be promised; below 0 when a feed lowered the stock under its claims."""
        return self.on_hand - self.held - self.committed - self.picked - self.safety_stock


class Location(Record, frozen=True):
    """A node that physically has stock; without an ``authority`` it believes every source."""

    id: str
    name: str | None = None
    type: Literal["warehouse", "store", "dropship"] = "warehouse"
    authority: str | None = None
    lat: float | None = None
    lon: float | None = None
    priority: int = 100
    enabled: bool = True


class SafetyStock(Record, frozen=True):
    """Units of a position that are never promised, 0 to ``STOCK_QUANTITY_MAX``.

    One of a SKU that was never counted there waits for its first count, and makes no position by itself.
    """

    sku: str
    location: str
    quantity: int


class StockEvent(Record, frozen=True):
    """A fact about stock, from a feed. ``key`` is derived from ``source`` and ``id`` (``ledger.identity``).

    ``reverses`` is the key of an earlier event of the source that never happened; the numbers are then the source's
    own account of it and have no effect themselves. The ``reference`` of a shipment (units of on_hand that leave) makes
    it one fact with what the ledger shipped of that line itself; elsewhere it is only kept.
    """

    key: str
    source: str
    id: str
    kind: Literal["snapshot", "delta", "move"]
    sku: str
    location: str
    quantity: int
    occurred_at_ms: int
    bucket: Bucket = "on_hand"
    to_bucket: Bucket | None = None
    sequence: int | None = None
    reason: str | None = None
    reference_reservation: str | None = None
    reference_line: int | None = None
    reverses: str | None = None


# --- operations: what the ledger is asked to do -----------------------------------------------------------------


class HoldLine(Record, frozen=True):
    sku: str
    quantity: int
    location: str | None = None


class UnitsOfLine(Record, frozen=True):
    """Part of a line, counted from 1."""

    line: int
    quantity: int


class Hold(Record, frozen=True, tag="hold"):
    """Claim units for a buyer until ``ttl_ms`` from now. ``id`` names the operation and the reservation alike.

    It travels packed (``ledger.packing``).
    """

    id: str
    fingerprint: str
    client: str
    lines: list[HoldLine]
    ttl_ms: int
    mode: Mode = "all"
    channel: str | None = None
    customer: str | None = None
    strategy: Strategy = "priority"
    max_splits: int | None = None
    near: tuple[float, float] | None = None


class Extend(Record, frozen=True, tag="extend"):
    """Let a hold live ``ttl_ms`` from now."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    ttl_ms: int


class Commit(Record, frozen=True, tag="commit"):
    """Turn held units into an order's; with ``reacquire``, claim expired ones anew. Without ``lines``, all of them."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    order_id: str
    reacquire: bool = False
    lines: list[UnitsOfLine] | None = None


class Release(Record, frozen=True, tag="release"):
    """Give held units back; without ``lines``, all of them."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    lines: list[UnitsOfLine] | None = None


class Pick(Record, frozen=True, tag="pick"):
    """Committed units are taken from the shelf; without ``lines``, all of them."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    lines: list[UnitsOfLine] | None = None


class Ship(Record, frozen=True, tag="ship"):
    """Units leave the building: picked ones first, then committed ones; without ``lines``, all of them."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    lines: list[UnitsOfLine] | None = None
    occurred_at_ms: int | None = None


class Cancel(Record, frozen=True, tag="cancel"):
    """An order's units are given back before they ship: committed ones first, then picked ones."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    lines: list[UnitsOfLine] | None = None


class Return(Record, frozen=True, tag="return"):
    """Shipped units come back; ``disposition`` says where to, ``discard`` = nowhere."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    lines: list[UnitsOfLine] | None = None
    disposition: Disposition = "sellable"
    occurred_at_ms: int | None = None


class Move(Record, frozen=True, tag="move"):
    """Claim a line's held and committed units at another location instead."""

    id: str
    fingerprint: str
    client: str
    reservation: str
    line: int
    location: str


class Expire(Record, frozen=True, tag="expire"):
    """End what is overdue, up to ``reservations_max`` of it: the keeper's, for when nobody asks."""

    reservations_max: int = 1_000


class Apply(Record, frozen=True, tag="apply"):
    """Stock events, each judged by itself."""

    client: str
    events: list[StockEvent]


class Count(Record, frozen=True, tag="count"):
    """A person's count of some SKUs at one location: snapshots under one ``count_id`` that are always believed.

    A long count goes to the ledger in portions, numbered from 0, each remembered by itself under the same fingerprint.
    """

    fingerprint: str
    client: str
    location: str
    count_id: str
    events: list[StockEvent]
    portion: int = 0


class ReadItem(Record, frozen=True):
    """A SKU, at the named locations or, with None, at every enabled one."""

    sku: str
    locations: list[str] | None = None


class Read(Record, frozen=True, tag="read"):
    """The positions of some SKUs as they are now."""

    items: list[ReadItem]


class Views(Record, frozen=True, tag="views"):
    """What sources other than the authority say of a SKU, at one location or, with None, at all of them."""

    sku: str
    location: str | None = None


class Find(Record, frozen=True, tag="find"):
    """An operation or a reservation by its id, if it is this client's."""

    id: str
    client: str


class PutLocation(Record, frozen=True, tag="put_location"):
    """Create or replace a location."""

    client: str
    location: Location


class PutSafetyStock(Record, frozen=True, tag="put_safety_stock"):
    """Set the safety stock of each of these positions: of all or, when a location is unknown, of none."""

    client: str
    items: list[SafetyStock]


class Locations(Record, frozen=True, tag="locations"):
    """Every location, by id."""


Change = Extend | Commit | Release | Pick | Ship | Cancel | Return | Move
Verb = Hold | Change
"""Operations on a reservation: each has a key of its own and is answered again identically."""

# --- operations of a coordinator: what a change over several shards is made of (ledger.spanning) ----------------


class Look(Record, frozen=True, tag="look"):
    """What a shard knows of the operation ``id`` and of the client's ``reservation``.

    With ``locks``, no other attempt at the same operation goes on for some seconds. With an ``intent``, the shard's
    part of a reservation over several shards is pinned by ``token``; with ``takes_over`` even if another has it.
    """

    id: str
    client: str
    reservation: str
    token: str
    locks: bool = False
    intent: str = ""
    takes_over: bool = False


class PartLine(Record, frozen=True):
    """A line of a planned reservation: ``number`` in the whole, granted and ``requested`` units of one position."""

    number: int
    sku: str
    location: str
    quantity: int
    requested: int


class Prepare(Record, frozen=True, tag="prepare"):
    """Claim one shard's part of a hold for some seconds: all of its lines or none."""

    id: str
    fingerprint: str
    client: str
    token: str
    lines: list[PartLine]
    shards: list[int]
    channel: str | None
    customer: str | None
    until_ms: int
    """It is not to be done after that: the operation's lock may have ended."""


class Seal(Record, frozen=True, tag="seal"):
    """Every shard has claimed its part: let this one be a hold until ``expires_at_ms``."""

    id: str
    token: str
    expires_at_ms: int


class Drop(Record, frozen=True, tag="drop"):
    """The hold did not come about: forget this part and give its units back."""

    id: str
    token: str


class Reclaim(Record, frozen=True, tag="reclaim"):
    """Claim expired units anew for as long as the part is pinned, all or none."""

    reservation: str
    client: str
    token: str
    lines: list[UnitsOfLine]


class Part(Record, frozen=True, tag="part"):
    """An operation for one shard, not to be done after ``until_ms``.

    Of a reservation over several shards it is the shard's part: pinned by ``token``, done as at ``at_ms``, and just
    remembered where it ``takes`` no units.
    """

    token: str
    at_ms: int
    until_ms: int
    takes: bool
    operation: Verb


class Finish(Record, frozen=True, tag="finish"):
    """The attempt ``token`` at the operation ``id`` has ended: let go of its lock, and of the part if it is pinned.

    With ``is_done`` every part has done it, so that the keeper need not look.
    """

    id: str
    reservation: str
    token: str
    is_done: bool = False


class Forget(Record, frozen=True, tag="forget"):
    """Every part has ended: this one is readable for another day."""

    reservation: str
    token: str


class Unfinished(Record, frozen=True, tag="unfinished"):
    """Up to ``reservations_max`` reservations over several shards that are due to be looked at by the keeper."""

    reservations_max: int = 100


# --- filling a ledger anew (ledger.filling) --------------------------------------------------------------------


class KeptOperation(Record, frozen=True):
    """The record of an operation on a reservation, which answers its replays."""

    id: str
    verb: str
    client: str
    fingerprint: str


class KeptReservation(Record, frozen=True):
    """A reservation, or a shard's part of one, and the operations on it; ``ended`` when all of its parts have."""

    id: str
    reservation: Reservation
    operations: list[KeptOperation]
    ended: bool


class PositionAfter(Record, frozen=True):
    sku: str
    location: str
    position: Position


class KeyAfter(Record, frozen=True):
    """What a hash of the ledger has that no operation tells of: ``fields`` as they are now, and those that are gone.

    ``key`` is without the shard's tag. The fingerprint of a count, which is no hash, is its field without a name.
    """

    key: str
    fields: dict[str, msgspec.Raw]
    gone: list[str]


class Restore(Record, frozen=True, tag="restore"):
    """Put back what was folded from the journal, into an empty ledger under a new epoch.

    The claims of a position come with the reservations that have them, whatever ``positions`` say of them.
    """

    locations: list[Location]
    positions: list[PositionAfter]
    reservations: list[KeptReservation]
    keys: list[KeyAfter]


Coordination = Look | Prepare | Seal | Drop | Reclaim | Part | Finish | Forget | Unfinished
Operation = (
    Verb
    | Expire
    | Apply
    | Count
    | Read
    | Views
    | Find
    | PutLocation
    | PutSafetyStock
    | Locations
    | Coordination
    | Restore
)

# --- outcomes: what the ledger answers --------------------------------------------------------------------------


class Done(Record, frozen=True, tag="done"):
    """The operation took effect, now or (``replayed``) when it was first asked for; the reservation as it is now."""

    replayed: bool
    id: str
    reservation: Reservation
    shard: int = 0
    """Whose journal has the receipt."""


class Granted(Record, frozen=True, tag="granted"):
    """A hold was granted just as it was asked for: how a call says ``Done`` of it (``ledger.packing``)."""


class ShortLine(Record, frozen=True):
    """A line that could not be granted, and what was left for it."""

    line: int
    sku: str
    location: str | None
    requested: int
    available: int
    status: StockStatus


class Insufficient(Record, frozen=True, tag="insufficient"):
    """Every short line of the request; nothing was changed."""

    lines: list[ShortLine]


class UnknownSku(Record, frozen=True, tag="unknown-sku"):
    line: int
    sku: str


class UnknownLocation(Record, frozen=True, tag="unknown-location"):
    """``line`` is that of the reservation, or the item's number, counted from 1."""

    line: int
    location: str


class WrongState(Record, frozen=True, tag="wrong-state"):
    """The reservation has not the units that the verb takes; ``allowed`` are the verbs that it would take now."""

    status: ReservationStatus
    allowed: list[str]


class ReservationExpired(Record, frozen=True, tag="reservation-expired"):
    expired_at_ms: int


class NotFound(Record, frozen=True, tag="not-found"):
    """No such thing, or another client's."""


class KeyReused(Record, frozen=True, tag="key-reused"):
    """The key was used before for something else; ``fingerprint`` is that of the first use."""

    fingerprint: str


class OperationsLimit(Record, frozen=True, tag="operations-limit"):
    """The reservation has as many operations as it may have (``limit``); nothing was changed."""

    limit: int


class OpenReservationsLimit(Record, frozen=True, tag="open-reservations-limit"):
    """The client has ``current`` open reservations in this shard and may have ``limit``; nothing was changed."""

    limit: int
    current: int


class HeldUnitsLimit(Record, frozen=True, tag="held-units-limit"):
    """The client holds ``current`` units in this shard and may hold ``limit``: ``requested`` more are too many."""

    limit: int
    current: int
    requested: int


class EventResult(Record, frozen=True):
    """What became of one event; ``on_hand`` and ``previous`` are the bucket's number after and before it."""

    outcome: EventOutcome
    reason: str | None
    on_hand: int
    previous: int


class Applied(Record, frozen=True, tag="applied"):
    """A result for each event, in order."""

    results: list[EventResult]


class Counted(Record, frozen=True, tag="counted"):
    """A result for each line of the count, in order; ``replayed`` when this very count was taken before."""

    replayed: bool
    results: list[EventResult]


class PositionAt(Record, frozen=True):
    """A position and whether its location is open: a closed one has its stock and promises none of it."""

    location: str
    position: Position
    enabled: bool = True

    @property
    def left(self) -> int:
        """What can be promised here."""
        return max(0, self.position.available) if self.enabled else 0


class ItemPositions(Record, frozen=True):
    """``known`` tells whether the SKU was ever seen, anywhere; ``next_expiry_ms`` when the next hold here ends."""

    known: bool
    next_expiry_ms: int | None
    positions: list[PositionAt]


class Positions(Record, frozen=True, tag="positions"):
    """An entry for each item asked for, in order, and the ledger's clock."""

    now_ms: int
    items: list[ItemPositions]


class View(Record, frozen=True):
    """The newest snapshot of a source that is not the location's authority: it was told, and changed nothing.

    ``on_hand`` is the position's, None while no event of a believed source was ever applied there.
    """

    location: str
    source: str
    quantity: int
    as_of_ms: int
    sequence: int | None
    id: str
    on_hand: int | None


class ViewList(Record, frozen=True, tag="view-list"):
    """Views by location, then by source."""

    views: list[View]


class Found(Record, frozen=True, tag="found"):
    """The operation ``verb`` and the reservation that it was done to, as it is now."""

    verb: str
    id: str
    reservation: Reservation
    shard: int = 0
    """Whose journal has the receipt."""


class Expired(Record, frozen=True, tag="expired"):
    """How many reservations lost held units (counted once a shard), and whether more are overdue."""

    reservations: int
    more: bool


class LocationStored(Record, frozen=True, tag="location-stored"):
    location: Location


class SafetyStockStored(Record, frozen=True, tag="safety-stock-stored"):
    """The items as they were put."""

    items: list[SafetyStock]


class LocationList(Record, frozen=True, tag="location-list"):
    locations: list[Location]


class Busy(Record, frozen=True, tag="busy"):
    """More overdue holds than one call may end stand in the way: those were ended, nothing else was done."""


class JournalFull(Record, frozen=True, tag="journal-full"):
    """The journal's backlog is at its bound: holds wait until Postgres has caught up."""


class OperationDone(Record, frozen=True):
    """An operation that was done: which, and to what."""

    verb: str
    fingerprint: str
    reservation: str


class Looked(Record, frozen=True, tag="looked"):
    """What a shard knows. ``busy_with`` is the operation of another attempt under way; then nothing was done or told.

    ``is_young``: whoever pinned the part may still be at work.
    """

    now_ms: int
    busy_with: str | None
    is_young: bool
    operation: OperationDone | None
    part: Reservation | None


class Unpinned(Record, frozen=True, tag="unpinned"):
    """Another attempt has the part by now: nothing was done."""


class Finished(Record, frozen=True, tag="finished"):
    """Nothing is left of the attempt here."""


class Restored(Record, frozen=True, tag="restored"):
    """It is there again."""


class UnfinishedList(Record, frozen=True, tag="unfinished-list"):
    """Reservations by id, each with its client and the shards that have a part of it."""

    reservations: list[tuple[str, str, list[int]]]


VerbOutcome = Done | WrongState | ReservationExpired | NotFound | KeyReused | OperationsLimit
CommitOutcome = VerbOutcome | Insufficient | OpenReservationsLimit
MoveOutcome = VerbOutcome | Insufficient | UnknownLocation
HoldOutcome = Done | Insufficient | UnknownSku | UnknownLocation | KeyReused | OpenReservationsLimit | HeldUnitsLimit
CountOutcome = Counted | KeyReused | UnknownLocation
SafetyStockOutcome = SafetyStockStored | UnknownLocation
Outcome = (
    Done
    | Granted
    | Insufficient
    | UnknownSku
    | UnknownLocation
    | WrongState
    | ReservationExpired
    | NotFound
    | KeyReused
    | OperationsLimit
    | OpenReservationsLimit
    | HeldUnitsLimit
    | Applied
    | Counted
    | Positions
    | ViewList
    | Found
    | Expired
    | LocationStored
    | SafetyStockStored
    | LocationList
    | Busy
    | JournalFull
    | Looked
    | Unpinned
    | Finished
    | UnfinishedList
    | Restored
)

# --- the journal: what the ledger writes down -------------------------------------------------------------------


class Movement(Record, frozen=True):
    """Units going from one bucket to another; ``event`` is the stock event's key, when there is one.

    Buckets: ``available held committed picked shipped released expired cancelled returned`` for the units of a
    reservation, ``on_hand damaged quality_hold in_transit`` for stock, and ``outside`` for the rest of the world.
    """

    sku: str
    location: str
    from_bucket: str
    to_bucket: str
    quantity: int
    reason: str
    event: str | None = None


class JournalOperation(Record, frozen=True):
    """One operation that changed something.

    ``subject`` is the reservation's id, ``sku@location`` or the location's id; ``operation_id`` and ``fingerprint``
    are the operation's own, and empty for a hold, whose record has them. ``body`` is the record after it: a
    ``Reservation`` for the verbs and ``expire``, a ``StockEvent`` for ``apply`` and ``view``, a ``Location`` for
    ``put_location``, the ``EventResult`` list for ``count``, a ``SafetyStock`` for ``put_safety_stock``, an
    ``Overcommitted`` for ``overcommitted``, which is nobody's: the ledger itself found that. When a ledger is filled
    anew: a ``Reservation`` for ``restore``, a ``Location`` for ``restore_location``, the operation's own verb for
    ``restore_operation``; the entry has what ``restore_stock`` and ``restore_keys`` mean.
    """

    verb: str
    subject: str
    client: str
    operation_id: str
    fingerprint: str
    body: msgspec.Raw
    movements: list[Movement]


class Overcommitted(Record, frozen=True):
    """A position has come to be short of ``quantity`` units for its claims, or of none any more.

    ``since_ms`` says when that began. The safety stock is there like any other unit, and where nothing is claimed
    nothing is short.
    """

    sku: str
    location: str
    quantity: int
    since_ms: int


class JournalEntry(Record, frozen=True):
    """All that one call of the ledger's script changed; ``seq`` has no gaps within a shard and an epoch.

    The entries of an epoch fold from an empty ledger: a new epoch begins with all there is, as operations ``restore…``.
    """

    epoch: int
    seq: int
    at_ms: int
    operations: list[JournalOperation]
    positions: list[PositionAfter]
    keys: list[KeyAfter] = []
