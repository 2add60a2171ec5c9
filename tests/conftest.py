"""Owns the fixtures that every test may use: the real servers, clean for each test, and how async tests run.

An async test is marked ``@pytest.mark.anyio`` (or its module says ``pytestmark = pytest.mark.anyio``) and runs on
asyncio with uvloop, as the processes do. A fixture that is used by async tests may be async too.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from cluster import Cluster, valkey_cluster
from ledgers import Clock, Shop
from servers import (
    RunningServer,
    as_user,
    empty_nats,
    empty_valkey,
    fresh_database,
    make_postgres_users,
    nats_server,
    postgres,
    running,
    valkey,
)

from availability import access
from ledger.rules import RulesLedger
from ledger.store import Ledger

Made = Callable[[Clock], Ledger | RulesLedger]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What ``@pytest.mark.anyio`` runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The Valkey of the session; a test that kills it starts it again."""
    with running(valkey, tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The Valkey Cluster of the session; a test that kills a node starts it again."""
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def nats_server_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The NATS of the session; a test that kills it starts it again."""
    with running(nats_server, tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The Postgres of the session; a test that kills it starts it again."""
    with running(postgres, tmp_path_factory.mktemp("postgres")) as server:
        make_postgres_users(server.url)
        yield server


@pytest.fixture
def valkey_url(valkey_server: RunningServer) -> str:
    """An empty Valkey, as the API comes to it."""
    empty_valkey(valkey_server.url)
    return as_user(valkey_server.url, access.API)


@pytest.fixture
def cluster(cluster_of_session: Cluster) -> Cluster:
    """An empty Valkey Cluster; where its slots are is as the tests before have left it."""
    cluster_of_session.empty()
    return cluster_of_session


@pytest.fixture
def nats_url(nats_server_of_session: RunningServer) -> str:
    """A NATS without streams."""
    empty_nats(nats_server_of_session.url)
    return nats_server_of_session.url


@pytest.fixture
def postgres_url(postgres_server: RunningServer) -> Iterator[str]:
    """A new, empty database, for its owner; see ``as_user`` for the roles of the processes."""
    with fresh_database(postgres_server.url) as url:
        yield url


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A place for the data of an ``availability up``."""
    return tmp_path / "data"


@pytest.fixture(params=["rules", "server"])
def server_url(request: pytest.FixtureRequest) -> str | None:
    """Where the ledger is, or None for the plain rules."""
    url: str | None = request.getfixturevalue("valkey_url") if request.param == "server" else None
    return url


@pytest.fixture(params=["rules", "server", "cluster"])
def made(request: pytest.FixtureRequest) -> Made:
    """How the ledger is made: the plain rules, one shard on one server, or four on a cluster of three."""
    if request.param == "rules":
        return RulesLedger
    if request.param == "server":
        url: str = request.getfixturevalue("valkey_url")
        return lambda clock: Ledger(url, now_ms=clock)
    cluster: Cluster = request.getfixturevalue("cluster")
    return lambda clock: Ledger(cluster.url, shards=4, now_ms=clock)


@pytest.fixture
async def shop(made: Made) -> AsyncIterator[Shop]:
    """A shop with one open location, S1, on each ledger in turn."""
    clock = Clock()
    ledger = made(clock)
    shop = Shop(ledger, clock)
    await shop.open()
    yield shop
    await ledger.close()
