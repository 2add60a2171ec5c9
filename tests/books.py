"""Folds a ledger's journal into positions, for the tests that compare it with the live ledger (P6, P7)."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from redis import Redis

from ledger.convergence import Views
from ledger.messages import JournalEntry, Overcommitted, Position, Reservation, StockEvent

decode_entry = msgspec.msgpack.Decoder(JournalEntry).decode
CLAIMS = ("held", "committed", "picked")
STATES = (*CLAIMS, "shipped", "released", "expired", "cancelled", "returned")
VERBS = {"hold", "extend", "commit", "release", "pick", "ship", "cancel", "return", "move", "expire"}
VERBS |= {"prepare", "drop", "reclaim", "restore"}
"""Those whose record after it is a reservation."""
STOCK = ("on_hand", "damaged", "quality_hold", "in_transit")
Place = tuple[str, str]


def journal_of(client: Redis, shard: int = 0) -> list[JournalEntry]:
    """Every entry of a shard's stream, in order."""
    entries: Any = client.xrange(f"{{s{shard}}}:journal")
    return [decode_entry(fields[b"e"]) for _, fields in entries]


def fold(entries: Iterable[JournalEntry]) -> dict[Place, Counter[str]]:
    """The units in each bucket of each position, from the movements alone."""
    books: dict[Place, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for operation in entry.operations:
            for movement in operation.movements:
                book = books[movement.sku, movement.location]
                if movement.from_bucket in CLAIMS + STOCK:
                    book[movement.from_bucket] -= movement.quantity
                if movement.to_bucket in CLAIMS + STOCK:
                    book[movement.to_bucket] += movement.quantity
                if movement.to_bucket == "shipped":
                    book["on_hand"] -= movement.quantity
    return books


def fold_reservations(entries: Iterable[JournalEntry]) -> dict[str, Counter[str]]:
    """The units of each reservation by state, from the movements alone: each is somewhere, and only there."""
    units: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for operation in entry.operations:
            for movement in operation.movements:
                units[operation.subject][movement.from_bucket] -= movement.quantity
                units[operation.subject][movement.to_bucket] += movement.quantity
    return {
        subject: Counter({state: counted[state] for state in STATES if counted[state]})
        for subject, counted in units.items()
    }


def client_counts(client: Redis, shard: int = 0) -> dict[str, tuple[int, int]]:
    """Each client's open reservations and held units, read from its key."""
    keys: Any = list(client.scan_iter(f"{{s{shard}}}:client:*"))
    packed: Any = client.mget(keys) if keys else []
    decode = msgspec.msgpack.Decoder(tuple[int, int]).decode
    return {unquote(key.decode().split(":", 2)[2]): decode(each) for key, each in zip(keys, packed, strict=True)}


def fold_clients(entries: Iterable[JournalEntry]) -> dict[str, tuple[int, int]]:
    """The same from the journal: every reservation as its last operation left it."""
    bodies = {
        operation.subject: operation.body
        for entry in entries
        for operation in entry.operations
        if operation.verb in VERBS
    }
    opened, held = Counter[str](), Counter[str]()
    for reservation in map(msgspec.msgpack.Decoder(Reservation).decode, bodies.values()):
        if any(line.held + line.committed + line.picked for line in reservation.lines):
            opened[reservation.client] += 1
            held[reservation.client] += sum(line.held for line in reservation.lines)
    return {name: (count, held[name]) for name, count in opened.items()}


def numbers(position: Position) -> dict[str, int]:
    """A position's buckets, as ``fold`` names them."""
    return {name: getattr(position, name) for name in CLAIMS + STOCK}


def live_positions(client: Redis, shard: int = 0) -> dict[Place, Position]:
    """Every position of a shard, read from its keys."""
    decode = msgspec.msgpack.Decoder(Position).decode
    keys: Any = list(client.scan_iter(f"{{s{shard}}}:sku:*", count=1_000))
    asking = client.pipeline(transaction=False)
    for key in keys:
        asking.hgetall(key)
    skus = (unquote(key.decode().split(":", 2)[2]) for key in keys)
    places: Any = zip(skus, asking.execute(), strict=True)
    return {(sku, location.decode()): decode(packed) for sku, fields in places for location, packed in fields.items()}


def live_shortages(client: Redis, shard: int = 0) -> dict[Place, tuple[int, int]]:
    """The units that each overcommitted position is short of, and since when, read from the shard's key."""
    decode = msgspec.msgpack.Decoder(tuple[int, int]).decode
    fields: Any = client.hgetall(f"{{s{shard}}}:overcommitted")
    return {_place(place): decode(packed) for place, packed in fields.items()}


def fold_shortages(entries: Iterable[JournalEntry]) -> dict[Place, tuple[int, int]]:
    """The same, from what the journal says began, changed and ended."""
    short: dict[Place, tuple[int, int]] = {}
    for entry in entries:
        for operation in entry.operations:
            if operation.verb == "overcommitted":
                told = msgspec.msgpack.decode(operation.body, type=Overcommitted)
                assert short.pop((told.sku, told.location), (0, told.since_ms)) != (told.quantity, told.since_ms)
                if told.quantity:
                    short[told.sku, told.location] = told.quantity, told.since_ms
    return short


def _place(key: bytes) -> Place:
    sku, location = key.decode().split(":")
    return unquote(sku), unquote(location)


def fold_views(entries: Iterable[JournalEntry]) -> dict[Place, dict[str, StockEvent]]:
    """The views of each position by source, from what the journal says was seen and what was retracted."""
    decode = msgspec.msgpack.Decoder(StockEvent).decode
    views: dict[Place, Views] = defaultdict(Views)
    for operation in (operation for entry in entries for operation in entry.operations):
        if operation.verb == "view":
            event = decode(operation.body)
            views[event.sku, event.location].see(event)
        elif operation.verb == "apply" and (event := decode(operation.body)).reverses is not None:
            views[event.sku, event.location].forget(event.reverses)
    return {place: seen.newest for place, seen in views.items() if seen.newest}


def live_views(client: Redis, shard: int = 0) -> dict[Place, dict[str, tuple[int, str]]]:
    """The views of each position, read from their keys: by source the quantity and the event's key."""
    keys: Any = client.scan_iter(f"{{s{shard}}}:view:*")
    places: Any = [(unquote(key.decode().split(":", 2)[2]), client.hgetall(key)) for key in keys]
    return {
        (sku, location.decode()): {view[5]: (view[0], view[4]) for view in msgspec.msgpack.decode(packed)}
        for sku, fields in places
        for location, packed in fields.items()
    }


def assert_books_balance(client: Redis, shard: int = 0, entries: list[JournalEntry] | None = None) -> None:
    """The journal has no gap, folds to the live positions and counts, and its last word on each is the live one.

    So it does to what is overcommitted, which is what the positions' own numbers say. ``entries`` are given where the
    stream has not got all of them any more.
    """
    entries = journal_of(client, shard) if entries is None else entries
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    books, live = fold(entries), live_positions(client, shard)
    last = {(after.sku, after.location): after.position for entry in entries for after in entry.positions}
    assert last == live
    assert fold_clients(entries) == client_counts(client, shard)
    for place, position in live.items():
        assert {name: books[place][name] for name in CLAIMS + STOCK} == numbers(position), place
    assert fold_shortages(entries) == live_shortages(client, shard)
    claims = {place: position.held + position.committed + position.picked for place, position in live.items()}
    short = {place: claims[place] - position.on_hand for place, position in live.items() if claims[place]}
    told = {place: quantity for place, (quantity, _) in live_shortages(client, shard).items()}
    assert told == {place: quantity for place, quantity in short.items() if quantity > 0}
    assert live_views(client, shard) == {
        place: {source: (event.quantity, event.key) for source, event in newest.items()}
        for place, newest in fold_views(entries).items()
    }


def assert_deadlines_are_those_of_the_holds(client: Redis, shard: int = 0) -> None:
    """Each reservation is listed under its deadline at every position where it holds units, or it would never expire.

    What is listed and not held any more, or longer, is passed over. A part that is pinned is listed when it is let go.
    """
    tag = f"{{s{shard}}}"
    keys: Any = list(client.scan_iter(f"{tag}:op:*", count=1_000))
    decode = msgspec.msgpack.Decoder(Reservation).decode
    for key in keys:
        packed: Any = client.get(key)
        if packed is None or msgspec.msgpack.decode(packed)[0] != "hold":
            continue
        reservation, id_ = decode(packed), key.decode().rpartition(":")[2]
        if reservation.span and reservation.span.intent:
            continue
        deadline_ms = max(reservation.expires_at_ms, reservation.span.pinned_until_ms if reservation.span else 0)
        for line in reservation.lines:
            if line.held:
                name = f"{tag}:held:{escaped(line.sku)}:{escaped(line.location)}"
                lists: Any = client.zrangebyscore(name, deadline_ms, deadline_ms)
                assert id_ in b" ".join(lists).decode().split(), (line.sku, line.location, id_)


def escaped(text: str) -> str:
    return "".join(quote(char, safe="") if char in "%:{}" else char for char in text)
