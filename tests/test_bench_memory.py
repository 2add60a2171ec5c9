"""The bench's measurement of memory: on a real Valkey it finds what is there, and says whether the goals are met."""

import io

import pytest
from rich.console import Console

from bench import memory
from bench.memory import LINE_BYTES_MAX, POSITION_BYTES_MAX

pytestmark = pytest.mark.anyio


async def test_it_tells_bytes_each_and_where_they_go() -> None:
    report = io.StringIO()
    console = Console(file=report, width=120)

    met = await memory.run(1_000, console)  # with fewer, what the server does besides would show

    rows = [line.split() for line in report.getvalue().splitlines()]
    judged = {" ".join(row[:-5]): (int(row[-4].replace(",", "")), row[-1]) for row in rows if row[-3:-2] == ["≤"]}
    goals = {name: POSITION_BYTES_MAX if name.startswith("position") else LINE_BYTES_MAX for name in judged}
    assert len(judged) == 6
    assert all(100 < each < 5_000 for each, _ in judged.values())
    assert all((answer == "yes") == (each <= goals[name]) for name, (each, answer) in judged.items())
    assert met == all(answer == "yes" for _, answer in judged.values())
    for kind in ("op", "held", "feed", "deadlines, an entry", "sku, a position"):
        assert kind in report.getvalue()
