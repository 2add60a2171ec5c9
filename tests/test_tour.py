"""The tour, to be read first: a customer buys online and collects in a store (DESIGN 1). README.md has it as commands.

It runs against a real ``availability up``: the API and the three other processes, with Valkey, NATS and Postgres.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import nats
import pytest
from running_up import Up, start
from waiting import wait_until

from availability import issuer

STORE, WAREHOUSE, MUG = "STORE-7", "WAREHOUSE-1", "MUG-BLUE"
SHOP_SCOPES = ["atp:read", "reservations:read", "reservations:write"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with start(tmp_path_factory.mktemp("tour") / "data") as running:
        running.wait_ready()
        yield running


@pytest.mark.anyio
async def test_a_customer_buys_online_and_collects_in_a_store(up: Up) -> None:
    """P1, P2, P3, P5, P6, P8 and P10, each on its good day: what they do on a bad one, other tests show."""
    async with (
        caller(up, "head-office", ["catalog:write"]) as head_office,
        caller(up, "store-7", ["stock:write"], locations=[STORE]) as store,
        caller(up, "web-shop", SHOP_SCOPES) as web_shop,
        caller(up, "marketplace", SHOP_SCOPES) as marketplace,
    ):
        # Head office opens the two locations. In the warehouse, its own system is the one to believe.
        await put(head_office, f"/v1/locations/{STORE}", {"type": "store", "name": "High Street"})
        await put(head_office, f"/v1/locations/{WAREHOUSE}", {"type": "warehouse", "authority": "wms"})

        # The warehouse's system sends its snapshot over NATS, as a CloudEvent. The message comes twice, as messages do.
        for _ in range(2):
            await publish(up, "stock.wms.snapshots", cloud_event("wms-1", {"kind": "snapshot", "quantity": 40}))
        # The people of the store have counted, and say so over HTTP.
        counted = await put(store, f"/v1/locations/{STORE}/counts/monday", count_of(3))
        assert counted["results"] == [{"sku": MUG, "outcome": "applied", "on_hand": 3, "previous": 0}]

        # The web shop asks: how many, and where?
        await wait_until(lambda: sees(web_shop, {WAREHOUSE: 40, STORE: 3}))
        assert (await atp(web_shop))["available"] == 43

        # A customer wants two, to be collected in the store. They are hers for ten minutes.
        basket = {"lines": [{"sku": MUG, "quantity": 2, "location": STORE}], "customer": "ada", "ttl_seconds": 600}
        held = await post(web_shop, "/v1/reservations", basket, key="ada-basket", expected=201)
        assert (held["status"], held["lines"][0]["held"]) == ("held", 2)
        assert await sees(web_shop, {WAREHOUSE: 40, STORE: 1})

        # Her browser sends it again, because the answer was slow: the same reservation, and no unit more.
        again = await post(web_shop, "/v1/reservations", basket, key="ada-basket", expected=201)
        assert again == held

        # Somebody else wants two of the same store. One is left, and that is what he is told; nothing is held for him.
        rival = {"lines": [{"sku": MUG, "quantity": 2, "location": STORE}], "customer": "bob"}
        refusal = await post(marketplace, "/v1/reservations", rival, key="bob-basket", expected=409)
        assert refusal["type"] == "/problems/insufficient-stock"
        assert refusal["lines"] == [
            {"line": 1, "sku": MUG, "location": STORE, "requested": 2, "available": 1, "status": "low"}
        ]
        assert await sees(marketplace, {WAREHOUSE: 40, STORE: 1})

        # She pays, and the order takes what was held. The shop asks the ledger what became of the basket, to be sure.
        reservation = f"/v1/reservations/{held['id']}"
        await post(web_shop, f"{reservation}/commit", {"order_id": "ORDER-1"}, key="ada-order")
        operation = (await web_shop.get("/v1/operations/ada-basket")).json()
        assert (operation["reservation"]["status"], operation["reservation"]["order_id"]) == ("committed", "ORDER-1")

        # She collects. Only now do the units leave the store's shelf.
        assert (await at_store(web_shop))["on_hand"] == 3
        collected = await post(web_shop, f"{reservation}/ship", {}, key="ada-collected")
        assert (collected["status"], collected["lines"][0]["shipped"]) == ("shipped", 2)
        assert (await at_store(web_shop))["on_hand"] == 1

        # The store counts again and finds one more than it should have. The count is believed.
        counted = await put(store, f"/v1/locations/{STORE}/counts/tuesday", count_of(2))
        assert counted["results"] == [{"sku": MUG, "outcome": "applied", "on_hand": 2, "previous": 1}]
        assert await sees(web_shop, {WAREHOUSE: 40, STORE: 2})

    # Postgres has every movement, from bucket to bucket, with its author.
    movements = await wait_until(lambda: journal_of_store(up, 5))
    assert movements == [
        ("apply", "outside", "on_hand", 3, "store-7"),
        ("hold", "available", "held", 2, "web-shop"),
        ("commit", "held", "committed", 2, "web-shop"),
        ("ship", "committed", "shipped", 2, "web-shop"),
        ("apply", "outside", "on_hand", 1, "store-7"),
    ]
    # And every other system can hear of it on NATS.
    assert await events_of(up, held["id"], 3) == [
        ("availability.reservation.held", "held"),
        ("availability.reservation.committed", "committed"),
        ("availability.reservation.shipped", "shipped"),
    ]


@asynccontextmanager
async def caller(up: Up, client: str, scopes: list[str], locations: list[str] | None = None) -> AsyncIterator[Any]:
    """An HTTP client with a token of this instance, for what this caller may do and nothing else."""
    token = issuer.sign(
        up.folder / "keys",
        client=client,
        scopes=scopes,
        audience="availability",
        issuer=issuer.ISSUER,
        locations=locations or (),
        ttl_s=300,
    )
    async with httpx.AsyncClient(base_url=up.url, headers={"Authorization": f"Bearer {token}"}) as http:
        yield http


async def put(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    answer = await http.put(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any], *, key: str, expected: int = 200) -> Any:
    answer = await http.post(path, json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == expected, answer.text
    return answer.json()


async def atp(http: httpx.AsyncClient) -> Any:
    answer = await http.get("/v1/atp", params={"sku": MUG})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def sees(http: httpx.AsyncClient, expected: dict[str, int]) -> bool:
    """Whether ATP tells this caller so many at each location."""
    return expected == {at["location"]: at["available"] for at in (await atp(http))["locations"]}


async def at_store(http: httpx.AsyncClient) -> Any:
    (position,) = [at for at in (await atp(http))["locations"] if at["location"] == STORE]
    return position


def count_of(quantity: int) -> dict[str, Any]:
    return {"as_of": now(), "lines": [{"sku": MUG, "quantity": quantity}]}


def cloud_event(identity: str, data: dict[str, Any]) -> dict[str, Any]:
    """A stock event of the warehouse as structured CloudEvents 1.0: the envelope has id, source and time."""
    return {
        "specversion": "1.0",
        "type": "stock.snapshot",
        "source": "wms",
        "id": identity,
        "time": now(),
        "data": {"sku": MUG, "location": WAREHOUSE, **data},
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def publish(up: Up, subject: str, body: dict[str, Any]) -> None:
    client = await nats.connect(str(up.told()["nats"]))
    try:
        headers = {"Content-Type": "application/cloudevents+json"}
        await client.jetstream().publish(subject, json.dumps(body).encode(), headers=headers)
    finally:
        await client.close()


async def journal_of_store(up: Up, count: int) -> list[tuple[Any, ...]] | None:
    """What Postgres knows of the mug in the store, in order; None while it is less than ``count`` movements."""
    connection = await asyncpg.connect(str(up.told()["postgres"]))
    try:
        rows = await connection.fetch(
            "select verb, from_bucket, to_bucket, quantity, client from availability.movement"
            " where sku = $1 and location = $2 order by epoch, seq, operation_index, movement_index",
            *(MUG, STORE),
        )
    finally:
        await connection.close()
    return [tuple(row) for row in rows] if len(rows) >= count else None


async def events_of(up: Up, reservation: str, count: int) -> list[tuple[str, str]]:
    """The first ``count`` events about a reservation: the type, and the status that the event tells."""
    client = await nats.connect(str(up.told()["nats"]))
    try:
        streams = client.jetstream()
        events = await wait_until(lambda: streams.subscribe("availability.reservation.*", ordered_consumer=True))
        found: list[tuple[str, str]] = []
        while len(found) < count:
            message = await events.next_msg(timeout=10)
            assert message.headers is not None
            if message.headers["ce-subject"] == reservation:
                found.append((message.headers["ce-type"], json.loads(message.data)["reservation"]["status"]))
        return found
    finally:
        await client.close()
