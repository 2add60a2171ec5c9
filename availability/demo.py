"""Owns the demo's traffic (``up --demo``): a small retailer, its feeds, and shoppers that hold, order and collect.

Everything goes through the doors that a real retailer has: locations and shoppers over HTTP, stock over NATS.
"""

import asyncio
import logging
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx

from availability import issuer
from availability.feeds.publisher import NotPublished, publish
from availability.settings import Settings

logger = logging.getLogger(__name__)

WAREHOUSES = [f"DEMO-WAREHOUSE-{number}" for number in (1, 2)]
STORES = [f"DEMO-STORE-{number:02}" for number in range(1, 13)]
SKUS = [f"DEMO-{number:04}" for number in range(1, 501)]
CITIES = [(52.52, 13.40), (53.55, 9.99), (48.14, 11.58), (50.94, 6.96), (50.11, 8.68), (48.78, 9.18), (51.23, 6.78)]
"""Where the locations are, in turn: latitude and longitude."""

BASKETS_PER_S = 2.0
DELIVERY_UNITS_MIN = 3
FEED_INTERVAL_S = 2.0
HOLD_TTL_S = 30
RETRY_S = 0.25
SHOPPERS_MAX = 100
TOKEN_TTL_S = 3_600
CHANCE = random.Random()  # noqa: S311 - shoppers need no secrets


async def run(settings: Settings, data_folder: Path) -> None:
    """Set the retailer up if it is not there, then let it live until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    host = "127.0.0.1" if settings.api_host == "0.0.0.0" else settings.api_host  # noqa: S104 - an address asked for
    client = httpx.AsyncClient(
        base_url=f"http://{host}:{settings.api_port}", auth=_Tokens(settings, data_folder), timeout=10
    )
    async with client:
        retailer = Retailer(client, settings.nats_url)
        with suppress(asyncio.CancelledError):
            await retailer.open()
            await asyncio.gather(retailer.keep_stocked(), retailer.send_shoppers())


class _Tokens(httpx.Auth):
    """Signs each hour's token with the instance's key, well before the last one ends."""

    def __init__(self, settings: Settings, data_folder: Path) -> None:
        self._settings, self._keys = settings, data_folder / "keys"
        self._token, self._renew_at_s = "", 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if time.monotonic() >= self._renew_at_s:
            self._token = issuer.sign(
                self._keys,
                client="demo",
                scopes=["atp:read", "reservations:read", "reservations:write", "catalog:write"],
                audience=self._settings.token_audience,
                issuer=self._settings.token_issuer,
                ttl_s=TOKEN_TTL_S,
            )
            self._renew_at_s = time.monotonic() + TOKEN_TTL_S / 2
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


class Retailer:
    """14 locations, 500 SKUs, and what happens there."""

    def __init__(self, client: httpx.AsyncClient, nats_url: str) -> None:
        self._client = client
        self._nats_url = nats_url
        self._run = secrets.token_hex(4)
        self._numbers = 0
        self._gone: Counter[tuple[str, str]] = Counter()
        """Units that left each location since its last delivery."""

    async def open(self) -> None:
        """Open the locations, and count their stock if nobody ever did; tried until it works."""
        while True:
            try:
                for number, location in enumerate([*WAREHOUSES, *STORES]):
                    await self._put_location(number, location)
                if await self._is_unknown(SKUS[-1]):
                    await self._count_everything()
                break
            except (httpx.HTTPError, NotPublished) as error:
                logger.info("the retailer cannot open yet: %s", error)
                await asyncio.sleep(RETRY_S)
        logger.info("the retailer is open: %d SKUs at %d locations", len(SKUS), len(WAREHOUSES) + len(STORES))

    async def keep_stocked(self) -> None:
        """Sell some over the counter, and deliver what has gone."""
        while True:
            await asyncio.sleep(FEED_INTERVAL_S)
            sold = [(CHANCE.choice(STORES), CHANCE.choice(SKUS)) for _ in range(3)]
            due = {place: units for place, units in self._gone.items() if units >= DELIVERY_UNITS_MIN}
            sales = [self._event("delta", "pos", *place, -1, reason="sale") for place in sold]
            receipts = [self._event("delta", "erp", *place, units, reason="receipt") for place, units in due.items()]
            try:
                await publish(self._nats_url, "stock.demo-pos.sales", sales)
                await publish(self._nats_url, "stock.demo-erp.receipts", receipts)
            except NotPublished as error:
                logger.info("a feed of the demo is late: %s", error)
                continue
            self._gone.update(sold)
            self._gone.subtract(due)
            self._gone = +self._gone

    async def send_shoppers(self) -> None:
        """Let shoppers come by at random, never more than ``SHOPPERS_MAX`` at once."""
        room = asyncio.Semaphore(SHOPPERS_MAX)
        async with asyncio.TaskGroup() as shop:
            while True:
                await asyncio.sleep(CHANCE.expovariate(BASKETS_PER_S))
                await room.acquire()
                shopper = shop.create_task(self._shop())
                shopper.add_done_callback(lambda _done: room.release())

    async def _shop(self) -> None:
        """Hold a basket; then order and collect it, or give it back, or leave it to expire."""
        location = CHANCE.choice([*STORES, *WAREHOUSES * 4])
        wanted = {sku: CHANCE.choice([1, 1, 1, 2]) for sku in CHANCE.sample(SKUS, CHANCE.choice([1, 1, 2, 3]))}
        lines = [{"sku": sku, "quantity": quantity, "location": location} for sku, quantity in wanted.items()]
        try:
            held = await self._post("/v1/reservations", {"lines": lines, "ttl_seconds": HOLD_TTL_S})
            if held is None:
                return
            reservation = f"/v1/reservations/{held['id']}"
            await asyncio.sleep(CHANCE.uniform(0.5, 4))
            mood = CHANCE.random()
            if mood < 0.1:
                return
            if mood < 0.2:
                await self._post(f"{reservation}/release", {})
                return
            self._numbers += 1
            await self._post(f"{reservation}/commit", {"order_id": f"DEMO-{self._run}-{self._numbers}"})
            await asyncio.sleep(CHANCE.uniform(1, 5))
            if await self._post(f"{reservation}/ship", {}) is not None:
                self._gone.update({(location, sku): quantity for sku, quantity in wanted.items()})
        except httpx.HTTPError as error:
            logger.info("a shopper gave up: %s", error)

    async def _post(self, path: str, body: dict[str, object]) -> dict[str, object] | None:
        """The reservation after it, or None when it was refused."""
        answer = await self._client.post(path, json=body, headers={"Idempotency-Key": secrets.token_hex(12)})
        if answer.is_success:
            reservation: dict[str, object] = answer.json()
            return reservation
        logger.info("%s: %d %s", path, answer.status_code, answer.json().get("type"))
        return None

    async def _put_location(self, number: int, location: str) -> None:
        lat, lon = CITIES[number % len(CITIES)]
        kind = "warehouse" if location in WAREHOUSES else "store"
        body = {
            "name": location.replace("-", " ").title(),
            "type": kind,
            "lat": lat,
            "lon": lon,
            "priority": number + 1,
        }
        (await self._client.put(f"/v1/locations/{location}", json=body)).raise_for_status()

    async def _is_unknown(self, sku: str) -> bool:
        answer = (await self._client.get("/v1/atp", params={"sku": sku, "location": STORES[-1]})).raise_for_status()
        return bool(answer.json()["status"] == "unknown")

    async def _count_everything(self) -> None:
        """The opening snapshots, a list for each location."""
        for location in [*WAREHOUSES, *STORES]:
            source, most = ("erp", 400) if location in WAREHOUSES else ("pos", 30)
            counts = [self._event("snapshot", source, location, sku, CHANCE.randint(0, most)) for sku in SKUS]
            await publish(self._nats_url, f"stock.demo-{source}.opening", counts)

    def _event(
        self, kind: str, source: str, location: str, sku: str, quantity: int, reason: str = "opening"
    ) -> dict[str, object]:
        self._numbers += 1
        return {
            "id": f"{self._run}-{self._numbers}",
            "source": f"demo-{source}",
            "kind": kind,
            "sku": sku,
            "location": location,
            "quantity": quantity,
            "occurred_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "reason": reason,
        }
