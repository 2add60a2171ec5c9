"""The ledger's failover to its replica: fenced, from the journal, and its loss is told (P1, P2, P3, P9)."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from books import assert_books_balance
from click.testing import CliRunner, Result
from folding import assert_folds
from journal_entries import following
from ledgers import Clock, Shop
from redis import Redis
from servers import PASSWORD, RunningServer, as_user, running, settings_as, valkey
from waiting import wait_until, wait_until_plain

from availability import access
from availability.cli import main
from availability.journal_watch import watched_ledger
from availability.settings import Settings
from ledger import (
    FailoverPlan,
    Found,
    Journal,
    JournalWriter,
    Ledger,
    NotFilled,
    Unavailable,
    deploy_library,
    fail_over,
    migrate,
)
from ledger import messages as m
from ledger.closing import Closing

pytestmark = pytest.mark.anyio

NOBODY = "redis://127.0.0.1:1/0"
TTL_MS = 3_600_000
SKUS = ["B:{}%1", "A"]
"""Of two shards, on the first and on the second."""


@dataclass
class Pair:
    """A primary with its replica, and the journal's database."""

    primary: RunningServer
    replica: RunningServer
    postgres_url: str

    def settings(self, server: RunningServer, shards: int = 1) -> Settings:
        return settings_as(access.API, server.url, self.postgres_url, shards=shards)

    async def run(self, command: str, *, old: str, new: str, shards: int = 1) -> Result:
        """A command with its settings, as an operator runs it."""
        environment = {
            "AVAILABILITY_REDIS_URL": as_user(old, access.OPERATOR),
            "AVAILABILITY_REDIS_STANDBY_URL": as_user(new, access.OPERATOR),
            "AVAILABILITY_POSTGRES_URL": as_user(self.postgres_url, access.OPERATOR),
            "AVAILABILITY_SHARDS": str(shards),
        }
        arguments = [command, "--yes"] if command == "failover" else [command]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)

    async def failover(self, old: str = "", shards: int = 1) -> Result:
        return await self.run("failover", old=old or self.primary.url, new=self.replica.url, shards=shards)

    async def journaled(self, shard: int = 0) -> None:
        """The journal gets all that the primary has."""
        with Redis.from_url(self.primary.url) as client:
            [[last, _]] = client.xrevrange(f"{{s{shard}}}:journal", count=1)
        journal = await Journal.open(self.postgres_url)

        async def has_all() -> bool:
            return str((await journal.cursor(shard)).place) == str(last.decode())

        async with following(self.primary.url, self.postgres_url, shard):
            await wait_until(has_all)
        await journal.close()

    def replicated(self) -> None:
        """The replica gets all that the primary has."""
        with Redis.from_url(self.primary.url) as primary, Redis.from_url(self.replica.url) as replica:
            offset = primary.info("replication")["master_repl_offset"]
            wait_until_plain(lambda: replica.info("replication")["slave_repl_offset"] >= offset)

    @asynccontextmanager
    async def frozen_replica(self) -> AsyncIterator[None]:
        """What is acknowledged meanwhile never comes to the replica: the primary is killed at the end of the block."""
        self.replica.process.send_signal(signal.SIGSTOP)
        with Redis.from_url(self.primary.url) as client:  # or the tail would wait in the frozen one's socket
            client.client_kill_filter(_type="replica")
        try:
            yield
            self.primary.kill()
        finally:
            self.replica.process.send_signal(signal.SIGCONT)


@pytest.fixture
def pair(tmp_path: Path, postgres_url: str) -> Iterator[Pair]:
    with running(valkey, tmp_path / "primary") as primary, running(valkey, tmp_path / "replica") as replica:
        _, _, address = primary.url.rpartition("@")
        host, _, port = address.removesuffix("/0").partition(":")
        with Redis.from_url(primary.url) as client:
            client.config_set("repl-diskless-sync-delay", 0)
        with Redis.from_url(replica.url) as client:
            client.config_set("primaryuser", "replica")
            client.config_set("primaryauth", access.password_of(PASSWORD, "replica"))
            client.replicaof(host, port)
            wait_until_plain(lambda: client.info("replication")["master_link_status"] == "up")
        asyncio.run(deploy_library(primary.url))
        asyncio.run(migrate(postgres_url))
        yield Pair(primary, replica, postgres_url)


async def hold(ledger: Ledger, key: str, sku: str = "A") -> str:
    """One unit, held; the reservation's id."""
    held = await Shop(ledger, Clock()).hold((sku, 1), key=key, ttl_ms=TTL_MS)
    assert isinstance(held, m.Done), held
    return held.id


async def open_shop(ledger: Ledger) -> None:
    shop = Shop(ledger, Clock())
    await shop.open()
    for sku in SKUS:
        await shop.stock(sku, 1_000, at_ms=1)


async def is_there(ledger: Ledger, id_: str) -> bool:
    return isinstance(await ledger.find(m.Find(id_, "web")), Found)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Ledger]:
    """The ledger as a process has it, once it may be changed."""
    async with watched_ledger(settings) as ledger:

        async def ready() -> bool:
            await ledger.read(m.Read([m.ReadItem("A")]))
            return ledger.state().ready

        await wait_until(ready)
        yield ledger


@asynccontextmanager
async def refused(settings: Settings, why: str) -> AsyncIterator[Ledger]:
    """The ledger as a process has it that must not change it, for this reason."""
    async with watched_ledger(settings) as ledger:

        async def said() -> bool:
            await ledger.read(m.Read([m.ReadItem("A")]))
            return why in "; ".join(ledger.state().reasons)

        await wait_until(said)
        with pytest.raises(Unavailable, match=why):
            await hold(ledger, "refused")
        yield ledger


async def test_what_the_journal_has_survives_and_what_is_lost_is_listed(pair: Pair) -> None:
    """P2, P9: the replica lacks the tail; it is not served as it is, and the old primary is refused afterwards."""
    async with serving(pair.settings(pair.primary)) as ledger:
        await open_shop(ledger)
        kept = [await hold(ledger, f"early-{number}") for number in range(20)]
        await pair.journaled()
        pair.replicated()
        async with pair.frozen_replica():
            kept += [await hold(ledger, f"tail-{number}") for number in range(30)]
            await pair.journaled()
            lost = [await hold(ledger, f"lost-{number}") for number in range(7)]

    with Redis.from_url(pair.replica.url) as client:  # promoted without the procedure
        client.replicaof("NO", "ONE")
    async with refused(pair.settings(pair.replica), "the ledger is behind its journal"):
        pass

    done = await pair.failover()
    assert done.exit_code == 0, done.output
    assert "in epoch 2\nit has 2 positions and 50 reservations, all compared\n" in done.stdout
    assert "the journal gave 30 entries that it lacked, and got 0\n" in done.stdout

    async with serving(pair.settings(pair.replica)) as ledger:
        assert all([await is_there(ledger, id_) for id_ in kept])
        assert not any([await is_there(ledger, id_) for id_ in lost])
        assert await hold(ledger, "early-0") == kept[0], "P3: its key is known"
        await hold(ledger, "late")
    with Redis.from_url(pair.replica.url) as client:
        assert_books_balance(client)
        assert_folds(client, epoch=2)

    await pair.primary.restart()
    async with refused(pair.settings(pair.primary), "the ledger is behind its journal"):
        pass
    left = await pair.run("left-behind", old=pair.replica.url, new=pair.primary.url)
    assert left.exit_code == 1
    assert [line.split()[3:5] for line in left.stdout.splitlines()] == [["hold", id_] for id_ in lost]
    assert left.stderr == "7 operations are on that server alone\n"


async def test_a_primary_that_was_only_cut_off_is_refused_by_the_new_epoch(pair: Pair) -> None:
    """P1, P9: its process is told by the journal within moments; what it took meanwhile is found."""
    async with serving(pair.settings(pair.primary)) as stale:
        await open_shop(stale)
        await hold(stale, "before")
        await pair.journaled()
        pair.replicated()
        done = await pair.failover(old=NOBODY)  # the operator believes that it is gone
        assert done.exit_code == 0, done.output
        taken = 0

        async def is_refused() -> bool:
            nonlocal taken
            try:
                await hold(stale, f"stale-{taken}")
            except Unavailable as refusal:
                return "the ledger is behind its journal (at 1-" in str(refusal)
            taken += 1
            return False

        await wait_until(is_refused)
    left = await pair.run("left-behind", old=pair.replica.url, new=pair.primary.url)
    assert len(left.stdout.splitlines()) == taken
    assert (left.exit_code, taken > 0) in {(1, True), (0, False)}


async def test_what_only_the_replica_has_is_not_lost(pair: Pair) -> None:
    """P2: of two shards one has more than the journal, the other less."""
    async with serving(pair.settings(pair.primary, shards=2)) as ledger:
        await open_shop(ledger)
        ahead = [await hold(ledger, f"ahead-{number}", SKUS[1]) for number in range(5)]
        await pair.journaled(0)
        pair.replicated()
        async with pair.frozen_replica():
            behind = [await hold(ledger, f"behind-{number}", SKUS[0]) for number in range(5)]
            await pair.journaled(0)

    done = await pair.failover(shards=2)
    assert done.exit_code == 0, done.output
    assert "the journal gave 5 entries that it lacked, and got " in done.stdout
    async with serving(pair.settings(pair.replica, shards=2)) as ledger:
        assert all([await is_there(ledger, id_) for id_ in (*ahead, *behind)])
    left = await pair.run("left-behind", old=pair.replica.url, new=pair.replica.url, shards=2)
    assert (left.exit_code, left.stderr) == (0, "no operations are on that server alone\n")


@asynccontextmanager
async def without_postgres(server: RunningServer) -> AsyncIterator[Ledger]:
    """The ledger as a process has it that was compared with the journal, and reaches that no more."""
    ledger = Ledger(as_user(server.url, access.API))
    try:
        yield ledger
    finally:
        await ledger.close()


async def test_a_primary_that_answers_is_closed_and_nothing_is_lost(pair: Pair) -> None:
    """P1, P2: also for who cannot ask the journal, and after its restart."""
    async with without_postgres(pair.primary) as cut_off:
        await open_shop(cut_off)
        kept = [await hold(cut_off, f"early-{number}") for number in range(5)]
        done = await pair.failover()
        assert (done.exit_code, "nothing is lost" in done.stdout, "NOT FENCED" in done.stdout) == (0, True, False)
        with pytest.raises(Unavailable):
            await hold(cut_off, "late")
    pair.primary.kill()
    await pair.primary.restart()
    async with without_postgres(pair.primary) as cut_off:
        with pytest.raises(Unavailable):
            await hold(cut_off, "later")
    async with serving(pair.settings(pair.replica)) as ledger:
        assert all([await is_there(ledger, id_) for id_ in kept])


async def test_a_primary_that_cannot_be_reached_is_told_loudly_and_closed_if_it_comes_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1: who reaches it, and not the journal, goes on there; that is what the operator must know."""
    monkeypatch.setattr("ledger.replica.ANSWER_S", 0.5)
    async with without_postgres(pair.primary) as cut_off:
        await open_shop(cut_off)
        pair.replicated()
        done = await pair.failover(old=NOBODY)
        assert (done.exit_code, "NOT FENCED" in done.stdout, "nothing is lost" in done.stdout) == (0, True, False)
        await hold(cut_off, "nobody-knows")

        pair.primary.process.send_signal(signal.SIGSTOP)

        def come_back(_step: str, _done: int, _total: int) -> None:
            pair.primary.process.send_signal(signal.SIGCONT)

        urls = (pair.primary.url, pair.replica.url, pair.postgres_url)
        old, new, journal = (as_user(url, access.OPERATOR) for url in urls)
        again = await fail_over(FailoverPlan(old, new, journal, 1), come_back)
        assert (again.fenced, again.lossless) == (True, False)
        with pytest.raises(Unavailable):
            await hold(cut_off, "late")


async def test_while_the_primary_answers_and_cannot_be_replaced_nothing_is_done(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2: it is given back as it was."""
    monkeypatch.setattr("ledger.failover.REPLICATED_S", 0.3)
    async with without_postgres(pair.primary) as ledger:
        await open_shop(ledger)
        pair.replicated()
        with Redis.from_url(pair.replica.url) as client:
            client.config_set("primaryauth", "wrong")  # the link breaks, and does not come back
            with Redis.from_url(pair.primary.url) as primary:
                primary.client_kill_filter(_type="replica")
            refused = await pair.failover()
            assert (refused.exit_code, "nothing was changed" in refused.stderr) == (1, True)
            assert client.info("replication")["role"] == "slave"
        await wait_until(lambda: holds_again(ledger))
    same = await pair.run("failover", old=pair.primary.url, new=pair.primary.url)
    assert (same.exit_code, "name the same server" in same.stderr) == (1, True)


async def holds_again(ledger: Ledger) -> bool:
    try:
        await hold(ledger, "again")
    except Unavailable:
        return False
    return True


async def test_an_unfit_replica_is_not_promoted(pair: Pair) -> None:
    with Redis.from_url(pair.replica.url) as client:
        client.config_set("appendfsync", "everysec")
        refused = await pair.failover(old=NOBODY)
        assert refused.exit_code == 1
        assert refused.stderr.startswith("the replica is unfit: the replica's appendfsync is everysec")
        assert client.info("replication")["role"] == "slave"


async def test_while_the_journal_follows_the_old_primary_nothing_is_done(pair: Pair) -> None:
    """P2: nobody else could write it from the new one, and the failover would stand still half done."""
    async with serving(pair.settings(pair.primary)) as ledger:
        await open_shop(ledger)
        pair.replicated()
        writer = await JournalWriter.open(pair.postgres_url, 0)
        try:
            refused = await pair.failover()
        finally:
            await writer.close()
        assert (refused.exit_code, "`availability journal` is running" in refused.stderr) == (1, True)
        assert await is_there(ledger, await hold(ledger, "as-before"))
    assert (await pair.failover()).exit_code == 0


async def test_one_that_broke_off_after_the_promotion_goes_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: the primary answers, is closed, and has no replica any more; nothing that was put back is called lost."""
    journaled = Closing.journaled

    async def broken_off(closing: Closing, shards: Iterable[int], step: str) -> None:
        if step == "journal":  # what was put back is nowhere else yet
            raise NotFilled("in the middle")
        await journaled(closing, shards, step)

    async with serving(pair.settings(pair.primary)) as ledger:
        await open_shop(ledger)
        kept = await hold(ledger, "before")
        pair.replicated()
    with monkeypatch.context() as broken:
        broken.setattr("ledger.closing.Closing.journaled", broken_off)
        assert (await pair.failover()).exit_code == 2
    assert (await pair.run("left-behind", old=pair.primary.url, new=pair.replica.url)).exit_code == 0
    again = await pair.failover()
    assert (again.exit_code, "nothing is lost" in again.stdout, "NOT FENCED" in again.stdout) == (0, False, False)
    async with serving(pair.settings(pair.replica)) as ledger:
        assert await is_there(ledger, kept)
    nothing = await pair.run("left-behind", old=pair.replica.url, new=pair.primary.url)
    assert (nothing.exit_code, nothing.stdout) == (0, "")


async def test_it_can_be_begun_again(pair: Pair) -> None:
    """P2: Postgres is away."""
    async with serving(pair.settings(pair.primary)) as ledger:
        await open_shop(ledger)
        kept = await hold(ledger, "before")
        pair.replicated()
    pair.primary.kill()
    away = Pair(pair.primary, pair.replica, "postgresql://nobody@127.0.0.1:1/none")
    assert (await away.failover()).exit_code == 2
    assert (await pair.failover()).exit_code == 0
    async with serving(pair.settings(pair.replica)) as ledger:
        assert await is_there(ledger, kept)
