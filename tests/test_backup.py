"""A backup that is taken while an ``up`` sells, and what is made of it; what is no whole backup is refused."""

import asyncio
import hashlib
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nats
import pytest
from click.testing import CliRunner, Result
from ledgers import CLIENT, Clock, Shop
from running_up import Up, start
from waiting import wait_until

from availability.backup_servers import copy_append_only
from availability.cli import main
from availability.feeds.stream_copy import StreamNotCopied, copy_stream, put_back_stream
from ledger import Done, Find, Found, Ledger, operation_id

STOCKED = 50_000
BEFORE, AFTER = 300, 300
"""Holds that are surely acknowledged before the backup begins, and before the service is stopped after it."""


@dataclass
class Taken:
    """The folder of a backup, and the keys of the holds acknowledged before it began, and of all."""

    folder: Path
    before: list[str] = field(default_factory=list)
    all: list[str] = field(default_factory=list)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@asynccontextmanager
async def buyer(up: Up) -> AsyncIterator[Shop]:
    ledger = Ledger(str(up.told()["redis"]))
    try:
        yield Shop(ledger, Clock())
    finally:
        await ledger.close()


async def hold(shop: Shop, key: str) -> bool:
    return isinstance(await shop.hold(("A", 1), key=key, ttl_ms=600_000), Done)


async def sell_and_back_up(up: Up, taken: Taken) -> None:
    async with buyer(up) as shop:
        await shop.open()
        await shop.stock("A", STOCKED, id="opening", at_ms=1)

        async def sell() -> None:
            while await hold(shop, key := f"backup-{len(taken.all)}"):
                taken.all.append(key)

        selling = asyncio.create_task(sell())
        await wait_until(lambda: reached(taken, BEFORE))
        taken.before = list(taken.all)
        done = await asyncio.to_thread(run, "backup", "--data-dir", up.folder, "--to", taken.folder)
        assert (done.exit_code, "all that was acknowledged" in done.stdout) == (0, True), done.output
        await wait_until(lambda: reached(taken, len(taken.before) + AFTER))
        assert not selling.done()
        selling.cancel()
        with suppress(asyncio.CancelledError):
            await selling


async def reached(taken: Taken, count: int) -> bool:
    return len(taken.all) >= count


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """Of an ``up`` that went on selling; it is stopped."""
    place = tmp_path_factory.mktemp("backup")
    taken = Taken(place / "backup")
    with start(place / "data") as up:
        up.wait_ready()
        asyncio.run(sell_and_back_up(up, taken))
        assert up.stop() == 0
    return taken


@pytest.fixture
def copied(taken: Taken, tmp_path: Path) -> Path:
    """The backup, to be damaged."""
    shutil.copytree(taken.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_was_acknowledged_before_it_is_there_and_is_sold_once(taken: Taken, data_folder: Path) -> None:
    restored = run("restore", "--from", taken.folder, "--data-dir", data_folder)
    assert restored.exit_code == 0, restored.output
    assert "the ledger is behind its journal" in restored.stderr  # which was copied after it
    assert f"next: availability rebuild --data-dir {data_folder}" in restored.stdout
    assert run("rebuild", "--data-dir", data_folder, "--yes").exit_code == 0
    with start(data_folder) as up:
        up.wait_ready()
        audited = run("audit", "--data-dir", data_folder)
        assert audited.exit_code == 0, audited.output
        asyncio.run(check_sold(up, taken))
        assert up.stop() == 0


async def check_sold(up: Up, taken: Taken) -> None:
    async with buyer(up) as shop:
        found = [key for key in taken.all if await is_there(shop, key)]
        assert found == taken.all[: len(found)]
        assert len(found) >= len(taken.before)
        assert (await shop.position("A")).held == len(found)
        assert not isinstance(await shop.hold(("A", STOCKED - len(found) + 1)), Done)
        assert isinstance(await shop.hold(("A", STOCKED - len(found))), Done)
        again = await shop.hold(("A", 1), key=taken.before[0], ttl_ms=600_000)
        assert isinstance(again, Done)  # the same one, not another
        assert (await shop.position("A")).held == STOCKED


async def is_there(shop: Shop, key: str) -> bool:
    return isinstance(await shop.ledger.find(Find(operation_id(CLIENT, key), CLIENT)), Found)


def test_it_is_for_its_owners_eyes_alone(taken: Taken) -> None:
    """P10: it holds passwords and the key that signs tokens."""
    for path in [taken.folder, *(path for path in taken.folder.rglob("*") if path.is_file())]:
        assert path.stat().st_mode & 0o077 == 0, path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def forget(path: Path) -> None:
    path.unlink()


def add(path: Path) -> None:
    path.with_name("more").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (flip, "postgres/base.tar", "postgres/base.tar is altered"),
        (flip, "valkey/appendonlydir/appendonly.aof.1.incr.aof", "incr.aof is altered"),
        (forget, "keys/issuer.pem", "keys/issuer.pem is missing"),
        (add, "nats/STOCK.json", "nats/more is not of it"),
        (forget, "manifest.json", "is not a whole backup"),
    ],
)
def test_a_damaged_one_is_refused(
    copied: Path, data_folder: Path, damage: Callable[[Path], None], name: str, said: str
) -> None:
    damage(copied / name)
    refused = run("restore", "--from", copied, "--data-dir", data_folder)
    assert (refused.exit_code, said in refused.stderr) == (1, True), refused.output
    assert list(data_folder.parent.glob("data*")) == []


def test_one_with_less_than_it_says_is_refused(copied: Path, data_folder: Path) -> None:
    """Every hash is right, and yet the ledger in it is not the one that was copied."""
    name = "valkey/appendonlydir/appendonly.aof.1.incr.aof"
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content := content[: len(content) // 2])
    manifest = json.loads((copied / "manifest.json").read_bytes())
    manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    refused = run("restore", "--from", copied, "--data-dir", data_folder)
    assert (refused.exit_code, "has less than its manifest says" in refused.stderr) == (1, True), refused.output
    assert not data_folder.exists()


def test_a_folder_with_something_in_it_is_refused(taken: Taken, data_folder: Path) -> None:
    data_folder.mkdir()
    (data_folder / "precious").touch()
    refused = run("restore", "--from", taken.folder, "--data-dir", data_folder)
    assert (refused.exit_code, "is not empty" in refused.stderr) == (1, True)
    assert [path.name for path in data_folder.iterdir()] == ["precious"]


def test_another_number_of_shards_is_refused(taken: Taken, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVAILABILITY_SHARDS", "2")
    refused = run("restore", "--from", taken.folder, "--data-dir", data_folder)
    assert (refused.exit_code, "set shards = 1" in refused.stderr) == (1, True)


def test_without_an_up_that_runs_there_is_nothing_to_back_up(data_folder: Path, tmp_path: Path) -> None:
    refused = run("backup", "--data-dir", data_folder, "--to", tmp_path / "backup")
    assert (refused.exit_code, "no `availability up` runs" in refused.stderr) == (2, True)
    assert not (tmp_path / "backup").exists()


def test_append_only_files_are_copied_as_their_manifest_names_them(tmp_path: Path) -> None:
    """Those that a rewrite has left behind are not in the copy, nor in its manifest."""
    source = tmp_path / "source"
    source.mkdir()
    kept = b"file a.2.base.rdb seq 2 type b\nfile a.2.incr.aof seq 2 type i\n"
    (source / "appendonly.aof.manifest").write_bytes(b"file a.1.incr.aof seq 1 type h\n" + kept)
    (source / "a.2.base.rdb").write_bytes(b"base")
    (source / "a.2.incr.aof").write_bytes(b"more")
    copy_append_only(source, tmp_path / "target", lambda _step, _done, _total: None, "ledger")
    assert {path.name: path.read_bytes() for path in (tmp_path / "target").iterdir()} == {
        "appendonly.aof.manifest": kept,
        "a.2.base.rdb": b"base",
        "a.2.incr.aof": b"more",
    }


@pytest.mark.anyio
async def test_a_stream_comes_back_with_what_was_not_taken(nats_url: str) -> None:
    about, content = io.BytesIO(), io.BytesIO()
    assert not await copy_stream(nats_url, "KEPT", about, content)
    client = await nats.connect(nats_url)
    try:
        streams = client.jetstream()
        await streams.add_stream(name="KEPT", subjects=["kept"], retention="workqueue")
        for number in range(3):
            await streams.publish("kept", b"%d" % number + bytes(200_000))
        reader = await streams.pull_subscribe("kept", durable="reader")
        [first] = await reader.fetch(1)
        await first.ack_sync()
        assert await copy_stream(nats_url, "KEPT", about, content)
        content.seek(0)
        with pytest.raises(StreamNotCopied, match="name already in use"):
            await put_back_stream(nats_url, "KEPT", about.getvalue(), content)
        await streams.delete_stream("KEPT")
        content.seek(0)
        await put_back_stream(nats_url, "KEPT", about.getvalue(), content)
        reader = await streams.pull_subscribe("kept", durable="reader")
        assert [message.data[:1] for message in await reader.fetch(2)] == [b"1", b"2"]
    finally:
        await client.close()
