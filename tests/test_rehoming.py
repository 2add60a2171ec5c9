"""What becomes of a reservation over several shards when shards change, also of one left half done (P1, P3)."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ledger import messages as m
from ledger.claims import Place
from ledger.journal.fold import FORGOTTEN_AFTER_MS, READABLE_MS, Fold, Packed
from ledger.keys import shard_of
from ledger.rehoming import Rehoming

SKUS = ["A", "B:{}%1"]
"""On two shards of two."""
NOTHING = m.Position(9, 0, 0, 0, 0, 0, 0, 0, 1)


def line(sku: str, **units: int) -> m.ReservationLine:
    states = dict.fromkeys(("committed", "picked", "shipped", "released", "expired", "cancelled", "returned"), 0)
    return m.ReservationLine(sku, "S1", 1, 1, **{"held": 1, **states, **units}, promise_day=1)


def part(sku: str, *, sealed: bool = True, expires_at_ms: int = 9, operations: Any = (), **units: int) -> m.Reservation:
    shard = shard_of(sku, 2)
    span = m.Span([0, 1], [SKUS.index(sku) + 1], sealed, "token", "intent", 5)
    head = ("web", "call:a", 1, expires_at_ms, None, None, None, 1, shard)
    return m.Reservation(*head, list(operations), [line(sku, **units)], span)


def folds_of(*parts: m.Reservation) -> list[Fold]:
    folds = [Fold(), Fold()]
    for record in parts:
        sku = record.lines[0].sku
        fold = folds[shard_of(sku, 2)]
        fold.positions[Place(sku, "S1")] = replace(NOTHING, held=1)
        fold.reservations["r"] = Packed(1, msgspec.msgpack.encode(record))
        fold.operations |= {name: m.KeptOperation(name, "commit", "web", "call:c") for name in record.operations}
    return folds


def all_of(rehoming: Rehoming) -> m.KeptReservation | None:
    kept = [each for portion in rehoming.portions(0) for each in portion.reservations]
    return kept[0] if kept else None


def test_parts_that_meet_on_one_shard_are_one_reservation() -> None:
    kept = all_of(Rehoming(folds_of(part("B:{}%1"), part("A")), 1))
    assert kept is not None
    assert [each.sku for each in kept.reservation.lines] == SKUS
    assert kept.reservation.span is None


def test_a_part_keeps_its_lines_numbers_and_no_pin() -> None:
    whole = folds_of(part("A"), part("B:{}%1"))
    there = Rehoming(whole, 2)
    shard = shard_of("B:{}%1", 2)
    assert there.kept("r", shard).reservation.span == m.Span(
        [0, 1], [2], sealed=True, token="", intent="", pinned_until_ms=0
    )


def test_a_hold_that_was_never_sealed_gives_its_units_back() -> None:
    """P1: it was never answered, and a part that is missing has given its own back."""
    for parts in ([part("A", sealed=False), part("B:{}%1", sealed=False)], [part("A")]):
        rehoming = Rehoming(folds_of(*parts), 1)
        assert all_of(rehoming) is None
        positions, records = rehoming.expected(0)
        assert ({position.held for position in positions.values()}, records) == ({0}, 0)


def test_a_hold_that_was_sealed_on_one_shard_is_one() -> None:
    kept = all_of(Rehoming(folds_of(part("A", sealed=False, expires_at_ms=2), part("B:{}%1")), 1))
    assert kept is not None
    assert kept.reservation.expires_at_ms == 9


def test_a_change_that_was_done_on_one_shard_is_told() -> None:
    """P3: it is in the record, so that it is not done again; ``rehome`` refuses before it comes to that."""
    rehoming = Rehoming(folds_of(part("A", operations=["op"], held=0, committed=1), part("B:{}%1")), 1)
    kept = all_of(rehoming)
    assert rehoming.torn == 1
    assert kept is not None
    assert [operation.id for operation in kept.operations] == kept.reservation.operations == ["op"]


def test_a_part_that_has_ended_waits_for_the_others() -> None:
    """P3: a fold forgets a reservation when its last part can no longer be live anywhere."""
    folds = [Fold(), Fold()]
    for fold in folds:
        fold.siblings = folds

    def take(shard: int, record: m.Reservation, at_ms: int) -> None:
        operation = m.JournalOperation(
            "release", "r", "web", f"op{shard}", "", msgspec.Raw(msgspec.msgpack.encode(record)), []
        )
        folds[shard].take(m.JournalEntry(1, 1, at_ms, [operation], []))

    def pass_time(at_ms: int) -> None:
        for fold in folds:
            fold.take(m.JournalEntry(1, 2, at_ms, [], []))

    here, there = shard_of("A", 2), shard_of("B:{}%1", 2)
    take(there, part("B:{}%1", operations=[f"op{there}"]), 1)
    take(here, part("A", held=0, released=1, operations=[f"op{here}"]), 1)
    pass_time(2 * FORGOTTEN_AFTER_MS)
    assert [list(fold.reservations) for fold in folds] == [["r"], ["r"]]
    take(there, part("B:{}%1", held=0, released=1, operations=[f"op{there}"]), 2 * FORGOTTEN_AFTER_MS)
    pass_time(3 * FORGOTTEN_AFTER_MS - 1)
    assert [list(fold.reservations) for fold in folds] == [["r"], ["r"]]
    pass_time(3 * FORGOTTEN_AFTER_MS)
    assert [list(fold.reservations) for fold in folds] == [[], []]
    assert [fold.operations for fold in folds] == [{}, {}]


@pytest.mark.parametrize("late_ms", [READABLE_MS, FORGOTTEN_AFTER_MS - 1])
def test_what_is_returned_at_the_last_moment_keeps_its_operations(late_ms: int) -> None:
    """P2: the live record can be changed until it is gone, and its server's clock may be behind the ledger's."""
    fold = Fold()

    def take(verb: str, record: m.Reservation, at_ms: int) -> None:
        operation = m.JournalOperation(
            verb, "r", "web", record.operations[-1], "", msgspec.Raw(msgspec.msgpack.encode(record)), []
        )
        fold.take(m.JournalEntry(1, 1, at_ms, [operation], []))

    take("ship", part("A", held=0, shipped=1, operations=["ship"]), 1)
    fold.take(m.JournalEntry(1, 2, 1 + late_ms, [], []))  # another's, in the same moment
    take("return", part("A", held=0, returned=1, operations=["ship", "return"]), 1 + late_ms)
    assert sorted(fold.operations) == ["return", "ship"]
