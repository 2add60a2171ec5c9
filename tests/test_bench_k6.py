"""The cross-check against k6: its summary is read right, and the differences are told for what they are."""

import io
import re
from pathlib import Path

import msgspec
from rich.console import Console

from bench import k6_run, opening
from bench.k6_run import K6Metric

TREND = '{"type":"trend","values":{"count":2990,"avg":AVG,"med":2.5,"p(90)":5,"p(99)":9,"p(99.9)":12,"max":20}}'
SUMMARY = (
    f'{{"http_req_duration":{TREND.replace("AVG", "3")},"from_due":{TREND.replace("AVG", "3.5")},'
    '"iterations":{"type":"counter","contains":"default","values":{"count":2990,"rate":299}},'
    '"dropped_iterations":{"type":"counter","contains":"default","values":{"count":10,"rate":1}},'
    '"held":{"type":"counter","contains":"default","values":{"count":2989,"rate":298.9}}}'
)


def test_the_summary_of_k6_is_read() -> None:
    metrics = msgspec.json.decode(SUMMARY, type=dict[str, K6Metric])
    theirs = k6_run.measured(metrics, "http_req_duration", 0.5, 2_990_000.0)
    assert (theirs.requests, theirs.held, theirs.missed) == (2_990, 2_989, 10)
    assert (theirs.mean_us, theirs.p50_us, theirs.p999_us, theirs.max_us) == (3_000, 2_500, 12_000, 20_000)
    assert theirs.service_us == 1_000
    none_held = k6_run.measured({name: metrics[name] for name in ("from_due", "iterations")}, "from_due", 0.5, 0.0)
    assert (none_held.held, none_held.missed, none_held.mean_us) == (0, 0, 3_500)


def test_medians_are_shown_side_by_side_with_the_reasons() -> None:
    metrics = msgspec.json.decode(SUMMARY, type=dict[str, K6Metric])
    theirs = k6_run.measured(metrics, "http_req_duration", 0.5, 3e6)
    from_due = k6_run.measured(metrics, "from_due", 0.5, 3e6)
    ours = k6_run.median([msgspec.structs.replace(theirs, p50_us=us, missed=0) for us in (1_000, 1_250, 90_000)])
    assert ours.p50_us == 1_250

    out = io.StringIO()
    k6_run.show(Console(file=out, width=120), ours, theirs, from_due)

    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["p50", "1.25", "ms", "2.50", "ms", "2.50", "ms", "2.00x"] in lines
    assert "500 µs on average" in out.getvalue()
    assert "k6 did not send 10 requests that were due" in out.getvalue()
    assert "ours did not send" not in out.getvalue()


def test_the_script_asks_for_what_it_is_given() -> None:
    goods = opening.assortment("name", 1, 1)
    given = k6_run.environment("http://127.0.0.1:1", "token", goods, "name", 300, 10, Path("summary.json"))
    assert set(given) == set(re.findall(r"__ENV\.(\w+)", k6_run.SCRIPT.read_text()))
