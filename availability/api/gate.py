"""Who is let in: requests of each kind have a lane, and the lateness of the event loop counts in all of them."""

import sys
import time
from collections.abc import Callable
from typing import Final

from availability.api.endpoint import Endpoint
from availability.api.lanes import Lane

TICK_S: Final = 0.01
LOOK_S: Final = 0.1
"""How long a while is."""
SEARCHES: Final = ("GET /v1/reservations", "GET /v1/overcommitted")
"""What asks Postgres: a slow one is nobody else's trouble."""
LANES: Final = ("holds", "verbs", "reads", "searches", "stock")


def lane_name(endpoint: Endpoint) -> str:
    """A flood of one kind leaves the others room: a buyer who has held can pay, and a feed goes on while all look."""
    if endpoint.only_looks:
        return "searches" if endpoint.name in SEARCHES else "reads"
    if "reservations:write" in endpoint.scopes:
        return "holds" if "{" not in endpoint.path else "verbs"
    return "stock"


class Gate:
    """The lanes of a process; ``tick`` is to be called every ``TICK_S``, as far as the event loop finds the time."""

    def __init__(self, bound_ms: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self.lanes = {name: Lane(bound_ms / 1_000) for name in LANES}
        self._now_s = now_s
        self._looked_s = self._ticked_s = now_s()
        self._lags_s: list[float] = []
        self._lag_before_s = 0.0

    def refused(self) -> dict[str, int]:
        """Requests not let in so far, by lane."""
        return {name: lane.shed for name, lane in self.lanes.items()}

    def lag_s(self) -> float:
        """How late the event loop was, on average of the last while."""
        return self._lag_before_s

    def lane_of(self, endpoint: Endpoint) -> Lane:
        """The lane of an endpoint's requests. What is public, as /health, is always answered."""
        return Lane(float("inf"), sys.maxsize) if endpoint.public else self.lanes[lane_name(endpoint)]

    def tick(self) -> None:
        """Note how late this is, as late as whatever else waited for the event loop; judge every lane at times."""
        now_s = self._now_s()
        self._lags_s.append(max(0.0, now_s - self._ticked_s - TICK_S))
        self._ticked_s = now_s
        if now_s - self._looked_s >= LOOK_S:
            self._lag_before_s = sum(self._lags_s) / len(self._lags_s)
            for lane in self.lanes.values():
                lane.look(now_s - self._looked_s, self._lag_before_s, min(self._lags_s))
            self._looked_s, self._lags_s = now_s, []
