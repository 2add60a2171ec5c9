"""Owns our own API without its batches: every request is a call of its own, on a pool of connections.

It is not a way to run the service: it is put together here to be compared with it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from availability import settings
from availability.api.keyring import keep_fresh
from availability.app import Api
from availability.instance import settings_of
from bench.peers.apps import Asgi
from ledger import Hold, HoldOutcome, Ledger, Quarantine, Reservations

CONNECTIONS: Final = 64


class Uncoalesced(Ledger):
    """A ledger whose holds do not wait for each other: each has one of many connections to itself."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._alone = [Ledger(url, operations_max=1) for _ in range(CONNECTIONS)]
        self._free: asyncio.Queue[Ledger] = asyncio.LifoQueue()
        for ledger in self._alone:
            self._free.put_nowait(ledger)

    async def hold(self, hold: Hold) -> HoldOutcome:
        ledger = await self._free.get()
        try:
            return await ledger.hold(hold)
        finally:
            self._free.put_nowait(ledger)

    async def connect(self) -> None:
        """Beforehand, each: a connection begins with many questions."""
        await asyncio.gather(self.check(), *(ledger.check() for ledger in self._alone))

    async def close(self) -> None:
        """Waits for what is under way."""
        await asyncio.gather(super().close(), *(ledger.close() for ledger in self._alone))


@asynccontextmanager
async def api(data_folder: Path) -> AsyncIterator[Asgi]:
    """The API of the ``up`` that runs in ``data_folder``."""
    ours = settings_of(data_folder, settings.load())
    ledger = Uncoalesced(ours.redis_url)
    quarantine = await Quarantine.open(ours.postgres_url)
    reservations = await Reservations.open(ours.postgres_url, shards=ours.shards)
    made = Api(ours, ledger, quarantine, reservations)
    keys = asyncio.create_task(keep_fresh(made.tokens, ours.jwks_file, ours.jwks_url))
    try:
        await ledger.connect()
        asgi: Any = made.asgi
        yield asgi
    finally:
        keys.cancel()
        await ledger.close()
        await quarantine.close()
        await reservations.close()
