"""How often a client may ask: the ledger's meter, shared by all processes, asked ahead so that few requests wait.

A process leases requests of a busy client, about what it used in the last tenth of a second; what a lease has is spent
without a word to the ledger. A client with a low limit gets no lease ahead: each of its requests is judged by itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from availability.api.answer import Answer, Headers
from availability.api.problems import problem, retry_after
from availability.settings import Rate
from ledger import Admit, Admitted, LedgerError

AHEAD_S: Final = 0.1
"""So much of what a client uses is leased at once; half of it when the next lease is asked for."""
AHEAD_LEAST: Final = 1_000
"""One of so many requests of a burst is leased ahead in any case, so that a client of few requests seldom waits."""
AHEAD_MOST: Final = 10
"""No process leases more than one of so many requests of a burst."""
LEASE_S: Final = 1.0
"""What is not used for so long is dropped: another process may need it."""
ASK_S: Final = 0.05
"""A ledger that takes longer judges nobody: for a second the client is let through, as when there is no ledger."""
CLIENTS_MAX: Final = 10_000

Ask = Callable[[Admit], Awaitable[Admitted]]


class _Lease:
    """What a process may spend for a client, and who waits for more. It had ``stocked`` after the last answer."""

    __slots__ = (
        *("asked_at_s", "asking", "client", "fields", "lately", "left", "low", "policy", "rate"),
        *("refusal", "refused_until_s", "stocked", "until_s", "waiting"),
    )

    def __init__(self, client: str, rate: Rate, now_s: float) -> None:
        self.client, self.rate = client, rate
        self.left = self.stocked = self.low = 0
        self.until_s = self.refused_until_s = 0.0
        self.asked_at_s, self.lately = now_s, 0.0
        self.asking: asyncio.Task[None] | None = None
        self.waiting: deque[asyncio.Future[Headers | Answer]] = deque()
        window_s = -(-rate.burst // rate.per_second) if rate.per_second else 0
        self.policy = (b"ratelimit-policy", b'"client";q=%d;w=%d' % (rate.burst, window_s))
        self.fields: Headers = ()
        self.refusal = _refusal(self.policy, 0)

    def wanted(self, now_s: float) -> int:
        """Requests to ask for: those that wait, and what is soon used."""
        if now_s > self.asked_at_s:
            used = self.stocked - self.left + len(self.waiting)
            self.lately = (self.lately + used / (now_s - self.asked_at_s)) / 2
        burst = self.rate.burst
        ahead = min(int(min(self.lately, self.rate.per_second) * AHEAD_S), burst // AHEAD_MOST)
        ahead = max(ahead, burst // AHEAD_LEAST)
        self.asked_at_s, self.low = now_s, ahead // 2
        return max(1, min(len(self.waiting), burst) + ahead)

    def share_out(self, admitted: Admitted, now_s: float) -> None:
        """Give what was granted to those who wait, in order, and keep the rest."""
        self.left = admitted.granted + (self.left if now_s < self.until_s else 0)
        self.until_s = now_s + LEASE_S
        wait = [each for each in self.waiting if not each.done()]
        self.waiting.clear()
        served = min(len(wait), self.left)
        self.left -= served
        self.stocked = self.left
        left, reset_s = admitted.remaining + self.left, -(-admitted.full_after_ms // 1_000)
        self.fields = (self.policy, (b"ratelimit", b'"client";r=%d;t=%d' % (left, reset_s)))
        if not admitted.remaining:
            self.refusal = _refusal(self.policy, admitted.retry_after_ms)
            self.refused_until_s = now_s + admitted.retry_after_ms / 1_000
        for each in wait[:served]:
            each.set_result(self.fields)
        if admitted.remaining:
            self.waiting.extend(wait[served:])  # more than a burst waited at once: they are judged by the next question
        else:
            for each in wait[served:]:
                each.set_result(self.refusal)


def _refusal(policy: tuple[bytes, bytes], after_ms: int) -> Answer:
    after = retry_after(after_ms)
    detail = "this client asks more often than it may; come again after Retry-After seconds"
    return problem("rate-limited", detail, headers=(policy, (b"ratelimit", b'"client";r=0;t=%s' % after[0][1]), *after))


class RateLimits:
    """Judges requests by their client; one a process. ``of_clients`` have rates of their own."""

    def __init__(
        self,
        ask: Ask,
        rate: Rate,
        of_clients: Mapping[str, Rate],
        *,
        now_s: Callable[[], float] = time.monotonic,
        ask_s: float = ASK_S,
    ) -> None:
        self._ask_s = ask_s
        self._ask, self._rate, self._of_clients, self._now_s = ask, rate, of_clients, now_s
        self._leases: dict[str, _Lease] = {}
        self._refused = 0

    def refused(self) -> dict[str, int]:
        """Requests refused so far."""
        return {"rate-limited": self._refused}

    def take(self, client: str) -> Headers | Answer | None:
        """The fields for the answer of a request that may go on, or the refusal. None: only ``judge`` can tell."""
        lease = self._leases.get(client)
        if lease is None:
            return None
        if not lease.rate.per_second:
            return ()
        now_s = self._now_s()
        if lease.left and now_s < lease.until_s:
            lease.left -= 1
            if lease.left < lease.low and lease.asking is None:
                lease.asking = asyncio.create_task(self._asking(lease))
            return lease.fields
        if now_s >= lease.refused_until_s:
            return None
        self._refused += 1
        return lease.refusal

    async def judge(self, client: str) -> Headers | Answer:
        """What ``take`` answers, once the ledger was asked."""
        lease = self._leases.get(client)
        if lease is None:
            lease = _Lease(client, self._of_clients.get(client, self._rate), self._now_s())
            if len(self._leases) >= CLIENTS_MAX:
                del self._leases[next(iter(self._leases))]
            self._leases[client] = lease
        if not lease.rate.per_second:
            return ()
        answer: asyncio.Future[Headers | Answer] = asyncio.get_running_loop().create_future()
        lease.waiting.append(answer)
        if lease.asking is None:
            lease.asking = asyncio.create_task(self._asking(lease))
        judged = await answer
        self._refused += isinstance(judged, Answer)
        return judged

    async def _asking(self, lease: _Lease) -> None:
        """Ask until nobody waits."""
        while True:
            count, rate = lease.wanted(self._now_s()), lease.rate
            try:
                async with asyncio.timeout(self._ask_s):
                    admitted = await self._ask(Admit(lease.client, count, rate.per_second, rate.burst))
            except (LedgerError, TimeoutError):
                # Nobody is refused because nobody can judge: a write is then refused for better reasons.
                admitted = Admitted(max(count, len(lease.waiting), rate.per_second), 0, 0, 0)
            lease.share_out(admitted, self._now_s())
            if not lease.waiting:
                break
        lease.asking = None
