"""A lane: how many requests of one kind are let in, so that those are answered in time and the others refused at once.

A lane is crowded when for two whiles not even its quickest request was answered within the bound, as CoDel judges
queues, or when it is full. It then lets in only as many as it answers within the bound, by its own measured rate; a
short burst or a hiccup refuses nobody. When a while passes without a refusal, the crowd is gone. Where the ledger is
far away and even a lonely request takes longer, the bound is a few times what that one takes.
"""

from typing import Final

from availability.api.answer import Answer
from availability.api.problems import problem, retry_after

CROWD_LEAST: Final = 256
"""So many requests under way at once are no crowd, however long they take."""
UNDER_WAY_LEAST: Final = 64
"""Requests that a crowded lane lets in whatever its rate: enough to fill calls, so that no stall locks a lane."""
BURST_LEAST: Final = 512
BURST_S: Final = 0.1
"""A lane that is not crowded lets in what it answers in this time: there are hiccups, and clients come in bursts."""
RATE_KEPT: Final = 0.9
"""How much of a lane's rate is still believed a while later, so that a hiccup does not look like a slow service."""
USUAL_TIMES: Final = 3
"""A lane is not crowded where its requests take less than so many times what a lonely one does."""
USUAL_FORGOTTEN: Final = 1.001
"""By how much that may grow in a while: it doubles in about a minute."""

_CROWDED: Final = problem("overloaded", "more comes than can be answered in time", headers=retry_after(1_000))


class Lane:
    """Requests of one kind. ``shed`` counts those refused."""

    __slots__ = (
        *("_answered", "_bound_s", "_most", "_quickest_s", "_rate", "_shed_before", "_usual_s", "_was_slow"),
        *("_reading", "_reading_long", "_while"),
        *("is_crowded", "limit", "shed", "under_way"),
    )

    def __init__(self, bound_s: float, limit: int = BURST_LEAST) -> None:
        self._bound_s, self.limit = bound_s, limit
        self.is_crowded = self._was_slow = False
        self.under_way = self.shed = self._shed_before = self._answered = self._most = 0
        self._quickest_s = self._usual_s = float("inf")
        self._rate = 0.0
        self._while = self._reading = self._reading_long = 0

    def enter(self) -> Answer | None:
        """The refusal, or None for a request that may go on; it must ``leave``."""
        if self.under_way >= self.limit:
            self.shed += 1
            if not self.is_crowded:
                self.is_crowded, self.limit = True, self._fitting(self._bound_s)
            return _CROWDED
        self.under_way += 1
        self._most = max(self._most, self.under_way)
        return None

    def leave(self, seconds: float) -> None:
        """A request was answered, so long after it had entered."""
        self.under_way -= 1
        self._answered += 1
        self._quickest_s = min(self._quickest_s, seconds)

    def begin_to_read(self) -> int:
        """A request waits for its body; what to call ``has_read`` with."""
        self._reading += 1
        return self._while

    def has_read(self, since: int) -> None:
        """The body is there, or will not come. Who has sent it for longer than a while was not under way meanwhile."""
        if since == self._while:
            self._reading -= 1
        elif since == self._while - 1:
            self._reading_long -= 1
        else:
            self.under_way += 1

    def look(self, elapsed_s: float, lag_s: float, least_lag_s: float) -> None:
        """Judge the last ``elapsed_s``; before requests entered they waited for ``lag_s``, on average."""
        self._rate = max(self._rate * RATE_KEPT, self._answered / elapsed_s)
        self._usual_s = min(self._usual_s * USUAL_FORGOTTEN, self._quickest_s)
        bound_s = max(self._bound_s, self._usual_s * USUAL_TIMES) if self._answered else self._bound_s
        is_slow = self._quickest_s + least_lag_s > bound_s and self._most >= CROWD_LEAST
        self.is_crowded = (is_slow and self._was_slow) or self.shed > self._shed_before
        if self.is_crowded:
            self.limit = self._fitting(max(bound_s - lag_s, bound_s / 4))
        else:
            self.limit = max(int(self._rate * max(bound_s, BURST_S)), BURST_LEAST)
        self._answered, self._shed_before, self._quickest_s = 0, self.shed, float("inf")
        # Or a few clients that send slowly would keep all others out.
        self.under_way -= self._reading_long
        self._reading_long, self._reading = self._reading, 0
        self._while += 1
        self._was_slow, self._most = is_slow, self.under_way

    def _fitting(self, seconds: float) -> int:
        """How many are answered in this time."""
        return max(int(self._rate * seconds), UNDER_WAY_LEAST)
