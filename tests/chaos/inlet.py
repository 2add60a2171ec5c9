"""Owns who may put events into the stream: everybody, or for a while nobody but a fault."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Inlet:
    """Open at first. Not by the stream's settings, which would be a flaw of them and stop ``ingest`` itself."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._inside = 0

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Publish in this block: it begins when the inlet is open."""
        await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Nobody passes in this block; it begins when all who passed before have done."""
        self._open.clear()
        try:
            await self._empty.wait()
            yield
        finally:
            self._open.set()
