"""Owns a run of a scenario from beginning to end: the service, its stock, the generators, the checks, the figures.

A scenario is a ``Script``: what is on sale, which streams it offers at a rate, and the stretches it goes through.
"""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from bench import generators, machine, opening, tally
from bench.account import Account
from bench.caller import Caller
from bench.feeder import Feeder, feeding
from bench.generators import Generators
from bench.http_client import HttpClient
from bench.live import Live
from bench.opening import Position
from bench.orders import Assortment, Holds, Plan, Pool
from bench.run import Check, Knee, Run, Step
from bench.service import Service, until_ready
from bench.tally import Span
from bench.verify import Verifier
from bench.watch import Watch, calls_by_size

AHEAD_S: Final = 0.5
"""A stretch is told to the generators so long before it begins, at the least."""
EXPIRY_SLACK_S: Final = 1.0
CONNECTIONS: Final = 8
"""Of the command itself, to each client's end of the API."""


class Options(Struct, frozen=True, kw_only=True):
    """What all scenarios know; ``rate`` is of requests a second in all, follow-ups among them."""

    rate: float
    seconds: int
    processes: int = 1
    connections: int = 512
    clients: int = 4
    seed: int = 1
    poisson: bool = True
    realtime: bool = True
    skus: int = 2_000
    locations: int = 2
    hot_share: float = 0.5
    hot_units: int = 1_000_000_000
    tail_units: int = 1_000_000
    lines: int = 0
    commit_share: float = 0.6
    release_share: float = 0.2
    think_s: float = 0.5
    ttl_s: int = 10
    reads_share: float = 0.2
    items: int = 100
    events: int = 50
    event_posts: float = 0.0
    """A second, by HTTP, with ``events`` in each."""
    feed_rate: float = 0.0
    """Stock events a second over NATS."""
    warm_up: int = 2
    step_seconds: int = 5
    steps: list[float] = []
    find_knee: bool = False
    quiet_rate: float = 200.0
    quiet_seconds: int = 5

    def holds_share(self) -> float:
        """Of the offered requests, those that are holds, when every hold is granted."""
        return (1 - self.reads_share) / (1 + self.commit_share + self.release_share)


Rates = Mapping[str, float]
"""Requests a second by stream."""


@dataclass
class Stage:
    """What a script works with while it runs."""

    options: Options
    generators: Generators
    watch: Watch
    live: Live
    pids: dict[str, int]
    """Of the service, at the beginning."""
    spans: list[Span] = field(default_factory=list)
    """The stretches whose figures count ..."""
    names: list[str] = field(default_factory=list)
    """... and what they are."""
    knee: Knee | None = None
    first: int = 0
    """The first second that counts."""
    _end: int = 0

    async def offer(self, name: str, rates: Rates, seconds: int, *, counts: bool = True) -> Span:
        """A stretch, right after the one before if that is not over yet; returns when it has been sent."""
        from_s = max(self._end, math.ceil(time.monotonic() + AHEAD_S))
        span = Span(from_s, seconds)
        self._end = span.end
        await self.generators.offer(span.first, seconds, rates, poisson=self.options.poisson)
        if counts:
            self.spans.append(span)
            self.names.append(name)
            self.first = self.first or span.first
        self.live.load(span.first)
        self.live.phase(name)
        for second in range(span.first + 1, span.end):
            await self.generators.wait_until(second)
            self._tell(second - 2)
        # Told what comes next before this one ends, the generators go from one to the other without a gap.
        await self.generators.wait_until(span.end - 2 * AHEAD_S)
        return span

    def _tell(self, second: int) -> None:
        """Show a second that is over, and mostly answered."""
        if self.first and second >= self.first:
            found = self.generators
            self.live.second(tally.second_of(found.cells, found.late, self.watch.samples, self.first, second))

    async def warm_up(self, rates: Rates) -> None:
        """So that connections, caches and follow-ups are there when it counts."""
        if self.options.warm_up:
            await self.offer("warming up", rates, self.options.warm_up, counts=False)

    async def answered(self) -> None:
        """Wait for the end of the last stretch, and for every answer."""
        await self.generators.wait_until(self._end)
        await self.generators.wait_answered()

    def step(self, span: Span) -> Step:
        return tally.step(self.generators.cells, self.generators.late, span)


class Script(Struct, frozen=True):
    """A scenario: its name, the baskets of its streams, what it does, and what it checks besides.

    ``load_s`` is how long its load is, with the warm-up; of a search for the knee it is a guess.
    """

    name: str
    pools: list[Pool]
    play: Callable[[Stage], Awaitable[None]]
    checks: Callable[[Stage], list[Check]]
    load_s: float


async def run(script: Script, options: Options, service: Service, live: Live) -> Run:
    """Set up, offer, check. Raises what ``commands.FAILED`` names."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    goods = opening.assortment(service.name, options.skus, options.locations)
    async with AsyncExitStack() as stack:
        callers = [
            Caller(await stack.enter_async_context(HttpClient(service.url, token, CONNECTIONS)))
            for token in service.tokens
        ]
        await until_ready(callers[0].http, live.phase)
        live.phase("opening counts")
        stock = await opening.open_stock(callers[0], goods, options.hot_units, options.tail_units)
        live.phase("starting generators")
        watcher = await stack.enter_async_context(HttpClient(service.url, service.tokens[0], 1))
        stage = await stack.enter_async_context(_stage(script, options, service, goods, live, watcher))
        feeder = Feeder(service.name, goods, Counter(stock), options.seed)
        async with _feeding(feeder, options, service, callers[0].http):
            await script.play(stage)
            await stage.answered()
        holds = await stage.generators.finish()
        live.phase(f"checks, once the last hold has expired ({options.ttl_s} s)")
        checks = [*script.checks(stage), check_alive(stage.pids, service.pids)]
        checks += await _verified(stage, service, callers, stock, feeder, goods, holds)
    if options.feed_rate:
        checks.append(feeder.check())
    return _told(script, stage, service, started_at, checks, feeder)


@asynccontextmanager
async def _stage(
    script: Script, options: Options, service: Service, goods: Assortment, live: Live, http: HttpClient
) -> AsyncIterator[Stage]:
    plans = [_plan(script, options, service, goods, number) for number in range(1, options.processes + 1)]
    pids = service.pids
    watch = Watch(http, {"bench": os.getpid(), **pids})
    async with generators.running(plans) as running, asyncio.TaskGroup() as tasks:
        watch.also(running.pids)
        watching = tasks.create_task(watch.run())
        try:
            yield Stage(options, running, watch, live, pids)
        finally:
            watching.cancel()


def _plan(script: Script, options: Options, service: Service, goods: Assortment, number: int) -> Plan:
    return Plan(
        url=service.url,
        tokens=service.tokens,
        name=service.name,
        number=number,
        processes=options.processes,
        seed=options.seed,
        connections_max=max(1, options.connections // options.processes),
        assortment=goods,
        pools=script.pools,
        commit_share=options.commit_share,
        release_share=options.release_share,
        think_s=options.think_s,
        ttl_s=options.ttl_s,
        realtime=options.realtime,
        items=options.items,
        events=options.events,
    )


@asynccontextmanager
async def _feeding(feeder: Feeder, options: Options, service: Service, http: HttpClient) -> AsyncIterator[None]:
    if options.feed_rate and service.addresses is not None:
        async with feeding(feeder, service.addresses.nats, http, options.feed_rate):
            yield
    else:
        yield


async def _verified(
    stage: Stage,
    service: Service,
    callers: list[Caller],
    stock: dict[Position, int],
    feeder: Feeder,
    goods: Assortment,
    holds: list[Holds],
) -> list[Check]:
    account = Account(service.name, len(callers), holds)
    deadline_s = time.monotonic() + stage.options.ttl_s + EXPIRY_SLACK_S
    verifier = Verifier(
        account=account,
        callers=callers,
        opening=stock,
        fed=feeder.raised,
        events_location=goods.events_location,
        deadline_s=deadline_s,
        clients=service.clients,
        addresses=service.addresses,
    )
    return await verifier.checks()


def _remarks(options: Options, running: Generators) -> list[str]:
    """What does not make the figures useless, but has to be known."""
    found = [f"unwelcome answer: {refusal}" for refusal in running.refusals]
    if running.waited:
        found.append(
            f"{running.waited:,} requests waited for one of {options.connections:,} connections: the service never saw "
            "more at once, and could not shed them; --connections lets it"
        )
    return found


def check_alive(before: Mapping[str, int], now: Mapping[str, int]) -> Check:
    """Whether the service's processes are those that were there before the run."""
    ended = [name for name, pid in before.items() if now.get(name) != pid]
    said = f"{', '.join(ended)} did" if ended else f"{len(before)} of them"
    return Check("no process of the service ended", not ended if before else None, said if before else "not seen")


def _told(script: Script, stage: Stage, service: Service, started_at: str, checks: list[Check], feeder: Feeder) -> Run:
    options, running = stage.options, stage.generators
    whole = Span(stage.first, stage.spans[-1].end - stage.first)
    before, after = tally.between(stage.watch.samples, whole)
    cpu = tally.cores(before, after)
    # Who looks for the knee goes beyond it, and says of each step whether the generator was late: no knee is above one.
    judged = [] if options.find_knee or options.steps else stage.spans
    flaws = tally.flaws(running.late, judged, cpu)
    return Run(
        scenario=script.name,
        started_at=started_at,
        seconds=whole.seconds,
        target=service.url,
        commit=machine.commit(),
        machine=machine.facts(),
        options=machine.flat(options),
        valid=not flaws,
        flaws=flaws + _remarks(options, running),
        kinds=tally.kinds(running.cells, stage.spans),
        timeline=tally.timeline(running.cells, running.late, stage.watch.samples, whole),
        steps=[
            tally.step(running.cells, running.late, span, name)
            for span, name in zip(stage.spans, stage.names, strict=True)
        ],
        knee=stage.knee,
        batches=calls_by_size(before and before.batches, after and after.batches),
        cpu=cpu,
        checks=checks,
        feed=feeder.figures(whole.seconds) if options.feed_rate else None,
    )
