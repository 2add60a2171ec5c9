"""Owns the Valkey Cluster of the tests: three primaries on loopback, their slots, and how one moves under load."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from servers import PASSWORD, RunningServer, as_user, empty_valkey
from waiting import wait_until, wait_until_plain

from availability import access, embedded
from availability.embedded import Server
from ledger.keys import shard_key
from ledger.server_check import CLUSTER_SETTINGS

SETTINGS = {"cluster-enabled": "yes", **{name: value for name, (value, _) in CLUSTER_SETTINGS.items()}}


@dataclass
class Cluster:
    """The nodes in the order of the slots that they had at first."""

    nodes: list[RunningServer]

    @property
    def url(self) -> str:
        """What stands in the API's ``redis_url``."""
        return ",".join(as_user(node.url, access.API) for node in self.nodes)

    def empty(self) -> None:
        """Remove every key, and every library but ours."""
        for node in self.nodes:
            empty_valkey(node.url)

    def node_of(self, shard: int) -> RunningServer:
        """Who has the shard, as that node says itself."""
        [owner] = [node for node in self.nodes if node.process.poll() is None and slot_of(shard) in _own_slots(node)]
        return owner

    def another_than(self, *nodes: RunningServer) -> RunningServer:
        return next(node for node in self.nodes if node not in nodes)

    def client_of(self, shard: int) -> Redis:
        """To the node that has the shard."""
        return Redis.from_url(self.node_of(shard).url)

    async def migrate(self, shard: int, to: RunningServer) -> None:
        """Move the shard's slot, whole and at once; returns when the other node has it."""
        slot = slot_of(shard)
        source = self.node_of(shard)
        before = len(_ask(source, "GETSLOTMIGRATIONS"))
        _ask(source, "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", node_id(to))

        async def ended() -> bool:
            newest, *older = _ask(source, "GETSLOTMIGRATIONS")
            return len(older) == before and newest["state"] == "success"

        await wait_until(ended, 20)

    async def restart(self, node: RunningServer) -> None:
        """Start a node that was killed; returns when it serves its slots again, which a node delays by two seconds."""
        await node.restart()

        async def serves() -> bool:
            return _info(node)["cluster_state"] == "ok"

        await wait_until(serves, 20)


def slot_of(shard: int) -> int:
    return key_slot(shard_key(shard).encode())


def node_id(node: RunningServer) -> str:
    return str(_ask(node, "MYID"))


@contextmanager
def valkey_cluster(folder: Path, nodes: int = 3) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    cluster = Cluster([])
    try:
        for number in range(nodes):
            place = folder / f"node-{number}"
            cluster.nodes.append(RunningServer(_node(place), place / "server.log"))
            cluster.nodes[-1].start()
        _join(cluster.nodes)
        yield cluster
    finally:
        for node in cluster.nodes:
            if node.process.poll() is None:
                node.stop()


def _node(folder: Path) -> Server:
    server = embedded.valkey(folder, embedded.free_port(), PASSWORD)
    lines = [f"{name} {value}" for name, value in SETTINGS.items()]
    lines += [
        f"cluster-port {embedded.free_port()}",
        f"cluster-announce-ip {embedded.HOST}",
        "primaryuser availability",
        f"primaryauth {PASSWORD}",
    ]
    with (folder / "valkey.conf").open("a") as config:
        config.write("\n".join(lines) + "\n")
    return server


def _join(nodes: list[RunningServer]) -> None:
    """Give each node its part of the slots and introduce it to the first; wait until each sees all."""
    bounds = [REDIS_CLUSTER_HASH_SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
    for number, node in enumerate(nodes):
        _ask(node, "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        _ask(node, "SET-CONFIG-EPOCH", number + 1)
        with Redis.from_url(node.url) as client:
            settings: Any = client.config_get("port", "cluster-port")
        _ask(nodes[0], "MEET", embedded.HOST, settings["port"], settings["cluster-port"])

    def all_see_all() -> bool:
        infos = [_info(node) for node in nodes]
        return all(
            (info["cluster_state"], info["cluster_size"], info["cluster_slots_ok"])
            == ("ok", str(len(nodes)), str(REDIS_CLUSTER_HASH_SLOTS))
            for info in infos
        )

    wait_until_plain(all_see_all, 20)


def _ask(node: RunningServer, *words: str | int) -> Any:
    with Redis.from_url(node.url, decode_responses=True) as client:
        return client.execute_command("CLUSTER", *words)


def _info(node: RunningServer) -> dict[str, str]:
    return dict(line.split(":", 1) for line in str(_ask(node, "INFO")).split())


def _own_slots(node: RunningServer) -> set[int]:
    """What the node itself believes to have."""
    [mine] = [line.split() for line in str(_ask(node, "NODES")).splitlines() if "myself" in line]
    ranges = [part.partition("-") for part in mine[8:] if not part.startswith("[")]
    return {slot for first, _, last in ranges for slot in range(int(first), int(last or first) + 1)}
