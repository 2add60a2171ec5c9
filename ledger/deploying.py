"""Owns loading the library into the ledger's servers ahead of the processes, whose users may only call it."""

from ledger.library import library, load, put_back
from ledger.placement import connected, primaries

TIMEOUT_S = 10.0


async def deploy_library(redis_url: str) -> int:
    """Load this version's library into every primary; into how many it was. Raises one of ``KEYSPACE_FAILED``.

    One of its name that somebody changed is replaced. Those of other versions stay, for processes that call them still.
    """
    return sum([await load_into(url) for url in await primaries(redis_url, TIMEOUT_S)])


async def load_into(url: str) -> bool:
    """Load it into one server; whether it had to be."""
    async with connected(url, TIMEOUT_S) as connection:
        return await load(connection, library()) or await put_back(connection, library())
