"""Owns the measurement of checkpoints and rebuilds: days of a retailer in a real ledger, which is lost then.

It is rebuilt twice by the command itself, as a process of its own: from the start of the journal and, from a copy of
the database, from a checkpoint that was made when nine tenths of it were there. Both are compared with what it was.
"""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
from redis.asyncio import Redis
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from availability.settings import Settings, environment_of_child
from bench import servers
from bench.journal import until
from bench.ledger_dump import Dump, dump, times_of_entries
from bench.retail_days import DAY_MS, MOVEMENTS_A_DAY, RetailDays
from bench.target import NoTarget
from ledger import Follower, Journal, Ledger, Observer, Place, Written, migrate

CHECKPOINT_AT: Final = 0.9
POLL_S: Final = 0.05
TIMEOUT_MS: Final = 60_000
SHOWN_MAX: Final = 5


class Ran(NamedTuple):
    """What a command took, and what it said."""

    seconds: float
    peak_bytes: int
    said: str

    def figure(self, pattern: str) -> float:
        """The number that it told there."""
        found = re.search(pattern, " ".join(self.said.split()))
        if found is None:
            raise NoTarget(f"the command said {self.said!r}")
        return float(found[1].replace(",", ""))


async def run(movements: int, console: Console) -> bool:
    """Measure, compare and print; whether both rebuilt ledgers are what it was. Raises ``NoTarget``."""
    async with servers.valkey() as valkey, servers.postgres() as postgres:
        return await _Measuring(valkey.url, postgres.url, movements, console).run()


class _Measuring:
    def __init__(self, redis_url: str, postgres_url: str, movements: int, console: Console) -> None:
        self._redis_url = redis_url
        self._postgres_url = postgres_url
        self._wanted = movements
        self._console = console
        self._total = Written()

    async def run(self) -> bool:
        await migrate(self._postgres_url)
        checkpoint = await self._fill()
        connection = await asyncpg.connect(self._postgres_url)
        times = await times_of_entries(connection, 1)
        await connection.close()
        live = await dump(self._redis_url, times)
        copied = await self._copied()
        whole = await self._rebuilt(copied, live)
        rest = await self._rebuilt(self._postgres_url, live)
        self._show(checkpoint, whole, rest, live)
        return not (whole.different or rest.different)

    # --- the journal ---------------------------------------------------------------------------------------------

    async def _fill(self) -> "Ran":
        """Live until there are so many movements; what the checkpoint took that was made before the end."""
        days = RetailDays(time.time_ns() // 1_000_000 - (1 + self._wanted // MOVEMENTS_A_DAY) * DAY_MS)
        ledger = Ledger(self._redis_url, now_ms=days.clock, queue_wait_ms_max=TIMEOUT_MS, timeout_ms=TIMEOUT_MS)
        began_s = time.perf_counter()
        try:
            async with self._following():
                await days.open(ledger)
                await self._live_until(days, ledger, int(CHECKPOINT_AT * self._wanted))
            checkpoint = await self._run("checkpoint")
            async with self._following():
                await self._live_until(days, ledger, self._wanted)
        finally:
            await ledger.close()
        self._console.print(
            f"{self._total.movements:,} movements in {self._total.entries:,} entries,"
            f" made in {time.perf_counter() - began_s:.0f} s"
        )
        return checkpoint

    async def _live_until(self, days: RetailDays, ledger: Ledger, movements: int) -> None:
        while self._total.movements < movements:
            await days.hour(ledger)
        end = (await ledger.standing(0, Place(1, 1))).place
        journal = await Journal.open(self._postgres_url)

        async def has_all() -> bool:
            return (await journal.cursor(0)).place >= end

        assert await until(has_all) is not None, "the journal comes no further"
        await journal.close()

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[None]:
        def written(_shard: int, batch: Written) -> None:
            self._total.entries += batch.entries
            self._total.movements += batch.movements

        follower = Follower(self._redis_url, self._postgres_url, 0, Observer(written, lambda _shard, _status: None))
        following = asyncio.create_task(follower.run())
        try:
            yield
        finally:
            follower.stop()
            await following

    async def _copied(self) -> str:
        """A database with the same journal and no checkpoint."""
        server, _, name = self._postgres_url.rpartition("/")
        connection = await asyncpg.connect(f"{server}/template1")
        await connection.execute(f'create database whole template "{name}"', timeout=600)
        await connection.close()
        connection = await asyncpg.connect(f"{server}/whole")
        await connection.execute("delete from availability.checkpoint")
        await connection.close()
        return f"{server}/whole"

    # --- the commands --------------------------------------------------------------------------------------------

    async def _rebuilt(self, postgres_url: str, live: Dump) -> "Rebuilt":
        """What it takes to rebuild the ledger, which is lost before, and in which keys it is another than it was."""
        async with Redis.from_url(self._redis_url) as redis:
            await redis.flushall()
        ran = await self._run("rebuild", "--yes", postgres_url=postgres_url)
        connection = await asyncpg.connect(postgres_url)
        times = await times_of_entries(connection, 2)
        await connection.close()
        there = await dump(self._redis_url, times)
        different = [
            key for key in live.digests.keys() | there.digests.keys() if live.digests.get(key) != there.digests.get(key)
        ]
        return Rebuilt(ran, sorted(different))

    async def _run(self, *arguments: str, postgres_url: str = "") -> Ran:
        settings = Settings(redis_url=self._redis_url, postgres_url=postgres_url or self._postgres_url)
        argv = [sys.executable, "-m", "availability", *arguments]
        began_s = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment_of_child(settings),
        )
        talking = asyncio.create_task(process.communicate())
        peak = 0
        try:
            while not talking.done():
                peak = max(peak, _peak_bytes(process.pid))
                await asyncio.sleep(POLL_S)
        finally:
            if not talking.done():
                process.kill()
            said, _ = await talking
        if process.returncode != 0:
            raise NoTarget(f"`availability {' '.join(arguments)}` ended with {process.returncode}: {said.decode()}")
        return Ran(time.perf_counter() - began_s, peak, said.decode())

    # --- what came of it -----------------------------------------------------------------------------------------

    def _show(self, checkpoint: Ran, whole: "Rebuilt", rest: "Rebuilt", live: Dump) -> None:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(live.kinds.items()))
        self._console.print(f"the ledger: {kinds}; and {live.forgotten:,} reservations that ended over a day ago")
        told = _FOLDED.format("(?:the epoch's start|checkpoint \\d+)")
        rows: Sequence[tuple[str, Ran, float, str]] = [
            ("checkpoint", checkpoint, checkpoint.figure(_COUNTED), ""),
            ("rebuild, from the start", whole.ran, whole.ran.figure(_COUNTED), _verdict(whole)),
            ("rebuild, from the checkpoint", rest.ran, rest.ran.figure(_COUNTED), _verdict(rest)),
        ]
        table = Table(
            "", "movements folded", "s", "movements/s", "fold, s", "s a million", "peak MB", "", box=SIMPLE_HEAD
        )
        for column in table.columns[1:7]:
            column.justify = "right"
        for name, ran, movements, verdict in rows:
            folded_s = ran.figure(told)
            table.add_row(
                *(name, f"{movements:,.0f}", f"{ran.seconds:.1f}", f"{movements / ran.seconds:,.0f}"),
                *(f"{folded_s:.1f}", f"{1e6 * folded_s / movements:.1f}", f"{ran.peak_bytes / 1e6:,.0f}", verdict),
            )
        self._console.print(table)
        for rebuilt in (whole, rest):
            for key in rebuilt.different[:SHOWN_MAX]:
                self._console.print(f"not what it was: {key!r}")


class Rebuilt(NamedTuple):
    """What a rebuild took, and the keys that are not what they were."""

    ran: Ran
    different: list[bytes]


_COUNTED: Final = r"([\d,]+) movements (?:of the journal were )?folded"
_FOLDED: Final = r"folded from {} on, in ([\d.]+) s"


def _verdict(rebuilt: Rebuilt) -> str:
    return f"{len(rebuilt.different)} keys differ" if rebuilt.different else "as it was"


def _peak_bytes(pid: int) -> int:
    """The most memory that the process has had, as far as it still tells."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return 1024 * int(found[1]) if found else 0
    return 0
