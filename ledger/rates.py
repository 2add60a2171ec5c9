"""How often a client may ask: GCRA, as a meter that fills with what is granted and drains at the client's rate.

The meter counts thousandths of requests in whole numbers, so that the Lua never differs by a rounding.
"""

from typing import NamedTuple

from ledger.messages import Admit, Admitted


class Meter(NamedTuple):
    """``filled`` thousandths of requests at ``at_ms``; empty is what every client begins with."""

    filled: int = 0
    at_ms: int = 0


def admit(meter: Meter, asked: Admit, now_ms: int) -> tuple[Meter, Admitted]:
    """Grants as many of the requests as fit into the burst now, and says how it stands after that."""
    # A clock that ran back drains nothing, and does not stop the meter until it has caught up.
    drained = asked.per_second * max(0, now_ms - meter.at_ms)
    filled, full = max(0, meter.filled - drained), asked.burst * 1_000
    granted = max(0, min(asked.count, (full - filled) // 1_000))
    filled += granted * 1_000
    return Meter(filled, now_ms), Admitted(
        granted=granted,
        remaining=max(0, (full - filled) // 1_000),
        retry_after_ms=max(0, -(-(filled + 1_000 - full) // asked.per_second)),
        full_after_ms=-(-filled // asked.per_second),
    )
