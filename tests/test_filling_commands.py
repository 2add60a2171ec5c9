"""``availability rehome`` and ``rebuild``, as an operator runs them (DESIGN 12): what they print, and how they end."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ledgers import Clock, Shop
from redis import Redis
from servers import as_owner, as_user

from availability import access
from availability.cli import main
from availability.instance import Instance
from ledger import Ledger, Unavailable, migrate


@dataclass
class World:
    """A ledger and its database, and the command line."""

    redis_url: str
    postgres_url: str

    def run(self, *arguments: str, shards: int = 1, answer: str = "") -> Result:
        environment = {
            "AVAILABILITY_REDIS_URL": as_user(self.redis_url, access.OPERATOR),
            "AVAILABILITY_POSTGRES_URL": as_user(self.postgres_url, access.OPERATOR),
            "AVAILABILITY_SHARDS": str(shards),
        }
        return CliRunner().invoke(main, arguments, input=answer, env=environment)

    def held(self, shards: int) -> int:
        """The units held of A, once one more is."""

        async def hold() -> int:
            ledger = Ledger(self.redis_url, shards=shards)
            try:
                shop = Shop(ledger, Clock())
                await shop.open()
                await shop.stock("A", 9, id="opening", at_ms=1)
                await shop.hold(("A", 1), ttl_ms=600_000)
                return (await shop.position("A")).held
            finally:
                await ledger.close()

        return asyncio.run(hold())


@pytest.fixture
def world(valkey_url: str, postgres_url: str) -> World:
    asyncio.run(migrate(postgres_url))
    return World(valkey_url, postgres_url)


def test_a_ledger_gets_other_shards_and_its_processes_are_told(world: World) -> None:
    assert world.held(1) == 1
    done = world.run("rehome", "--shards", "4", "--yes")
    assert (done.exit_code, done.stdout) == (
        0,
        "the ledger has 4 shards, 1 positions and 1 reservations, all compared; now set shards = 4 for every process\n",
    )
    assert "everything is put back" in done.stderr
    with pytest.raises(Unavailable, match="the ledger has 4 shards, the settings say 1"):
        world.held(1)
    assert world.held(4) == 2


def test_an_instance_remembers_its_number_of_shards(world: World, data_folder: Path) -> None:
    """Commands with --data-dir go by it, whatever the settings of their own shell say."""
    assert world.held(1) == 1
    Instance(data_folder).close()
    done = world.run("rehome", "--shards", "4", "--yes", "--data-dir", str(data_folder))
    assert done.exit_code == 0, done.stderr
    audited = world.run("audit", "--data-dir", str(data_folder))
    assert audited.exit_code == 0, audited.stderr


def test_what_is_refused_ends_with_1_and_changes_nothing(world: World) -> None:
    assert world.held(1) == 1
    again = world.run("rehome", "--shards", "1", "--yes")
    assert (again.exit_code, again.stderr) == (1, "the ledger has 1 shards already\n")
    assert world.run("rehome", "--shards", "2", answer="n\n").exit_code == 1
    assert world.held(1) == 2


def test_a_lost_ledger_is_rebuilt(world: World) -> None:
    assert world.held(1) == 1
    assert world.run("rebuild", "--yes").exit_code == 0  # the journal has it now
    with Redis.from_url(as_owner(world.redis_url)) as client:
        client.flushall()
    rebuilt = world.run("rebuild", "--yes")
    assert (rebuilt.exit_code, rebuilt.stdout) == (
        0,
        "the ledger has 1 shards, 1 positions and 1 reservations, all compared\n",
    )
    assert world.held(1) == 2


def test_without_a_server_it_ends_with_2(world: World) -> None:
    gone = World(world.redis_url, "postgresql://nobody@127.0.0.1:1/none").run("rebuild", "--yes")
    assert (gone.exit_code, "begun again, it goes on" in gone.stderr) == (2, True)
    gone = World("redis://127.0.0.1:1", world.postgres_url).run("rehome", "--shards", "2", "--yes")
    assert (gone.exit_code, "begun again, it goes on" in gone.stderr) == (2, True)


def test_the_servers_of_an_instance_are_started_for_it(data_folder: Path) -> None:
    """Not beside an ``up``, whose processes would change the ledger."""

    def rehome() -> Result:
        return CliRunner().invoke(main, ["rehome", "--shards", "2", "--yes", "--data-dir", str(data_folder)])

    nothing = rehome()
    assert (nothing.exit_code, nothing.stderr) == (1, f"there is no instance in {data_folder}\n")
    instance = Instance(data_folder)
    running = rehome()
    assert running.exit_code == 1
    assert "stop it first, and start it again with the new number of shards" in running.stderr
    instance.close()
    empty = rehome()
    assert (empty.exit_code, "the ledger is empty, and so is its journal" in empty.stderr) == (1, True)
