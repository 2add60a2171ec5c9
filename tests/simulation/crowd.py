"""Owns how many use the service in a run, and how much of it at once: few who wait for each other, or a crowd."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Crowd:
    """What a run has of everything."""

    shoppers: int
    steps: int
    """Of each shopper."""
    rush: tuple[int, ...]
    """Things that one client does at the same time."""
    batches: tuple[int, ...]
    """Holds in one request, which may have one of them twice."""
    batch_share: int
    """Batches among some 26 things that a shopper does."""
    carts: int
    """Reservations that a client remembers."""
    skus: tuple[str, ...]
    locations: tuple[str, ...]
    counted: tuple[int, int]
    """Units that a count finds at a position: from, to."""
    operations_max: tuple[int, ...]
    """Operations in one call of the ledger: one of these."""
    backlog_entries_max: tuple[int, ...]
    """Entries that may wait for the journal: one of these."""
    due_max: int
    """Overdue holds that one call of the ledger ends at most."""


FEW: Final = Crowd(
    shoppers=6,
    steps=22,
    rush=(2, 3),
    batches=(2, 5, 12),
    batch_share=1,
    carts=12,
    skus=("A", "B:{}%1"),
    locations=("L1", "L2:%"),
    counted=(3, 14),
    operations_max=(1, 4, 256),
    backlog_entries_max=(8, 10_000),
    due_max=3,
)
MANY: Final = Crowd(
    shoppers=12,
    steps=10,
    rush=(4, 12, 32),
    batches=(12, 64, 255),
    batch_share=3,
    carts=200,
    skus=("A", "B:{}%1", "C"),
    locations=("L1", "L2:%", "L3"),
    counted=(30, 300),
    operations_max=(64, 256),
    backlog_entries_max=(40, 10_000),
    due_max=2_000,
)
CROWDS: Final = (FEW, MANY)
