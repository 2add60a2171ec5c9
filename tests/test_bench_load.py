"""The bench's generator: when it sends, how it counts, how it reads answers, and when its figures must not be used."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Self

import msgspec
import pytest
from waiting import wait_until

from bench import arrivals, histogram, http_load, knee, tally
from bench.generator import Generator
from bench.generators import Counted
from bench.http_load import Load, Request, parse
from bench.opening import assortment
from bench.orders import Plan, Pool, Report
from bench.processes import families, usages
from bench.run import Step
from bench.scenario import check_alive
from bench.tally import Span
from bench.watch import BATCH_MAX, Batches, calls_by_size, read_batches

pytestmark = pytest.mark.anyio

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a schedule


# When requests are due.


def test_poisson_arrivals_are_the_same_for_the_same_seed_and_have_the_rate_and_the_spread() -> None:
    due = list(arrivals.poisson(1_000, 20, seeded(1)))

    assert due == list(arrivals.poisson(1_000, 20, seeded(1)))
    assert due != list(arrivals.poisson(1_000, 20, seeded(2)))
    assert due == sorted(due)
    assert 0 < due[0] < due[-1] < 20
    assert len(due) == pytest.approx(20_000, rel=0.03)
    # Of exponential gaps, 1/e are longer than the mean one.
    longer = sum(later - earlier > 0.001 for earlier, later in pairwise(due))
    assert longer / len(due) == pytest.approx(0.368, abs=0.02)


def test_constant_arrivals_of_all_processes_together_are_equally_far_apart() -> None:
    due = sorted(at for share in range(3) for at in arrivals.constant(100, 2, share, 3))

    assert len(due) == 600
    assert all(later - earlier == pytest.approx(1 / 300) for earlier, later in pairwise(due))


def test_a_rate_of_nothing_is_never_due() -> None:
    assert not list(arrivals.poisson(0, 10, seeded(1)))
    assert not list(arrivals.constant(0, 10, 0, 1))


# Counting.


def test_a_histogram_is_never_more_than_a_percent_above_what_was_recorded() -> None:
    for us in [*range(5_000), *(3**power for power in range(8, 17))]:
        counts: histogram.Counts = {}
        histogram.record(counts, us)
        (index,) = counts
        assert us <= histogram.upper_edge(index) <= us * 1.008
        assert index == 0 or histogram.upper_edge(index - 1) < us


def test_percentiles_are_edges_that_so_many_do_not_exceed() -> None:
    counts: histogram.Counts = {}
    for us in range(1, 10_001):
        histogram.record(counts, us)

    told = histogram.latency(counts)

    assert told.count == 10_000
    percentiles = [told.p50_us, told.p90_us, told.p99_us, told.p999_us]
    assert percentiles == pytest.approx([5_000, 9_000, 9_900, 9_990], rel=0.01)
    assert 10_000 <= told.max_us <= 10_080
    assert told.mean_us == pytest.approx(5_000, rel=0.01)
    assert sum(count for _, count in told.counts) == 10_000
    assert histogram.percentile({}, 0.99) == 0


# Answers.

ANSWER = b'HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"id":"one"}'[:-1]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ANSWER, ("201", b'{"id":"one"', True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ("204", b"", True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length:2\r\nConnection: Close\r\n\r\n{}", ("200", b"{}", False)),
        (b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", ("503", b"", False)),
        (CHUNKED, ("200", b"abcd", True)),
    ],
    ids=["ours", "no body", "other case", "closing", "chunks"],
)
def test_an_answer_is_read_once_it_is_whole_wherever_it_was_cut(data: bytes, expected: tuple[str, bytes, bool]) -> None:
    assert parse(data) == expected
    assert [cut for cut in range(len(data)) if parse(data[:cut]) is not None] == []


def test_what_is_no_http_is_no_answer() -> None:
    with pytest.raises(ValueError, match="no HTTP"):
        parse(b"SSH-2.0-OpenSSH\r\n\r\n")


class Sent:
    """A ``Load`` on a server that does what ``serve`` does on each connection."""

    def __init__(self, serve: Serve, connections_max: int = 2) -> None:
        self.answers: list[tuple[int, str, bytes]] = []
        self._serve = serve
        self._connections_max = connections_max

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.load = Load(f"http://127.0.0.1:{port}", self._connections_max, self._answered)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.load.close()

    def _answered(self, request: Request, status: str, body: bytes) -> None:
        self.answers.append((request.number, status, body))

    def submit(self, *numbers: int, due_s: float | None = None) -> None:
        now_s = asyncio.get_running_loop().time() if due_s is None else due_s
        for number in numbers:
            raw = b"GET /%d HTTP/1.1\r\n\r\n" % number
            self.load.submit(Request("atp", now_s, raw, lambda *_: None, number))


async def until(condition: Callable[[], bool]) -> None:
    async def met() -> bool:
        return condition()

    await wait_until(met)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the path, a byte at a time, until the connection ends."""
    while line := await reader.readline():
        await reader.readline()
        path = line.split()[1]
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(path), path):
            writer.write(bytes([byte]))
            await writer.drain()
    writer.close()


async def test_requests_wait_for_a_free_connection_and_each_gets_its_own_answer() -> None:
    async with Sent(echo) as sent:
        sent.submit(*range(20))
        await until(lambda: len(sent.answers) == 20)

        assert sorted(sent.answers) == [(number, "200", b"/%d" % number) for number in range(20)]
        assert sent.load.connections == 2
        assert sent.load.pending == 0
        assert sent.load.waited == 0  # while connections are being opened, nobody waits for want of one

        sent.submit(*range(20, 25))
        assert sent.load.waited == 3
        await until(lambda: len(sent.answers) == 25)


async def test_what_was_sent_on_a_connection_that_ends_is_lost_and_the_next_is_not() -> None:
    served = 0

    async def ends_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served == 1:
            await reader.readline()
            writer.close()
        else:
            await echo(reader, writer)

    async with Sent(ends_once, connections_max=1) as sent:
        sent.submit(1, 2)
        await until(lambda: len(sent.answers) == 2)

    assert sent.answers == [(1, "lost", b""), (2, "200", b"/2")]


async def test_nobody_waits_for_a_service_that_is_away() -> None:
    async with Sent(echo) as sent:
        sent.server.close()
        await sent.server.wait_closed()
        sent.submit(1, 2, 3)
        await until(lambda: len(sent.answers) == 3)

    assert {status for _, status, _ in sent.answers} == {"lost"}


async def test_what_takes_too_long_is_given_up_whether_it_was_sent_or_still_waits() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with Sent(silent, connections_max=1) as sent:
        sent.submit(1, 2, due_s=100.0)
        await until(lambda: sent.load.connections == 1)
        sent.load.end_late(100.0 + http_load.TIMEOUT_S)
        assert sent.answers == []
        sent.load.end_late(100.1 + http_load.TIMEOUT_S)
        await until(lambda: len(sent.answers) == 2)

    assert sorted(sent.answers) == [(1, "timeout", b""), (2, "timeout", b"")]


# What must not be used.


def counted(late_us: int, times: int = 100) -> histogram.Counts:
    counts: histogram.Counts = {}
    for _ in range(times):
        histogram.record(counts, late_us)
    return counts


def test_a_generator_that_was_late_makes_the_run_invalid() -> None:
    on_time, late = counted(900, 9_000), counted(20_000, 200)
    spans = [Span(10, 2)]

    assert tally.flaws({10: on_time, 12: late}, spans, {"generator-1": 0.5, "api": 1.0}) == []
    (flaw,) = tally.flaws({10: on_time, 11: late}, spans, {"generator-1": 0.5})
    assert "late" in flaw


def test_a_generator_without_cpu_to_spare_makes_the_run_invalid() -> None:
    (flaw,) = tally.flaws({10: counted(900)}, [Span(10, 1)], {"generator-1": 0.5, "generator-2": 0.95})

    assert "generator-2" in flaw


async def test_the_generator_tells_how_late_it_takes_requests_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.generator.monotonic", lambda: 107.25)
    generator = Generator(plan())
    generator._count(Request("atp", 107.0, b"", lambda *_: None), 107.25)  # noqa: SLF001 - what the loop does

    assert tally.late_p99_us(generator._late, [Span(107, 1)]) == pytest.approx(250_000, rel=0.01)  # noqa: SLF001


async def test_a_follow_up_that_is_due_later_is_waited_for() -> None:
    generator = Generator(plan())
    told: list[bytes] = []
    generator._told_to = SimpleNamespace(write=told.append)  # type: ignore[assignment] # noqa: SLF001
    generator._later(Request("commit", 107.0, b"", lambda *_: None))  # noqa: SLF001 - what an answer does
    generator._report()  # noqa: SLF001 - what the loop does

    assert msgspec.json.decode(told[0], type=Report).pending == 1


def plan() -> Plan:
    goods = assortment("run", 20, 2)
    return Plan(
        url="http://127.0.0.1:1",
        tokens=["one", "two"],
        name="run",
        number=1,
        processes=1,
        seed=1,
        connections_max=4,
        assortment=goods,
        pools=[Pool("baskets", 0.5, 0)],
        commit_share=0.6,
        release_share=0.2,
        think_s=0.1,
        ttl_s=5,
        realtime=False,
        items=3,
        events=4,
    )


# Figures.


def answered(status: str, us: int, times: int) -> Counted:
    return Counted(times, {status: counted(us, times)})


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({(5, "hold"): answered("201", 900, 100), (6, "hold"): answered("409", 900, 100)}, None),
        ({(5, "hold"): answered("201", 900, 100), (6, "hold"): answered("503", 900, 1)}, "1 shed"),
        ({(5, "hold"): answered("201", 900, 100), (6, "hold"): answered("lost", 900, 1)}, "1 failed"),
        ({(5, "hold"): answered("201", 900, 100), (6, "hold"): answered("404", 900, 1)}, "1 failed"),
        ({(5, "hold"): answered("201", 15_300, 100)}, "p99 15.4 ms"),
        ({(5, "hold"): answered("201", 900, 500), (6, "atp"): answered("200", 60_000, 1)}, "p99.9 60.2 ms"),
        ({(5, "hold"): Counted(100, {"201": counted(900, 97)})}, "48/s accepted"),
        ({(5, "hold"): answered("201", 900, 100), (7, "hold"): answered("lost", 900, 1)}, None),
    ],
    ids=["good", "shed", "lost", "unwelcome", "slow", "a slow one", "unanswered", "another second"],
)
def test_a_step_holds_when_all_goals_are_met(cells: tally.Cells, reason: str | None) -> None:
    step = tally.step(cells, {}, Span(5, 2))

    assert step.holds == (reason is None)
    assert tally.why_not(step).endswith(f"/s: {reason or ''}")


def test_a_step_does_not_hold_when_the_generator_was_late() -> None:
    step = tally.step({(5, "hold"): answered("201", 900, 100)}, {5: counted(6_000)}, Span(5, 1))

    assert (step.generator_late, step.holds) == (True, False)


@pytest.mark.parametrize("first", [100.0, 900.0, 5_000.0])
async def test_the_knee_is_found_from_below_and_from_above(first: float) -> None:
    async def attempt(rate: float) -> Step:
        us = 900 if rate <= 1_000 else 20_000
        return tally.step({(0, "hold"): answered("201", us, int(rate))}, {}, Span(0, 1))

    found = await knee.find(first, attempt)

    assert found is not None
    assert 900 < found.per_second <= 1_000
    assert "p99 20.1 ms" in found.beyond


async def test_one_hiccup_is_not_the_knee_and_a_service_that_never_meets_the_goals_has_none() -> None:
    tried: list[float] = []

    async def hiccups(rate: float) -> Step:
        tried.append(rate)
        slow = rate > 1_000 or len(tried) == 3
        return tally.step({(0, "hold"): answered("201", 20_000 if slow else 900, int(rate))}, {}, Span(0, 1))

    async def never(rate: float) -> Step:
        return tally.step({(0, "hold"): answered("201", 20_000, int(rate))}, {}, Span(0, 1))

    found = await knee.find(100, hiccups)

    assert found is not None
    assert found.per_second > 900
    assert tried[2] == tried[3]
    assert await knee.find(100, never) is None


PAGE = """# HELP availability_ledger_batch_operations Operations in a call to the ledger's server
availability_ledger_batch_operations_bucket{le="1.0"} 2.0
availability_ledger_batch_operations_bucket{le="4.0"} 6.0
availability_ledger_batch_operations_bucket{le="+Inf"} 7.0
availability_ledger_batch_operations_count 7.0
availability_ledger_batch_operations_sum 300.0
availability_ledger_call_seconds_count 7.0
"""


def test_batches_are_read_from_the_metrics() -> None:
    batches = read_batches(PAGE)

    assert batches == Batches(7, 300, {1: 2, 4: 6, BATCH_MAX: 7})
    assert calls_by_size(Batches(2, 2, {1: 2, 4: 2, BATCH_MAX: 2}), batches) == [(4, 4), (BATCH_MAX, 1)]
    assert calls_by_size(batches, Batches(1, 1, {1: 1, 4: 6})) == []  # the process was started again
    assert read_batches("up 1\n") is None


async def test_a_process_is_seen_with_its_children() -> None:
    argv = ("/bin/sh", "-c", "sleep 60 & sleep 60 & echo there; wait")
    shell = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, start_new_session=True)
    assert shell.stdout is not None
    try:
        await shell.stdout.readline()
        found = families({"shell": shell.pid})
        assert len(found["shell"]) == 3
        assert usages(found)["shell"].memory_bytes > 0
        named = found["shell"][1]
        assert len(families({"shell": shell.pid, "named": named})["shell"]) == 2
    finally:
        for pid in found["shell"]:
            os.kill(pid, signal.SIGKILL)
        await shell.communicate()


def test_a_process_that_is_not_the_one_from_before_has_ended() -> None:
    assert check_alive({"api": 1, "valkey": 2}, {"api": 1, "valkey": 2}).holds is True
    assert check_alive({"api": 1, "valkey": 2}, {"api": 3, "valkey": 2}).holds is False
    assert check_alive({}, {}).holds is None
