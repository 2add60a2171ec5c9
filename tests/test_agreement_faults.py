"""The Lua library and the plain rules agree also where the server is killed, answers are lost and all is rebuilt.

P2, P3, P4, P7: the same machine as in ``test_agreement``, with such steps between the others. What was acknowledged is
there after a kill -9, what was asked for again under its key is done once, and a ledger that was filled anew from its
journal in Postgres goes on as the one before it.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, get_args

import asyncpg
import pytest
from chaos.proxy import PASS, Proxy, Way, proxy_to
from folding import assert_folds
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from msgspec.msgpack import decode
from redis import Redis
from servers import RunningServer, as_owner, as_user
from test_agreement import EXAMPLES, EXAMPLES_IN_CI, LIMITS, SHRINK, SKUS, START_MS, Agreement

from availability import access
from ledger import FillPlan, Journal, LedgerError, Place, Unknown, fill_anew, migrate
from ledger import messages as m
from ledger.journal.catching_up import catch_up
from ledger.keys import shard_of
from ledger.keyspace import Keyspace
from ledger.state import ShardRecord
from ledger.store import Ledger

PROGRAMS_OF = 20
"""One such program for so many of ``test_agreement``."""
EPOCHS_MAX = 3
KILLS_MAX = 1
LOSSES_MAX = 3
"""In one program: each costs as much as a hundred of its other steps."""
Loss = Literal["answer", "answer, then killed", "request, and killed"]
EMPTY = (
    "do $$ begin execute (select 'truncate ' || string_agg('availability.' || tablename, ', ') from pg_tables"
    " where schemaname = 'availability' and tablename <> 'migration'); end $$"
)


class Faulty(Agreement):
    """Its ledger speaks to the server through a proxy, and the journal is written when it is needed."""

    server: RunningServer
    proxy: Proxy
    urls: tuple[str, str, str]
    """The server as the ledger comes to it, and both servers for the operator."""
    database_url: str

    def __init__(self) -> None:
        super().__init__()
        limits = LIMITS if self.shards == 1 else LIMITS[:1]
        self.ledgers = [
            Ledger(self.urls[0], shards=self.shards, now_ms=lambda: self.clock[0], **limit) for limit in limits
        ]
        self.epoch = 1
        self.kills = self.losses = 0
        self.loss: Loss | None = None

    @property
    def may_lose(self) -> bool:
        """What goes to several shards is not lost with one answer: who coordinates them settles it by himself."""
        return self.shards == 1 and self.losses < LOSSES_MAX

    def step(self, operation: m.Operation) -> None:
        loss, self.loss = self.loss, None
        if loss is not None:
            done = self.runner.run(self._lost(operation, loss))
            if done:
                self.model.decide(operation, self.clock[0])
            self.reached["lost", loss] += 1
        super().step(operation)

    async def _lost(self, operation: m.Operation, loss: Loss) -> bool:
        """Ask, and hear no answer; whether it was done."""
        if loss == "request, and killed":
            self.proxy.change(Way("mute"))
            asked = asyncio.create_task(self.answer(operation))
            await asyncio.sleep(0)
            await self._killed()
            with pytest.raises(LedgerError):
                await asked
            self.proxy.change(PASS)
            return False
        self.proxy.change(Way("cut"))
        with pytest.raises(Unknown):
            await self.answer(operation)
        if loss == "answer, then killed":
            await self._killed()
        return True

    async def _killed(self) -> None:
        self.server.kill()
        await self.server.restart()

    def meet_again(self) -> None:
        """Who is connected finds out that the server is another, and comes again."""
        with suppress(LedgerError):
            self.runner.run(self.answer(m.Expire()))
        self.step(m.Expire())

    def lose(self, loss: Loss) -> None:
        """The next operation is asked for, whatever it is, its answer does not come, and it is asked for again."""
        self.step(m.Locations())  # what is lost is not the greeting
        self.losses, self.loss = self.losses + 1, loss

    @precondition(lambda self: self.may_lose)
    @rule()
    def lose_an_answer(self) -> None:
        self.lose("answer")

    @precondition(lambda self: self.may_lose)
    @rule()
    def lose_an_answer_and_be_killed(self) -> None:
        self.lose("answer, then killed")

    @precondition(lambda self: self.may_lose)
    @rule()
    def lose_a_request_and_be_killed(self) -> None:
        self.lose("request, and killed")

    @precondition(lambda self: self.kills < KILLS_MAX)
    @rule()
    def kill(self) -> None:
        """With nothing under way: all that was acknowledged is there."""
        self.kills, self.loss = self.kills + 1, None
        self.runner.run(self._killed())
        self.meet_again()
        self.reached["killed", "at rest"] += 1

    @precondition(lambda self: self.epoch < EPOCHS_MAX)
    @rule(is_lost=st.booleans())
    def rebuild(self, is_lost: bool) -> None:  # noqa: FBT001 a drawn value
        """From the journal in Postgres, of a ledger that is still there or of one whose disk is gone."""
        self.loss = None
        if self.epoch == 1:
            self.runner.run(self._empty_journal())
        self.epoch += 1
        self.runner.run(self._rebuilt(is_lost=is_lost))
        self._follow()
        self.meet_again()
        self.reached["rebuilt", "lost" if is_lost else "there"] += 1

    async def _empty_journal(self) -> None:
        connection = await asyncpg.connect(self.database_url)
        await connection.execute(EMPTY)
        await connection.close()

    async def _rebuilt(self, *, is_lost: bool) -> None:
        _, valkey, postgres = self.urls
        if is_lost:
            ends: Any = {shard: self.redis.xrevrange(f"{{s{shard}}}:journal", count=1) for shard in range(self.shards)}
            goals = {shard: Place(*map(int, end[0][0].split(b"-"))) for shard, end in ends.items() if end}
            journal = await Journal.open(postgres)
            await catch_up(valkey, postgres, journal, goals, lambda _done, _total: None)
            await journal.close()
            self.redis.flushall()
            for shard in range(self.shards):  # the time that we count is not its server's
                keyspace = await Keyspace.open(valkey, shard)
                await keyspace.fence(shards=self.shards, clock_ms=self.clock[0])
                await keyspace.close()
        filled = await fill_anew(FillPlan(valkey, postgres, None, "rebuild", self.shards))
        assert filled.epoch == self.epoch

    def _follow(self) -> None:
        """What the rules cannot know: the receipts of what was put back. Rate limits begin anew."""
        record: Any = self.redis.get("{s0}:shard")
        told = decode(record, type=ShardRecord)
        self.model.epoch, self.model.seq, self.model.last_ms = self.epoch, told.seq, told.clock_ms
        self.model.meters.clear()
        for id_, claim in self.model.claims.items():
            claim.epoch = self.epoch
            if self.shards == 1:
                live: Any = self.redis.get(f"{{s0}}:op:{id_}")
                claim.seq = decode(live, type=m.Reservation).seq

    def assert_journaled(self) -> None:
        """The entries of a rebuilt ledger begin with all that was put back, which the fold knows how to read."""
        if self.epoch == 1:
            super().assert_journaled()
        for shard in range(self.shards):
            assert_folds(self.redis, shard, self.epoch)

    def teardown(self) -> None:
        self.loss = None
        try:
            super().teardown()
        finally:
            for ledger in self.ledgers:
                self.runner.run(ledger.close())


@pytest.fixture(params=[1, 4])
def machine(
    valkey_server: RunningServer, valkey_url: str, postgres_url: str, request: pytest.FixtureRequest
) -> Iterator[type[Faulty]]:
    """The state machine, connected to real servers; with four shards, the two SKUs are on different ones."""
    shards: int = request.param
    assert shards == 1 or shard_of(SKUS[0], shards) != shard_of(SKUS[1], shards)
    with asyncio.Runner() as runner, Redis.from_url(as_owner(valkey_url)) as client:
        runner.run(migrate(postgres_url))
        through = proxy_to(valkey_url)
        proxy, url = runner.run(through.__aenter__())

        class Connected(Faulty):
            pass

        Connected.server, Connected.proxy, Connected.database_url = valkey_server, proxy, postgres_url
        Connected.urls = url, as_user(valkey_url, access.OPERATOR), as_user(postgres_url, access.OPERATOR)
        Connected.redis, Connected.runner, Connected.clock = client, runner, [START_MS]
        Connected.reached, Connected.shards = Counter(), shards
        yield Connected
        runner.run(through.__aexit__(None, None, None))


@pytest.mark.long
def test_lua_and_rules_agree_through_kills_losses_and_rebuilds(machine: type[Faulty]) -> None:
    """P2, P3, P4, P7."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, EXAMPLES // PROGRAMS_OF // machine.shards),
            stateful_step_count=50,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if SHRINK else [])],
            deadline=None,
            derandomize=EXAMPLES == EXAMPLES_IN_CI,
            suppress_health_check=list(HealthCheck),
        ),
    )
    reached = machine.reached
    assert reached["killed", "at rest"]
    assert reached["rebuilt", "there"] + reached["rebuilt", "lost"]
    if machine.shards == 1:
        assert reached["rebuilt", "there"]
        assert not [loss for loss in get_args(Loss) if not reached["lost", loss]], "never lost"
