"""Owns the report of a run: one HTML file that needs nothing else, the verdict first, and every plot as a table too."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import charts, compare, figures, verdict
from bench.markup import Html, joined, table, tag
from bench.run import Check, Feed, Kind, Run

STYLE: Final = Path(__file__).with_name("report.css")
# Nothing from outside is ever loaded, whatever the figures hold; the page's own style is all there is.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def write(run: Run, path: Path, earlier: Run | None = None) -> None:
    """Replaces the file. With an earlier run, both are in each plot, and a table tells the ratios.

    Raises ``compare.NotComparable`` when the earlier run is of another scenario.
    """
    path.write_text(document(run, earlier), encoding="utf-8")


def document(run: Run, earlier: Run | None = None) -> str:
    """The whole file; it is well-formed XML as well."""
    compared = [] if earlier is None else [_compared(run, earlier)]
    title = f"{run.scenario}, {run.started_at}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title if run.valid else f"NOT VALID: {title}"),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("header", tag("h1", run.scenario), tag("p", _about(run), class_="soft")),
        tag(
            "main",
            _verdict(run),
            _tiles(run),
            tag("div", _section("Checks", _checks(run.checks)), _section("Goals", _goals(run)), class_="pair"),
            *compared,
            _section("Requests", _kinds(run.kinds)),
            *([] if run.feed is None else [_section("Stock events over NATS", _feed(run.feed))]),
            _section("Plots", charts.grid(charts.all_of(run, earlier))),
            _section("How it was run", *_how(run)),
            _section("Caveats", tag("ul", *(tag("li", caveat) for caveat in verdict.caveats(run)))),
        ),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _section(title: str, *parts: Html) -> Html:
    return tag("section", tag("h2", title), *parts)


def _about(run: Run) -> str:
    return f"{run.started_at} · {figures.seconds(run.seconds)} · {run.target} · commit {run.commit}"


def _verdict(run: Run) -> Html:
    flaws = [tag("ul", *(tag("li", flaw) for flaw in run.flaws))] if run.flaws else []
    missed = any(goal.met is False for goal in verdict.goals(run))
    style = "verdict bad" if not verdict.passed(run) else "verdict open" if missed else "verdict"
    said = verdict.sentence(run)
    return tag("div", tag("p", said[0].upper() + said[1:]), *flaws, class_=style, role="status")


def _tiles(run: Run) -> Html:
    def tile(name: str, value: str, note: str = "") -> Html:
        return tag("div", tag("dt", name), tag("dd", value, *([tag("small", note)] if note else [])))

    offered, accepted, shed = figures.scheduled(run), figures.accepted(run.kinds), figures.shed(run.kinds)
    failed = sum(sum(figures.failed(kind).values()) for kind in run.kinds)
    tiles = [
        tile("offered", figures.rate(offered / run.seconds), f"{figures.count(offered)} requests"),
        tile("accepted", figures.rate(accepted / run.seconds), figures.share(accepted, offered)),
        tile("shed", figures.count(shed), figures.share(shed, offered)),
        tile("failed", figures.count(failed), figures.share(failed, offered)),
    ]
    slow = max(run.kinds, key=lambda kind: kind.accepted.p99_us, default=None)
    if slow is not None and slow.accepted.count:
        tiles.append(tile("p99 of the slowest kind", figures.time(slow.accepted.p99_us), slow.name))
        tiles.append(tile("its p99.9", figures.time(slow.accepted.p999_us), slow.name))
    if run.knee:
        tiles.append(tile("knee", figures.rate(run.knee.per_second), f"beyond: {run.knee.beyond}"))
    return tag("dl", *tiles, class_="tiles")


def _compared(run: Run, earlier: Run) -> Html:
    found = compare.rows(run, earlier)
    marks = {"worse": "bad", "better": "good", "not judged": "soft", "same": None}
    rows = [
        (
            f"{row.group}: {row.figure}",
            row.written(row.earlier),
            row.written(row.now),
            compare.ratio(row),
            tag("span", row.word, class_=marks[row.word]),
        )
        for row in found
    ]
    worse = compare.worse(found)
    named = ", ".join(f"{row.group} {row.figure} ({compare.ratio(row)})" for row in worse)
    said = f"Worse by more than {compare.MARKED_BEYOND:.0%}: {named}." if worse else "Nothing judged is worse."
    caption = f"Earlier: {_about(earlier)}. Not judged: at another rate, of few requests, or a single value."
    differences = verdict.differences(run, earlier)
    parts = [
        tag("p", said, class_="bad" if worse else "good"),
        table(("", "earlier", "now", "ratio", ""), rows, caption),
    ]
    if not earlier.valid:
        flaws = "; ".join(earlier.flaws)
        parts.insert(
            0, tag("p", f"The earlier run is NOT VALID, and no ratio to it can be used: {flaws}", class_="bad")
        )
    listed = table(("not the same", "earlier", "now"), list(differences), "A ratio may come from any of these.")
    parts.append(tag("div", listed, class_="words") if differences else tag("p", "Machine, options and commit agree."))
    return _section("Compared with an earlier run", *parts)


def _checks(checks: Sequence[Check]) -> Html:
    if not checks:
        return tag("p", "Nothing was checked: the run says how fast it was, not whether it was right.", class_="open")
    words = {True: ("yes", "good"), False: ("NO", "bad"), None: ("could not be checked", "open")}
    rows = [(check.name, _word(*words[check.holds]), check.said) for check in checks]
    return tag("div", table(("what must hold", "does it?", "figures"), rows), class_="words")


def _goals(run: Run) -> Html:
    words = {True: ("met", "good"), False: ("MISSED", "bad"), None: ("too few to tell", "open")}
    rows = [(goal.name, goal.wanted, goal.seen, _word(*words[goal.met])) for goal in verdict.goals(run)]
    return tag("div", table(("goal", "wanted", "seen", ""), rows), class_="words")


def _word(said: str, style: str) -> Html:
    return tag("span", said, class_=style)


def _kinds(kinds: Sequence[Kind]) -> Html:
    rows = list(_of_kinds(kinds))
    if not rows:
        return tag("p", "No request was due.", class_="open")
    head = (
        "kind",
        "scheduled",
        "accepted",
        "mean",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "slowest",
        "shed",
        "p99 of shed",
        "failed",
    )
    statuses = [(kind.name, _by_status(kind)) for kind in kinds]
    return joined(table(head, rows), tag("div", table(("kind", "answers by status"), statuses), class_="words"))


def _feed(feed: Feed) -> Html:
    lag = feed.apply_lag
    counts = figures.count(feed.events), figures.count(feed.messages), figures.rate(feed.events_per_second)
    lags = (figures.time(us if lag.count else None) for us in (lag.p50_us, lag.p99_us, lag.max_us))
    head = ("events", "messages", "rate", "lag, looked at", "p50", "p99", "longest")
    return table(head, [(*counts, figures.count(lag.count), *lags)], "Lag: from before publishing until ATP shows it.")


def _by_status(kind: Kind) -> str:
    return ", ".join(f"{how}: {figures.count(n)}" for how, n in kind.by_status.items()) or figures.NOTHING


def _of_kinds(kinds: Sequence[Kind]) -> Iterator[tuple[str, ...]]:
    for kind in kinds:
        done, failed = kind.accepted, figures.failed(kind)
        times = (done.mean_us, done.p50_us, done.p90_us, done.p99_us, done.p999_us, done.max_us)
        yield (
            kind.name,
            figures.count(kind.scheduled),
            figures.count(done.count),
            *(figures.time(us if done.count else None) for us in times),
            figures.count(kind.shed.count),
            figures.time(kind.shed.p99_us if kind.shed.count else None),
            figures.count(sum(failed.values())),
        )


def _how(run: Run) -> list[Html]:
    facts = [("commit", run.commit), ("target", run.target), ("started at", run.started_at)]
    facts += list(run.machine.items())
    options = [(name, verdict.value(value)) for name, value in run.options.items()]
    late = max((second.late_us for second in run.timeline), default=0)
    cpu = [(name, figures.cores(share)) for name, share in run.cpu.items()]
    tables = (("machine and service", ""), facts), (("option", ""), options), (("process", "cores, mean"), cpu)
    return [
        tag("div", *(table(head, list(rows)) for head, rows in tables if rows), class_="pair words"),
        tag("p", f"At its worst, a request was sent {figures.time(late)} after it was due.", class_="soft"),
    ]
