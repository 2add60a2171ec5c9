"""Owns the luck of a run: every choice and every delay comes from the seed, and from nothing else."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final, TypeVar

FAULTS: Final[dict[str, float]] = {
    "request lost": 0.04,
    "reply lost": 0.05,
    "request doubled": 0.04,
    "slow network": 0.05,
    "ledger request lost": 0.03,
    "ledger reply lost": 0.04,
    "ledger call late": 0.03,
    "crash of an api": 0.02,
    "crash of the ledger": 0.008,
    "crash of the keeper": 0.02,
    "crash of ingest": 0.03,
    "crash of the journaler": 0.03,
    "commit of the journal unknown": 0.1,
    "journal away": 0.01,
    "acknowledgement lost": 0.1,
    "event doubled": 0.15,
    "event overtaken": 0.3,
    "clock runs back": 0.01,
}
"""What may go wrong, and how often it does at each chance of it, in a seed that has it."""

Item = TypeVar("Item")


class Chance:
    """A seed has about half of the faults, some of them more often: together they would hide each other."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - nothing here is secret
        self.calm = False
        """Nothing goes wrong any more."""
        self.met: Counter[str] = Counter()
        self._rates = {
            name: rate * self.random.choice((0.5, 1, 2)) for name, rate in FAULTS.items() if self.random.random() < 0.5
        }

    def happens(self, fault: str) -> bool:
        """Whether this goes wrong now."""
        assert fault in FAULTS, fault
        if self.calm or self.random.random() >= self._rates.get(fault, 0.0):
            return False
        self.met[fault] += 1
        return True

    def sometimes(self, share: float) -> bool:
        """Whether somebody does what he does so often."""
        return self.random.random() < share

    def of(self, items: Sequence[Item]) -> Item:
        return self.random.choice(items)

    def delay_s(self) -> float:
        """How long a message is on its way."""
        if self.happens("slow network"):
            return self.random.uniform(0.01, 1.5)
        return self.random.expovariate(1_500)
