"""Owns Valkey's memory limit: what makes claims is refused for a while, what ends them goes on."""

import asyncio
from typing import Final

from redis.asyncio import Redis

from chaos.fault import Fault
from chaos.stage import Stage


class MemoryLimit(Fault):
    """The limit is set to what is used now, for some seconds."""

    name = "memory-limit-valkey"

    async def inject(self, stage: Stage) -> None:
        async with Redis.from_url(stage.url("redis")) as client:
            used, before = int((await client.info("memory"))["used_memory"]), await _refused(client)
            await client.config_set("maxmemory", used + stage.random.choice((0, 100_000)))
            try:
                await asyncio.sleep(stage.random.uniform(1.0, 3.0))
            finally:
                await client.config_set("maxmemory", 0)
            self.met = await _refused(client) - before


async def _refused(client: Redis) -> int:
    """Calls that had no memory, so far."""
    told = await client.info("errorstats")
    return int(told.get("errorstat_OOM", {"count": 0})["count"])


FAULTS: Final[list[type[Fault]]] = [MemoryLimit]
