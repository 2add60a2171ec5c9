"""Owns the faults of the network, between our processes and each server, and before the API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Final

from waiting import wait_until

from chaos.fault import Fault, Plan
from chaos.outside import lead, outside
from chaos.proxy import PASS, Proxy, Way, proxy_to
from chaos.stage import Stage

LOST_AT_ONCE: Final = 10
"""Answers lost by one injection."""


class _Link(Fault):
    """A proxy stands before ``server``, and everything goes through it."""

    server: ClassVar[str]
    needs_own_stage = True
    proxy: ClassVar[Proxy]
    """Of all faults of a kind, which share a stage: one of them prepares it."""

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        if self.server == "api":
            async with proxy_to(plan.client_url) as (type(self).proxy, plan.client_url):
                yield
            return
        async with outside(plan, self.server) as url, proxy_to(url) as (type(self).proxy, through):
            lead(plan, self.server, through)
            yield

    async def for_a_while(self, way: Way, duration_s: float) -> None:
        before = self.proxy.touched
        self.proxy.change(way)
        try:
            await asyncio.sleep(duration_s)
        finally:
            self.proxy.change(PASS)
        self.met = self.proxy.touched - before


class _LostReplies(_Link):
    """What was asked is done, and the connection breaks before the answer is through: some times in a row."""

    async def inject(self, stage: Stage) -> None:
        before_all = self.proxy.cuts
        for _ in range(LOST_AT_ONCE):
            lost = self.proxy.cuts

            async def is_lost(before: int = lost) -> bool:
                return self.proxy.cuts > before

            self.proxy.change(Way("cut", after_bytes=stage.random.choice((0, 0, 1, 20))))
            try:
                await wait_until(is_lost, 2.0)
            except AssertionError:
                stage.say(f"{self.name}: nobody asked anything")
                self.proxy.change(PASS)
            await asyncio.sleep(stage.random.uniform(0.0, 0.3))
        self.met = self.proxy.cuts - before_all


class LostRepliesValkey(_LostReplies):
    """As above: what the control with blind retries is made of."""

    name = "lost-replies-valkey"
    server = "valkey"


class _HalfOpen(_Link):
    """Connections stand and carry nothing, or only one way; what was held back comes when nobody waits for it."""

    async def inject(self, stage: Stage) -> None:
        way = Way(stage.random.choice(("silent", "deaf", "mute")))
        duration_s = stage.random.uniform(0.5, 4.0)
        stage.say(f"{self.name}: {way.kind} for {duration_s:.1f} s")
        await self.for_a_while(way, duration_s)


class _Away(_Link):
    """Nobody can connect, and who was connected is thrown out."""

    async def inject(self, stage: Stage) -> None:
        await self.for_a_while(Way("refuse"), stage.random.uniform(1.0, 4.0))


class _Slow(_Link):
    """Everything comes some milliseconds later."""

    async def inject(self, stage: Stage) -> None:
        await self.for_a_while(Way("late", delay_s=stage.random.uniform(0.005, 0.05)), stage.random.uniform(1.0, 3.0))


class PostgresAway(_Link):
    """Postgres is away until the ledger's stream is at its bound: holds go on, are refused, and go on again."""

    name = "postgres-away"
    server = "postgres"

    @asynccontextmanager
    async def prepared(self, plan: Plan) -> AsyncIterator[None]:
        plan.environment["AVAILABILITY_JOURNAL_BACKLOG_ENTRIES_MAX"] = "300"
        async with super().prepared(plan):
            yield

    async def inject(self, stage: Stage) -> None:
        await self.for_a_while(Way("refuse"), stage.random.uniform(6.0, 9.0))


def _of(kind: type[_Link], name: str, server: str) -> type[Fault]:
    members = {"name": f"{name}-{server}", "server": server, "__doc__": kind.__doc__}
    return type(f"{kind.__name__[1:]}{server.title()}", (kind,), members)


ENDS: Final = ("valkey", "postgres", "nats", "api")
FAULTS: Final[list[type[Fault]]] = [
    LostRepliesValkey,
    *(_of(_LostReplies, "lost-replies", server) for server in ENDS if server != "valkey"),
    *(_of(_HalfOpen, "half-open", server) for server in ENDS),
    *(_of(_Away, "away", server) for server in ("valkey", "nats")),
    _of(_Slow, "slow-link", "valkey"),
    PostgresAway,
]
