"""Owns a run: the stage, the load, the faults one after the other, and quiet points at which all is checked."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from availability import embedded, issuer
from chaos.asking_again import check
from chaos.checks import Finding
from chaos.evidence import Evidence
from chaos.fault import Fault, Plan
from chaos.feeder import Feeder
from chaos.history import History, Injection, attempts_of
from chaos.shopper import Shop, Shopper
from chaos.stage import Stage
from chaos.table import Table

CLIENTS: Final = ("web", "app", "marketplace", "store")
FEED: Final = "warehouse"
SCOPES: Final = ("atp:read", "reservations:read", "reservations:write", "stock:write", "catalog:write")
REST_S: Final = 10.5
"""A child of ``up`` that lived 10 s is started again at once; one that dies sooner waits, longer each time."""
AHEAD_MAX: Final = 0.1
"""How much of a kind of fault may be done before as much of the slowest one is."""
WINDOW_S: Final = 60.0
"""From one quiet point to the next."""
RUSH_S: Final = (0.05, 0.3)
"""How long shoppers have not paused for breath when the fault comes: so there is much under way."""
CLOSE_S: Final = 75.0
"""How long all may go on with what they had begun: a shopper's patience, and a server that comes back."""
ALWAYS_REACHED: Final = ("announced events", "positions put in order")
"""Without these a run has proved nothing."""
TOKEN_TTL_S: Final = 24 * 3_600


class Schedule:
    """Which fault comes next: all kinds evenly over the run, but no process again before it has rested."""

    def __init__(self, faults: Sequence[Fault], chance: random.Random) -> None:
        self.waiting = list(faults)
        chance.shuffle(self.waiting)
        self._all = Counter(fault.name for fault in faults)
        self._busy_until_s: dict[str, float] = {}

    async def next(self) -> Fault:
        """The first in line that is not ahead of the others and of which every process has rested."""
        while True:
            now_s = time.monotonic()
            left = Counter(fault.name for fault in self.waiting)
            behind = max(left[name] / self._all[name] for name in left)
            for fault in self.waiting:
                is_ahead = left[fault.name] / self._all[fault.name] < behind - AHEAD_MAX
                if not is_ahead and all(self._busy_until_s.get(name, 0.0) <= now_s for name in fault.touches):
                    self.waiting.remove(fault)
                    return fault
            await asyncio.sleep(0.05)

    def rest(self, fault: Fault) -> None:
        """Its processes have just been started again."""
        for name in fault.touches:
            self._busy_until_s[name] = time.monotonic() + REST_S


@dataclass
class Options:
    """What was asked for. ``minutes`` ends a run before all was injected; ``window_s`` is from quiet to quiet."""

    faults: list[Fault]
    seed: int
    shoppers: int = 16
    minutes: float = 60.0
    window_s: float = WINDOW_S
    ttls_s: Sequence[int] = Shop.ttls_s
    shards: int = 1


class Run:
    """Faults that share one stage, under one load."""

    def __init__(self, options: Options, table: Table, say: Callable[[str], None]) -> None:
        self._options, self._table, self._say = options, table, say
        self._random = random.Random(options.seed)  # noqa: S311 - the same seed has to give the same run
        self._until_s = time.monotonic() + 60 * options.minutes

    async def run(self) -> list[Finding]:
        """Everything; what was found wrong."""
        faults = self._options.faults
        schedule = Schedule(faults, self._random)
        findings: list[Finding] = []
        histories: list[History] = []
        async with self._stage(faults) as (stage, plan):
            evidence = Evidence(stage, self._options.shards)
            tokens = self._tokens(stage)
            number = 0
            while schedule.waiting and time.monotonic() < self._until_s and not findings:
                number += 1
                history = History()
                shop = Shop(
                    *(stage, history, plan.client_url, tokens, random.Random(self._random.random())),  # noqa: S311 - seeded
                    prefix=f"w{number}",
                    keyless=plan.keyless,
                    ttls_s=self._options.ttls_s,
                )
                histories.append(history)
                broken = await self._window(stage, shop, schedule)
                try:
                    findings = broken + await self._quiet_point(number, shop, evidence)
                except TimeoutError as error:
                    findings = [*broken, Finding("not at rest", str(error).partition("\n")[0], time.monotonic())]
                self._table.add(history, findings)
            if findings:
                self._say(stage.tails())
        untried = list(not_tried(histories))
        for finding in untried:
            self._say(f"  {finding}")
        self._table.findings.extend(untried)
        return findings + untried

    @asynccontextmanager
    async def _stage(self, faults: Iterable[Fault]) -> AsyncIterator[tuple[Stage, Plan]]:
        """The stage, prepared as the faults ask for."""
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)))
            port = embedded.free_port()
            plan = Plan(folder / "data", port, f"http://127.0.0.1:{port}")
            plan.folder.mkdir()
            plan.environment["AVAILABILITY_SHARDS"] = str(self._options.shards)
            for fault in {type(fault): fault for fault in faults}.values():
                await stack.enter_async_context(fault.prepared(plan))
            arguments = [*plan.arguments, "--port", str(port)]
            seed = self._random.getrandbits(32)
            stage = Stage(plan.folder, arguments, plan.environment, plan.pids, seed, self._say, plan.source)
            stage.start()
            stack.push_async_callback(stage.stop)
            await stage.wait_ready()
            yield stage, plan

    def _tokens(self, stage: Stage) -> dict[str, str]:
        sign = issuer.sign
        keys = stage.folder / "keys"
        return {
            client: sign(keys, client=client, scopes=SCOPES, audience="availability", ttl_s=TOKEN_TTL_S)
            for client in (*CLIENTS, FEED)
        }

    async def _window(self, stage: Stage, shop: Shop, schedule: Schedule) -> list[Finding]:
        """Load, and faults under it, until it is time for a quiet point; returns when nothing is under way.

        What is returned are faults of which did not come what has to.
        """
        stage.under_way = lambda: shop.history.in_flight
        feeder = Feeder(shop, shop.history, FEED)
        await feeder.open_shop()
        findings: list[Finding] = []
        async with asyncio.TaskGroup() as load:
            load.create_task(feeder.run())
            for number in range(self._options.shoppers):
                load.create_task(Shopper(shop, CLIENTS[number % len(CLIENTS)]).run())
            try:
                findings = await self._break(stage, shop, schedule)
            finally:
                shop.open = False
                shop.until_s = time.monotonic() + CLOSE_S
        return findings

    async def _break(self, stage: Stage, shop: Shop, schedule: Schedule) -> list[Finding]:
        """One fault after the other, until one of them goes wrong or the window ends."""
        until_s = min(time.monotonic() + self._options.window_s, self._until_s)
        while schedule.waiting and time.monotonic() < until_s:
            try:
                async with asyncio.timeout(until_s - time.monotonic()):
                    fault = await schedule.next()
            except TimeoutError:
                break
            try:
                await self._inject(fault, stage, shop)
            except (AssertionError, TimeoutError) as error:
                return [Finding("not as it has to be", f"{fault.name}: {error}", shop.history.injections[-1].at_s)]
            schedule.rest(fault)
        return []

    async def _inject(self, fault: Fault, stage: Stage, shop: Shop) -> None:
        """Break it in a rush; measure until a write is acknowledged again, and until all is ready."""
        history = shop.history
        shop.rush = True
        await asyncio.sleep(stage.random.uniform(*RUSH_S))
        under_way = await stage.next_under_way()
        injection = Injection(fault.name, time.monotonic(), under_way)
        history.injections.append(injection)
        self._say(f"{fault.name} with {under_way} under way")
        again = asyncio.create_task(stage.next_acknowledged())
        await asyncio.sleep(0)
        try:
            await fault.inject(stage)
        finally:
            shop.rush = False
            injection.met = injection.in_flight if fault.met is None else fault.met
        injection.write_again_s = await again
        await stage.wait_ready()
        injection.ready_again_s = time.monotonic() - injection.at_s

    async def _quiet_point(self, number: int, shop: Shop, evidence: Evidence) -> list[Finding]:
        """Let everything come to rest, then judge the window."""
        history = shop.history
        began_s = time.monotonic()
        await evidence.settle(history)
        rested_s = time.monotonic() - began_s
        findings = await check(shop, evidence)
        counted = attempts_of(history.operations)
        self._say(
            f"quiet point {number}: {len(history.operations)} operations, attempts {dict(counted)}; at rest after"
            f" {rested_s:.1f} s, checked in {time.monotonic() - began_s - rested_s:.1f} s: {len(findings)} findings"
        )
        for finding in findings[:20]:
            self._say(f"  {finding}")
        return findings


def not_tried(histories: Iterable[History]) -> Iterable[Finding]:
    """Faults that met nothing, as often as they were injected, and rare states without which nothing was proved."""
    times, met, sometimes = Counter[str](), Counter[str](), Counter[str]()
    for history in histories:
        sometimes.update(history.sometimes)
        for injection in history.injections:
            times[injection.fault] += 1
            met[injection.fault] += injection.met
    for name, count in times.items():
        if not met[name]:
            yield Finding("not tried", f"{name} met nothing, {count} times")
    yield from (Finding("not tried", f"never reached: {name}") for name in ALWAYS_REACHED if not sometimes[name])
