"""Owns the negative controls in small: what keeps a lost answer from doing a thing twice."""

from pathlib import Path

import pytest
from chaos.controls import EVERYSEC, RETRIES
from chaos.proxy import Way, proxy_to
from chaos.variants import Edit, variant
from chaos.versions import ANOTHER_LIBRARY
from ledgers import Clock, Shop
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from servers import as_owner

from ledger import Done, Ledger, Unknown

pytestmark = pytest.mark.anyio


async def test_a_lost_answer_is_settled_by_its_key_and_not_by_asking_again(valkey_url: str) -> None:
    """P3, P4: it was done, which nobody was told; asked again with its key it says so, and does nothing."""
    async with proxy_to(valkey_url) as (proxy, through):
        ledger = await Ledger.open(through)
        try:
            shop = Shop(ledger, Clock())
            await shop.open()
            await shop.stock("SKU", 10)
            proxy.change(Way("cut"))
            with pytest.raises(Unknown):
                await shop.hold(("SKU", 3), key="basket")
            again = await shop.hold(("SKU", 3), key="basket")
            assert isinstance(again, Done)
            assert again.replayed
            assert (await shop.position("SKU")).held == 3
            assert proxy.cuts == 1
        finally:
            await ledger.close()


async def test_a_client_that_repeats_blindly_does_it_twice(valkey_url: str) -> None:
    """Why the retries of redis-py are off in each client of ours."""
    retry = Retry(NoBackoff(), 3)
    async with proxy_to(as_owner(valkey_url)) as (proxy, through), Redis.from_url(through, retry=retry) as client:
        await client.ping()
        proxy.change(Way("cut"))
        assert await client.incr("counted") == 2


@pytest.mark.parametrize("edits", [EVERYSEC, RETRIES, (ANOTHER_LIBRARY,)])
async def test_the_twins_still_apply(tmp_path: Path, edits: tuple[Edit, ...]) -> None:
    """``make chaos`` needs them to be found wrong, which they cannot be when they are not made."""
    assert (variant(tmp_path / "twin", edits) / "ledger/lua/hold.lua").exists()
