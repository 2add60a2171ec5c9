"""``availability up`` starts all, keeps all running, stops all, and has its folder to itself (DESIGN 12)."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import asyncpg
import jwt
import nats
import pytest
from redis.asyncio import Redis
from running_up import Up, command, is_alive, start
from servers import failing_writes
from waiting import wait_until, wait_until_plain

from availability.feeds.health import refusal_of
from availability.instance import settings_of
from availability.settings import Settings
from ledger import Journal, Ledger, Location, Place, PutLocation

NAMES = {"api", "api-2", "ingest", "journal", "keeper", "valkey", "nats", "postgres"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with start(tmp_path_factory.mktemp("up") / "data", "--workers", "2") as running:
        running.wait_ready()
        yield running


def test_it_says_where_it_is_when_it_is_ready(up: Up) -> None:
    assert up.output.read_text() == f"ready {up.url}\n"
    up.wait_ready()


def test_up_json_tells_every_process(up: Up) -> None:
    assert set(up.told()) == {"api", "nats", "redis", "postgres", "pids"}
    assert set(up.pids()) == NAMES
    assert all(is_alive(pid) for pid in up.pids().values())


def test_what_holds_a_password_is_for_its_owner_alone(up: Up) -> None:
    """P10."""
    for name in ("up.json", "instance.json", "keys/issuer.pem", "valkey/valkey.conf", "nats/nats.conf"):
        assert (up.folder / name).stat().st_mode & 0o077 == 0, name


def test_a_second_start_on_the_folder_is_refused(up: Up) -> None:
    second = subprocess.run(command(up.folder), capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 1
    assert f"process {up.process.pid}" in second.stderr
    up.wait_ready()


@pytest.mark.parametrize("name", ["api", "keeper", "journal", "ingest", "nats", "valkey", "postgres"])
def test_a_child_that_dies_is_started_again_where_it_was(up: Up, name: str) -> None:
    before = up.told()
    up.wait_ready()
    pid = up.pids()[name]
    os.kill(pid, signal.SIGKILL)
    up.wait_restarted(name, pid)
    after = up.told()
    assert {**after, "pids": None} == {**before, "pids": None}
    assert f"{name} ended (SIGKILL) and is started again" in up.errors.read_text()


@pytest.mark.anyio
async def test_a_postgres_of_which_a_process_crashed_is_started_again(up: Up) -> None:
    """By itself Postgres 18 can stay in recovery for good, as a living process."""
    pid = up.pids()["postgres"]

    async def crash() -> bool:
        connection = await asyncpg.connect(str(up.told()["postgres"]))
        os.kill(connection.get_server_pid(), signal.SIGABRT)
        connection.terminate()
        return True

    assert await wait_until(crash)
    up.wait_restarted("postgres", pid)


@pytest.mark.anyio
async def test_a_nats_that_takes_nothing_more_is_started_again(up: Up) -> None:
    """P8: after a failed write it would refuse every event for good, though its disk is well again."""
    up.wait_ready()
    pid = up.pids()["nats"]
    client = await nats.connect(str(up.told()["nats"]))
    with failing_writes(pid), pytest.raises(TimeoutError):
        await client.jetstream(timeout=0.5).publish("stock.wms.x", b"{}")
    await client.close()
    wait_until_plain(lambda: up.pids()["nats"] != pid, 20)
    assert "nats takes nothing (JetStream stream '$G > STOCK' write error" in up.errors.read_text()

    async def is_taken() -> bool:
        again = await nats.connect(str(up.told()["nats"]), allow_reconnect=False)
        await again.jetstream(timeout=0.5).publish("stock.wms.x", b"{}")
        await again.close()
        return True

    assert await wait_until(is_taken)


def test_doctor_asks_the_nats_of_an_up_for_its_health(up: Up) -> None:
    monitor_url = settings_of(up.folder, Settings()).nats_monitor_url
    assert asyncio.run(refusal_of(monitor_url)) is None


def test_a_token_of_the_instance_verifies_with_its_keys(up: Up) -> None:
    argv = [sys.executable, "-m", "availability", "token", "--data-dir", str(up.folder), "--client", "shop"]
    printed = subprocess.run(
        [*argv, "--scope", "atp:read", "--ttl", "60"], capture_output=True, text=True, timeout=20, check=True
    )
    key = jwt.PyJWKClient(f"{up.url}/.well-known/jwks.json").get_signing_key_from_jwt(printed.stdout.strip())
    claims = jwt.decode(printed.stdout.strip(), key, algorithms=["ES256"], audience="availability")
    assert (claims["sub"], claims["scope"]) == ("shop", "atp:read")


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_cleanly(tmp_path: Path, by: signal.Signals) -> None:
    with start(tmp_path / "data") as up:
        up.wait_ready()
        pids = up.pids()
        assert up.stop(by) == 0
        assert not [name for name, pid in pids.items() if is_alive(pid)]
        assert not (up.folder / "up.json").exists()


def test_a_new_one_is_well_and_complains_of_nothing(tmp_path: Path) -> None:
    """A line that is always there hides the one that is not."""
    with start(tmp_path / "data") as up:
        up.wait_ready()
        argv = [sys.executable, "-m", "availability", "doctor", "--data-dir", str(up.folder)]

        def lines() -> list[str]:
            told = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
            return [] if told.returncode else told.stdout.splitlines()

        wait_until_plain(lambda: any("audit of reservations" in line for line in lines()), 60)
        told = lines()
        assert up.stop(signal.SIGTERM) == 0
        logs = [log.read_text() for log in (up.folder / "logs").glob("*.log")]
    assert [line for line in told if not line.startswith("ok ")] == []
    assert [line for line in told if "Postgres's disk" in line] != []
    assert [line for log in logs for line in log.splitlines() if " ERROR " in line or "Traceback" in line] == []


@pytest.mark.anyio
async def test_data_is_kept_between_runs(tmp_path: Path) -> None:
    with start(tmp_path / "data") as up:
        up.wait_ready()
        first = up.told()
        async with Redis.from_url(str(first["redis"])) as valkey:
            await valkey.set("kept", "yes")
        connection = await asyncpg.connect(str(first["postgres"]))
        await connection.execute("CREATE TABLE kept (answer text)")
        await connection.close()
        stream = await nats.connect(str(first["nats"]))
        await stream.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await stream.close()
        assert up.stop() == 0
    with start(tmp_path / "data") as up:
        up.wait_ready()
        second = up.told()
        assert {**second, "pids": None} == {**first, "pids": None}
        async with Redis.from_url(str(second["redis"])) as valkey:
            assert await valkey.get("kept") == b"yes"
        connection = await asyncpg.connect(str(second["postgres"]))
        assert await connection.fetchval("SELECT count(*) FROM kept") == 0
        await connection.close()
        stream = await nats.connect(str(second["nats"]))
        assert (await stream.jetstream().stream_info("KEPT")).config.name == "KEPT"
        await stream.close()


def test_ready_is_not_said_while_a_server_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all is ready it prints ready: also what the API itself does not use."""
    monkeypatch.setenv("AVAILABILITY_NATS_URL", "nats://127.0.0.1:1")
    with start(tmp_path / "data") as up:
        wait_until_plain(lambda: "not ready: NATS cannot be asked" in up.errors.read_text(), 40.0)
        assert up.output.read_text() == ""


@pytest.mark.anyio
async def test_a_ledger_behind_its_journal_is_not_ready_until_it_has_its_data_again(tmp_path: Path) -> None:
    """P9: it says why and what to do; nothing is changed in the ledger meanwhile."""
    folder = tmp_path / "data"
    with start(folder) as up:
        up.wait_ready()
        ledger, journal = Ledger(str(up.told()["redis"])), await Journal.open(str(up.told()["postgres"]))
        await ledger.put_location(PutLocation("tests", Location("S1")))

        async def is_journaled() -> bool:
            return (await journal.cursor(0)).place == Place(1, 1)

        await wait_until(is_journaled)
        await ledger.close()
        await journal.close()
        assert up.stop() == 0
    (folder / "valkey").rename(tmp_path / "aside")
    with start(folder) as up:
        wait_until_plain(lambda: "the ledger is behind its journal" in up.errors.read_text(), 40.0)
        assert "put the newest data folder of its Valkey back" in up.errors.read_text()
        with pytest.raises(HTTPError, match="503"):
            up.is_ready()
        assert up.stop() == 0
        assert up.output.read_text() == ""
    shutil.rmtree(folder / "valkey")
    (tmp_path / "aside").rename(folder / "valkey")
    with start(folder) as up:
        up.wait_ready()


def test_when_it_is_killed_its_children_end_and_it_can_start_again(tmp_path: Path) -> None:
    with start(tmp_path / "data") as up:
        up.wait_ready()
        pids = up.pids()
        up.stop(signal.SIGKILL)
        with start(tmp_path / "data") as again:
            again.wait_ready()
            wait_until_plain(lambda: not [name for name, pid in pids.items() if is_alive(pid)])


def test_a_port_in_use_is_refused_by_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = [*command(tmp_path / "data"), "--port", port]
        refused = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert refused.returncode == 1
    assert f"port {port} is in use" in refused.stderr
