"""Owns the judgement of a server's clock: what is decided by it must be of now (DESIGN 5 "Time", P9).

A process counts the ledger's time by its own monotonic clock, and before it has any by its wall clock. The script
refuses every change when its server's clock is more than a minute off that (``lua/call.lua``), so that nothing expires
en masse and no hold lives for ever; what only looks goes on, in the time that the process counts. It ends by itself
when the clock is right again, or when an operator accepts it (``accept_clock``).

A process that is started after a jump of a clock that is also its own cannot see the jump. So whoever sees it leaves a
mark at the shard, and it stops those who have not counted yet. Those who have, and see none, take the mark away: it may
be from a process that itself was asleep.
"""

import logging
import time
from typing import Any, Final, Literal, NamedTuple

from ledger.errors import Unavailable
from ledger.findings import clock_ms
from ledger.keys import clock_key, shard_key
from ledger.placement import Placement, command, connected, server_ms
from ledger.state import shard_record

JUMP_MS: Final = 60_000
"""A larger step is not believed; ``lua/call.lua`` says the same."""
DOUBTED: Final = b"doubted"
ACCEPTED: Final = b"accepted"
ACCEPTED_FOR_MS: Final = 60_000
"""How long processes that refuse can still learn that the clock was accepted; they look once a second."""
TIMEOUT_S: Final = 5.0
REMEDY: Final = "mend the clock; or, if it is right as it is now, run `availability doctor --accept-clock`"

logger = logging.getLogger(__name__)


def monotonic_ms() -> int:
    """Milliseconds that also pass while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Learnt(NamedTuple):
    """The ledger's time, and this process's own count at that moment."""

    ledger_ms: int
    monotonic_ms: int


class ServerClock:
    """One shard's clock as this process knows it; ``flaw`` says why nothing may be changed by it."""

    def __init__(self) -> None:
        self.flaw: str | None = None
        self._learnt: Learnt | None = None
        self._marked = self._doubted = False

    def expected_ms(self) -> int:
        """What the server's clock should say now."""
        if self._learnt is None:
            return clock_ms()
        return self._learnt.ledger_ms + monotonic_ms() - self._learnt.monotonic_ms

    def learn(self, ledger_ms: int, *, jumped: bool) -> None:
        """From an answer of the script: its time, and whether it had to take ours for it."""
        if jumped:
            self.refuse()
        elif not self._doubted:
            # A ledger that has lived ahead stands still and tells that; what we count is its server's clock.
            expected_ms = self.expected_ms()
            self._believe(ledger_ms if abs(ledger_ms - expected_ms) <= JUMP_MS else expected_ms)

    def refuse(self) -> str:
        """The script does not believe the clock; why nothing may be changed."""
        if self.flaw is None:
            self.flaw = f"the clock of the ledger's server jumped by more than {JUMP_MS // 1_000} s: {REMEDY}"
            logger.error("%s", self.flaw)
        return self.flaw

    def judge(self, server_ms: int, mark: bytes | None) -> Literal["set", "delete"] | None:
        """From the clock itself, and the mark at its shard, once a second; what is to be done about the mark."""
        jumped = abs(server_ms - self.expected_ms()) > JUMP_MS
        if mark == ACCEPTED:
            if jumped or self.flaw is not None:
                logger.warning("an operator has accepted the clock of the ledger's server: time goes on by it")
                self._believe(server_ms)
            return None
        if jumped:
            self.refuse()
            marks = self._learnt is not None and not self._marked  # once: another may know better, and take it away
            self._marked = self._marked or marks
            return "set" if marks else None
        if self._learnt is None:
            self._doubted = mark == DOUBTED
            doubt = f"the clock of the ledger's server jumped before this process was started: {REMEDY}"
            self.flaw = doubt if self._doubted else None
            return None
        self._marked, self.flaw = False, None
        return "delete" if mark == DOUBTED else None

    def _believe(self, ledger_ms: int) -> None:
        self._learnt, self.flaw = Learnt(ledger_ms, monotonic_ms()), None
        self._marked = self._doubted = False


async def accept_clock(redis_url: str, shards: int) -> None:
    """Tell every process that refuses since a jump that the servers' clocks are right as they are now.

    Raises Unavailable when that cannot be, and what redis-py raises when a server is away.
    """
    urls = [await Placement(redis_url, shard, TIMEOUT_S).url() for shard in range(shards)]
    for shard, url in enumerate(urls):
        await _accept(url, shard)


async def _accept(url: str, shard: int) -> None:
    async with connected(url, TIMEOUT_S) as connection:
        now_ms = await server_ms(connection)
        packed: Any = await command(connection, "GET", shard_key(shard))
        ahead_ms = shard_record(packed).clock_ms - now_ms if packed else 0
        if ahead_ms > JUMP_MS:
            raise Unavailable(
                f"shard {shard} has lived {ahead_ms // 1_000} s longer than its server's clock says, and its time"
                " never runs back: wait until the clock has come to it"
            )
        await command(connection, "SET", clock_key(shard), ACCEPTED, "PX", ACCEPTED_FOR_MS)
