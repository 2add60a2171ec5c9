"""``availability up`` with four shards: a client sees the same, also of a reservation that takes three of them."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import nats
import pytest
from running_up import Up, start
from test_tour import SHOP_SCOPES, caller, now, post, put
from waiting import wait_until

from availability.instance import settings_of
from availability.settings import Settings
from ledger.keys import shard_of

STORE, SHARDS = "STORE-7", 4
SKUS = [f"SKU-{number}" for number in range(40)]
BASKET = ["SKU-0", "SKU-1", "SKU-4", "SKU-6"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AVAILABILITY_SHARDS", str(SHARDS))
        with start(tmp_path_factory.mktemp("shards") / "data") as running:
            running.wait_ready()
            yield running


def test_commands_for_the_folder_know_how_many_shards_it_has(up: Up) -> None:
    assert settings_of(up.folder, Settings()).shards == SHARDS


@pytest.mark.anyio
async def test_an_order_of_several_shards_from_basket_to_return(up: Up) -> None:
    assert len({shard_of(sku, SHARDS) for sku in BASKET}) == 3
    async with (
        caller(up, "head-office", ["catalog:write"]) as head_office,
        caller(up, "store-7", ["stock:write"], locations=[STORE]) as store,
        caller(up, "web-shop", SHOP_SCOPES) as web_shop,
    ):
        await put(head_office, f"/v1/locations/{STORE}", {"type": "store"})
        count = {"as_of": now(), "lines": [{"sku": sku, "quantity": 9} for sku in SKUS]}
        counted = await put(store, f"/v1/locations/{STORE}/counts/monday", count)
        assert counted["results"] == [
            {"sku": sku, "outcome": "applied", "on_hand": 9, "previous": 0} for sku in SKUS
        ], "in the order of the count"

        basket = {"lines": [{"sku": sku, "quantity": 2} for sku in BASKET], "customer": "ada"}
        held = await post(web_shop, "/v1/reservations", basket, key="basket", expected=201)
        assert [(line["line"], line["sku"], line["held"]) for line in held["lines"]] == [
            (number, sku, 2) for number, sku in enumerate(BASKET, 1)
        ]
        assert held == await post(web_shop, "/v1/reservations", basket, key="basket", expected=201)
        too_many = {"lines": [{"sku": "SKU-1", "quantity": 1}, {"sku": "SKU-4", "quantity": 8}]}
        refusal = await post(web_shop, "/v1/reservations", too_many, key="too-many", expected=409)
        assert [(line["line"], line["available"]) for line in refusal["lines"]] == [(2, 7)]

        reservation = f"/v1/reservations/{held['id']}"
        await post(web_shop, f"{reservation}/commit", {"order_id": "ORDER-1"}, key="order")
        some = {"lines": [{"line": 2, "quantity": 1}, {"line": 4, "quantity": 2}]}
        shipped = await post(web_shop, f"{reservation}/ship", some, key="shipped")
        assert [line["shipped"] for line in shipped["lines"]] == [0, 1, 0, 2]
        assert shipped["status"] == "committed"
        await post(web_shop, f"{reservation}/return", {"lines": [{"line": 4, "quantity": 1}]}, key="returned")
        await post(web_shop, f"{reservation}/cancel", {}, key="cancelled")
        operation = (await web_shop.get("/v1/operations/shipped")).json()
        assert operation["operation"] == "ship"
        whole = operation["reservation"]
        assert (whole["status"], [line["returned"] for line in whole["lines"]]) == ("cancelled", [0, 0, 0, 1])

        batch = {"reservations": [{"key": f"b-{sku}", "lines": [{"sku": sku, "quantity": 1}]} for sku in SKUS[:8]]}
        batch["reservations"].append({"key": "b-all", "lines": [{"sku": sku, "quantity": 1} for sku in SKUS[:8]]})
        answers = (await web_shop.post("/v1/reservations/batch", json=batch)).json()["results"]
        assert [answer["status"] for answer in answers] == [201] * 9
        assert [answer["body"]["receipt"]["shard"] for answer in answers[:8]] == [
            shard_of(sku, SHARDS) for sku in SKUS[:8]
        ]

        found = await wait_until(lambda: search(web_shop, {"customer": "ada", "status": "cancelled"}, 1))
        assert found == [whole]
        assert await wait_until(lambda: search(web_shop, {"sku": "SKU-6"}, 3))

        items = [{"sku": sku, "location": STORE} for sku in SKUS]
        seen = (await web_shop.post("/v1/atp", json={"items": items})).json()["items"]
        taken = Counter(SKUS[:8] * 2) + Counter({"SKU-1": 1, "SKU-6": 1})
        assert [(item["sku"], item["available"]) for item in seen] == [(sku, 9 - taken[sku]) for sku in SKUS]

        # Each shard told of its own lines, once; none of what another shard changed.
        own = Counter(shard_of(sku, SHARDS) for sku in BASKET)
        expected = {kind: set(own) for kind in ("held", "committed", "cancelled")}
        expected["returned"] = {shard_of("SKU-6", SHARDS)}
        expected["shipped"] = expected["returned"] | {shard_of("SKU-1", SHARDS)}
        told = await events_of(up, held["id"], sum(map(len, expected.values())))
        assert Counter((kind, shard) for kind, shard, _ in told) == Counter(
            (kind, shard) for kind, shards in expected.items() for shard in shards
        )
        assert all(lines == own[shard] for _, shard, lines in told)


@pytest.mark.anyio
async def test_each_shard_has_its_figures(up: Up) -> None:
    async with httpx.AsyncClient(base_url=up.url) as http:

        async def shards() -> set[str]:
            figures = (await http.get("/metrics")).text.splitlines()
            return {line.split('"')[1] for line in figures if line.startswith("availability_journal_lag_seconds{")}

        async def all_are_told() -> bool:
            return await shards() == {str(shard) for shard in range(SHARDS)}

        await wait_until(all_are_told)


@pytest.mark.anyio
async def test_after_a_restart_of_the_ledgers_server_every_shard_is_compared_and_goes_on(up: Up) -> None:
    valkey = up.pids()["valkey"]
    os.kill(valkey, signal.SIGKILL)
    up.wait_restarted("valkey", valkey)

    async with caller(up, "web-shop", SHOP_SCOPES) as web_shop:
        basket = {"lines": [{"sku": sku, "quantity": 1} for sku in BASKET]}

        async def held() -> Any:
            return await post(web_shop, "/v1/reservations", basket, key="after", expected=201)

        assert (await wait_until(held))["status"] == "held"


async def search(http: httpx.AsyncClient, filters: dict[str, str], count: int) -> list[Any] | None:
    """What is found; None while it is less than ``count``."""
    answer = await http.get("/v1/reservations", params=filters)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["reservations"]
    return found if len(found) >= count else None


async def events_of(up: Up, reservation: str, count: int) -> list[tuple[str, int, int]]:
    """All events about a reservation once there are ``count``: kind, shard, and how many lines it tells of."""
    client = await nats.connect(str(up.told()["nats"]))
    try:
        streams = client.jetstream()
        events = await streams.subscribe("availability.reservation.*", ordered_consumer=True)
        found: list[tuple[str, int, int]] = []
        pending = 1
        while len(found) < count or pending:
            message = await events.next_msg(timeout=10)
            pending = message.metadata.num_pending
            assert message.headers is not None
            if message.headers["ce-subject"] == reservation:
                told = json.loads(message.data)["reservation"]
                kind = message.headers["ce-type"].rpartition(".")[2]
                found.append((kind, told["receipt"]["shard"], len(told["lines"])))
        return found
    finally:
        await client.close()
