"""The report of a run, its comparison with an earlier one, and what is seen while it goes on."""

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from bench_runs import NONE, kind, latency, run, second, step, stepped
from click.testing import CliRunner, Result
from rich.console import Console

from bench import compare, figures, html_report, summary, verdict
from bench import run as runs
from bench.cli import main
from bench.live import Live
from bench.run import Check, Feed, Knee, Run

EVIL = "<script>alert(1)</script>\"'&\x00"


def parsed(document: str) -> ET.Element:
    """Well-formed, or it raises."""
    return ET.fromstring(document.split("\n", 1)[1])  # noqa: S314 - our own document


def text(document: str) -> str:
    return " ".join("".join(parsed(document).itertext()).split())


def section(document: str, title: str) -> ET.Element:
    return next(part for part in parsed(document).iter("section") if part.findtext("h2") == title)


def rows(document: str, title: str) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in section(document, title).iter("tr")]


def test_it_is_one_document_that_loads_nothing() -> None:
    document = html_report.document(stepped(), stepped(1_200, 2_000.0))

    root = parsed(document)
    assert document.startswith("<!DOCTYPE html>\n<html lang=")
    policies = [meta.get("content") for meta in root.iter("meta") if meta.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    told = {name for element in root.iter() for name in element.attrib}
    assert told.isdisjoint({"src", "href", "srcset", "action", "data", "style"})
    assert not {element.tag for element in root.iter()} & {"script", "link", "img", "iframe", "object", "base"}
    assert "@import" not in document
    assert "url(" not in document
    # The target is told, and is the only address.
    assert set(re.findall(r"https?://[^\s<]+", document)) == {"http://127.0.0.1:8000"}


def test_every_plot_tells_its_title_and_is_a_table_too() -> None:
    document = html_report.document(stepped())

    figures_ = list(section(document, "Plots").iter("figure"))
    ids = [element.get("id") for element in parsed(document).iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert [figure.findtext("figcaption/h3") for figure in figures_] == [
        "Throughput against offered rate",
        "Latency against offered rate",
        "Latency by percentile",
        "Latency over time",
        "Throughput over time",
        "Batch size over time",
        "Batch sizes",
        "CPU per process",
        "Memory per process",
    ]
    for figure in figures_:
        drawing = figure.find("svg")
        assert drawing is not None
        assert drawing.get("role") == "img"
        assert (drawing.get("aria-labelledby") or "").split() == [drawing[0].get("id"), drawing[1].get("id")]
        assert all(part.text for part in drawing[:2])
        assert len(list(figure.iter("tr"))) > 1


def test_nothing_that_a_run_holds_becomes_markup() -> None:
    evil = msgspec.structs.replace(
        run(),
        scenario=EVIL,
        started_at=EVIL,
        target=EVIL,
        commit=EVIL,
        machine={EVIL: EVIL},
        options={EVIL: EVIL},
        valid=False,
        flaws=[EVIL],
        kinds=[kind(EVIL, by_status={EVIL: 3}, shed=latency(50))],
        timeline=[msgspec.structs.replace(second(0), cpu={EVIL: 0.5}, memory_bytes={EVIL: 5})],
        steps=[step(1_000.0), step(2_000.0, holds=False)],
        knee=Knee(1_000.0, EVIL),
        cpu={EVIL: 0.5},
        checks=[Check(EVIL, False, EVIL)],
    )
    for document in (html_report.document(evil), html_report.document(evil, evil)):
        assert not list(parsed(document).iter("script"))
        assert "<script" not in document
        assert "\x00" not in document
        assert document.count("alert(1)") > 10


def test_a_run_that_is_not_valid_says_so_first_and_loudly() -> None:
    flaw = "generator-1 was late in 12 of 60 seconds"
    document = html_report.document(run(valid=False, flaws=[flaw]))

    box = next(element for element in parsed(document).iter("div"))
    assert box.get("class") == "verdict bad"
    assert (box.findtext("p") or "").startswith("NOT VALID: these figures must not be used")
    assert box.findtext("ul/li") == flaw
    assert parsed(document).findtext("head/title", "").startswith("NOT VALID")

    console = Console(file=io.StringIO(), width=120)
    summary.show(console, run(valid=False, flaws=[flaw]))
    told = console.file.getvalue().rstrip().splitlines()  # type: ignore[attr-defined]
    assert "NOT VALID" in told[-2]
    assert flaw in told[-1]


def test_checks_and_goals_are_told_in_words() -> None:
    slow = kind("hold-hot", 20_000, 4_000.0, by_status={"201": 19_000, "409": 900, "500": 50, "lost": 50})
    few = kind("release", 500, 3_000.0)
    quick = kind("atp", 300, 200.0)
    checks = [Check("no oversell", False, "3"), Check("the journal", None, "not from here"), Check("books", True, "0")]
    measured = run(kinds=[slow, few, quick], checks=checks)
    document = html_report.document(measured)

    assert [row[:2] for row in rows(document, "Checks")[1:]] == [
        ["no oversell", "NO"],
        ["the journal", "could not be checked"],
        ["books", "yes"],
    ]
    goals = {row[0]: row[-1] for row in rows(document, "Goals")[1:]}
    assert goals == {
        "requests that failed": "MISSED",
        "hold-hot: p99": "MISSED",
        "hold-hot: p99.9": "MISSED",
        "release: p99": "MISSED",  # by 21 of 500
        "release: p99.9": "too few to tell",
        # Too few for a percentile, but not one of them was slow.
        "atp: p99": "met",
        "atp: p99.9": "met",
    }
    assert "1 of 3 checks DO NOT HOLD · 1 could not be checked · 4 of 7 goals MISSED, 1 of too few" in text(document)
    assert not verdict.passed(measured)
    assert verdict.passed(run(checks=checks[1:]))


def test_a_search_for_the_knee_is_not_held_to_latencies_beyond_it() -> None:
    measured = stepped()
    assert [goal.met for goal in verdict.goals(measured)] == [True]
    assert [
        goal.met for goal in verdict.goals(msgspec.structs.replace(measured, knee=None, options={"find_knee": True}))
    ] == [False]
    assert "knee 3,000/s" in text(html_report.document(measured))


@pytest.mark.parametrize(
    "measured",
    [
        run(kinds=[], timeline=[], steps=[], batches=[], cpu={}, checks=[], machine={}, options={}),
        run(kinds=[kind("hold-hot", 0, accepted=NONE, by_status={})], timeline=[], batches=[(1, 0)]),
        run(
            kinds=[kind("hold-hot", 1, accepted=latency(1))],
            timeline=[
                msgspec.structs.replace(
                    second(0, 0), p50_us=0, p99_us=0, max_us=0, operations_per_batch=None, cpu={}, memory_bytes={}
                )
            ],
        ),
        run(steps=[step(0.0), step(0.0)], timeline=[second(0)]),
    ],
    ids=["nothing", "no request", "one request", "rate 0"],
)
def test_a_run_with_little_in_it_has_a_report(measured: Run) -> None:
    for earlier in (None, measured, run()):
        document = html_report.document(measured, earlier)
        assert "nan" not in document
        assert " inf" not in document
        parsed(document)
    summary.show(Console(file=io.StringIO()), measured)


def test_a_long_run_of_many_processes_stays_small() -> None:
    shares = {f"process-{i}": 0.5 + i / 20 for i in range(14)}
    sizes = {name: int(share * 2e8) for name, share in shares.items()}
    timeline = [msgspec.structs.replace(second(at_s), cpu=shares, memory_bytes=sizes) for at_s in range(1_800)]
    kinds = [kind(f"kind-{i}", 200_000, 700.0 + 100 * i) for i in range(8)]
    measured = run(timeline=timeline, kinds=kinds, cpu=shares, seconds=1_800.0)

    document = html_report.document(measured, measured)

    assert len(document.encode()) < 300_000
    assert "A point is 20 seconds" in document


def test_a_failure_is_not_lost_when_seconds_are_joined() -> None:
    timeline = [second(at_s) for at_s in range(10 * figures.POINTS_MAX)]
    timeline[7] = msgspec.structs.replace(timeline[7], failed=1, max_us=9_999_999)

    points, each_s = figures.thinned(timeline)

    assert each_s == 10
    assert len(points) == figures.POINTS_MAX
    assert (points[0].failed, points[0].max_us) == (1, 9_999_999)


def test_the_curve_ends_at_the_slowest_request() -> None:
    measured = latency(20_000)
    points = figures.curve(measured)
    assert points[0][0] == 1.0
    assert points[-1][1] == measured.max_us
    assert points == sorted(points)
    many = msgspec.structs.replace(measured, counts=[(us, 10) for us in range(1, 2_001)])
    assert figures.curve(many)[-1] == (2_000.0, 2_000.0)
    assert len(figures.curve(many)) <= figures.CURVE_POINTS_MAX + 2


@pytest.mark.parametrize(
    ("us", "written"), [(None, "-"), (0, "0 µs"), (870, "870 µs"), (12_340, "12.3 ms"), (1_250_000, "1.25 s")]
)
def test_times_are_short(us: float | None, written: str) -> None:
    assert figures.time(us) == written


def judged(now: Run, earlier: Run) -> dict[str, str]:
    return {f"{row.group} {row.figure}": row.word for row in compare.rows(now, earlier)}


def test_a_comparison_marks_what_is_worse_and_judges_like_with_like() -> None:
    words = judged(run(1_200, cpu={"api": 0.9, "valkey": 0.22, "generator-1": 0.9}), run(900))
    assert words["hold-hot p50"] == words["hold-hot p99"] == words["hold-hot p99.9"] == "worse"
    assert words["hold-hot max"] == "not judged"
    assert words["whole run accepted"] == "same"
    assert judged(run(600), run(900))["hold-hot p99"] == "better"
    assert judged(run(905), run(900))["hold-hot p99"] == "same"

    # Twice the rate: its latencies are another question.
    half = run(500, kinds=[kind("hold-hot", 10_000, 450.0), kind("gone")])
    words = judged(run(900), half)
    assert words["hold-hot p99"] == "not judged"
    assert words["whole run accepted"] == "not judged"
    assert not any(name.startswith(("gone", "commit")) for name in words)

    failing = run(kinds=[kind("hold-hot", by_status={"201": 19_900, "500": 100})])
    assert judged(failing, run())["hold-hot failed"] == "worse"
    assert "hold-hot failed" not in judged(run(), run())


def test_a_comparison_goes_step_by_step_up_to_the_knee() -> None:
    words = judged(stepped(1_500, 2_000.0), stepped(900, 3_000.0))
    assert words["whole run knee"] == "worse"
    assert words["step of 1,000/s p99"] == words["step of 3,000/s p99"] == "worse"
    assert words["step of 3,000/s accepted"] == "worse"
    assert words["step of 4,000/s p99"] == "not judged"


def test_both_runs_are_in_the_report_with_their_ratios_and_differences() -> None:
    earlier = run(900, commit="def5678", options={"rate": 1_000, "feeds": False}, machine={"cpu": "other"})
    document = html_report.document(run(1_800), earlier)

    found = {row[0]: row[1:] for row in rows(document, "Compared with an earlier run")}
    assert found["hold-hot: p50"] == ["900 µs", "1.80 ms", "2.00x", "worse"]
    assert found["commit"] == ["def5678", "abc1234"]
    assert found["option: feeds"] == ["no", "yes"]
    assert found["option: seconds"] == ["-", "60"]
    assert found["machine: cpu"] == ["other", "2 x Xeon 2.3 GHz"]
    assert "option: rate" not in found
    for figure in section(document, "Plots").iter("figure"):
        drawn = [element.get("class", "") for element in figure.find("svg") or ()]
        assert any("earlier" in style or style in {"f2", "f3"} for style in drawn), figure.findtext("figcaption/h3")
    assert "NOT VALID, and no ratio" in html_report.document(run(), run(valid=False, flaws=["late"]))


def ask(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_commands_write_and_compare(tmp_path: Path) -> None:
    files = {"now": run(1_050), "earlier": run(900), "other": run(scenario="browse"), "late": run(valid=False)}
    for name, measured in files.items():
        runs.write(measured, tmp_path / f"{name}.json")
    now, earlier, other, late = (tmp_path / f"{name}.json" for name in files)

    assert ask("report", now, "--compare", earlier).exit_code == 0
    assert "Compared with an earlier run" in text((tmp_path / "now.html").read_text())
    assert ask("report", now, "--out", tmp_path / "named.html").output.startswith(str(tmp_path / "named.html"))
    assert "Compared with" not in text((tmp_path / "named.html").read_text())

    same = ask("compare", earlier, earlier)
    assert (same.exit_code, same.output.splitlines()[-1]) == (0, "nothing is worse beyond 10%")
    worse = ask("compare", earlier, now)
    assert worse.exit_code == 1
    assert re.search(r"worse beyond 10%: .*hold-hot\s+p50", worse.output)
    assert ask("compare", earlier, now, "--tolerance", "25").exit_code == 0
    assert ask("compare", now, earlier).exit_code == 0

    for refused, why in (
        (("compare", now, other), "different scenarios"),
        (("compare", late, now), "must not be used"),
    ):
        answer = ask(*refused)
        assert (answer.exit_code, why in answer.output) == (2, True)
    (tmp_path / "none.json").write_text("{}")
    assert ask("report", tmp_path / "none.json").exit_code == 2
    assert ask("report", now, "--compare", other).exit_code == 2


def test_a_run_that_goes_on_is_told_in_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    out = io.StringIO()
    with Live(9, "flash-sale at 1,000/s", Console(file=out)) as live:
        live.phase("opening counts")
        now_s = 103.0
        live.load(104.0)
        for at_s in range(12):
            now_s = 106.0 + at_s
            live.load(now_s)  # the next stretch
            live.second(second(at_s))
    lines = out.getvalue().splitlines()
    assert lines[0] == "flash-sale at 1,000/s: 9.0 s of load, then checks"
    assert lines[1].endswith(": opening counts")
    assert [line.split(":")[0] for line in lines[2:]] == [f"{loaded}.0 s of 9.0 s of load" for loaded in (2, 7, 9)]
    assert "offered 1,000/s, accepted 980/s, shed 20/s, failed 0/s, p99" in lines[2]
    assert "generator late by 200 µs" in lines[2]


def test_a_run_that_goes_on_is_shown_in_one_place_on_a_terminal() -> None:
    out = io.StringIO()
    with Live(60, "flash-sale", Console(file=out, force_terminal=True, width=120)) as live:
        live.phase("1,000/s")
        live.second(msgspec.structs.replace(second(3), failed=2, late_us=40_000))
        live.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for word in ("flash-sale", "of 60 s", "1,000/s", "accepted", "980/s", "generator late by", "40.0 ms"):
        assert word in shown


def test_stock_events_that_ran_meanwhile_are_told() -> None:
    feed = Feed(1_000, 10, 500.0, latency(2_000, 30_000.0))
    document = html_report.document(run(feed=feed), run(feed=Feed(1_000, 10, 500.0, latency(2_000, 10_000.0))))

    assert rows(document, "Stock events over NATS")[1][:4] == ["1,000", "10", "500/s", "2,000"]
    assert ["whole run: p99 of the apply lag", "68.4 ms", "205 ms", "3.00x", "worse"] in rows(
        document, "Compared with an earlier run"
    )
    assert {goal.name: goal.met for goal in verdict.goals(run(feed=feed))}["stock events: p99 of the apply lag"]
    assert "stock event until seen" in text(document)
