"""Owns what an audit can find: a closed set of kinds, and how each difference is told, with its evidence."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from msgspec import Struct

Kind = Literal[
    "position-differs",
    "position-lost",
    "position-unjournaled",
    "window-differs",
    "view-differs",
    "count-differs",
    "location-differs",
    "safety-stock-differs",
    "overcommitted-differs",
    "reservation-differs",
    "claim-without-reservation",
    "reservation-unjournaled",
    "operation-differs",
    "operation-unjournaled",
    "claims-unbalanced",
    "client-differs",
    "hold-overdue",
    "spanning-leftover",
    "ledger-behind",
    "journal-gap",
    "journal-altered",
    "journal-skipped",
    "journal-cursor",
    "entry-unreadable",
    "entry-unbalanced",
    "movements-differ",
    "events-behind",
    "events-skipped",
]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MEANINGS: Final[dict[Kind, str]] = {
    "position-differs": "the ledger's number of a position is not what its journal folds to",
    "position-lost": "the journal has a position that the ledger has not",
    "position-unjournaled": "the ledger has a position that no entry tells of",
    "window-differs": "the stock events that the ledger remembers of a position are not those of its journal",
    "view-differs": "what the ledger keeps of sources that are not believed is not what its journal folds to",
    "count-differs": "the ledger does not know a count any more, or another one by its name",
    "location-differs": "a location in the ledger is not what its journal says",
    "safety-stock-differs": "safety stock of what was never counted is not what the journal says",
    "overcommitted-differs": "what the ledger calls overcommitted is not what its journal says",
    "reservation-differs": "a reservation in the ledger is not what its last entry says",
    "claim-without-reservation": "units are claimed for a reservation that the ledger has not",
    "reservation-unjournaled": "the ledger has a reservation with claims that no entry tells of",
    "operation-differs": "the ledger does not know the key of an operation any more, or another operation by it",
    "operation-unjournaled": "the ledger knows the key of an operation that its reservation does not tell of",
    "claims-unbalanced": "the units claimed of a position are not those that its reservations claim",
    "client-differs": "a client's open reservations or held units are counted wrong",
    "hold-overdue": "units are still held although their deadline is long past",
    "spanning-leftover": "a change over several shards was begun and never finished",
    "ledger-behind": "the ledger has lost entries that its journal has",
    "journal-gap": "an entry was removed from the journal",
    "journal-skipped": "an entry never came to the journal: the ledger went on without it",
    "journal-altered": "an entry is not the one that was written: the hash chain breaks",
    "journal-cursor": "the journal's cursor is not at its last entry",
    "entry-unreadable": "an entry cannot be decoded",
    "entry-unbalanced": "an entry's movements do not lead to the positions after it",
    "movements-differ": "the movement rows in Postgres are not those of their entry",
    "events-behind": "journaled operations were not announced in time",
    "events-skipped": "operations count as announced that were not journaled yet",
}
Numbers = dict[str, Any]


class Difference(Struct, frozen=True):
    """One thing that is not as it must be, and what it was found by.

    ``subject`` names it within the ``shard``: ``sku@location``, a reservation's or a client's name, or a place of the
    journal. ``place`` is where in the journal both sides were compared. ``live`` is what the ledger (or Postgres's row)
    says, ``journal`` what the entries say, None where it is not there; each has only what differs. ``entries`` are the
    last ones that touched it, the newest first.
    """

    kind: Kind
    shard: int
    subject: str
    place: str
    live: Numbers | None = None
    journal: Numbers | None = None
    entries: list[str] = []


KEPT_MAX: Final = 1_000
"""Differences of a round that are kept to be told; all are counted."""


@dataclass
class Differences:
    """Differences: all counted, the first ``KEPT_MAX`` kept, by kind and subject."""

    counts: Counter[Kind] = field(default_factory=Counter)
    kept: dict[tuple[Kind, str], Difference] = field(default_factory=dict)

    def note(self, difference: Difference) -> None:
        """The same thing twice counts once, as far as it is kept."""
        key = difference.kind, difference.subject
        if key in self.kept:
            return
        self.counts[difference.kind] += 1
        if len(self.kept) < KEPT_MAX:
            self.kept[key] = difference

    def join(self, others: "Differences") -> None:
        """What somebody else found in the same place, who may have found the same."""
        for difference in others.kept.values():
            self.note(difference)
        for kind, count in others.counts.items():
            self.counts[kind] = max(self.counts[kind], count)

    def drop(self, kind: Kind, subjects: set[str]) -> None:
        """These are as they must be after all; when none of the kind that is kept is left, so are the others."""
        for subject in subjects:
            del self.kept[kind, subject]
        self.counts[kind] -= len(subjects)
        if not any(kept == kind for kept, _ in self.kept):
            del self.counts[kind]

    def keep(self, kind: Kind) -> None:
        """Forget all others."""
        self.kept = {key: difference for key, difference in self.kept.items() if difference.kind == kind}
        self.counts = Counter({kind: self.counts[kind]})
