"""Owns the plots of a run that goes through several rates: what was accepted of what was offered, and how fast."""

from collections.abc import Callable, Sequence

from bench import figures, plots
from bench.markup import Html, table
from bench.plots import Axis, Line, Mark
from bench.run import Run, Step

OfStep = Callable[[Step], float | None]


def rates(run: Run, earlier: Run | None) -> Html:
    highest = max(step.offered_per_second for r in (run, earlier) if r for step in r.steps)
    of: dict[str, OfStep] = {
        "accepted": lambda step: step.accepted_per_second,
        "shed": lambda step: step.shed / step.seconds,
        "failed": lambda step: step.failed / step.seconds,
    }
    drawn = [*_by_step(of, run, earlier), Line("as offered", [(0.0, 0.0), (highest, highest)], 4, earlier=True)]
    said = (
        "Each point is one step at one rate. Where accepted leaves the line of what was offered, the service is full."
    )
    axes = _offered_axis(drawn), plots.linear("requests a second", plots.highest(drawn))
    rows = [
        (
            figures.rate(step.offered_per_second),
            figures.rate(step.accepted_per_second),
            figures.count(step.shed),
            figures.count(step.failed),
            "late" if step.generator_late else "in time",
            "yes" if step.holds else "no",
        )
        for step in run.steps
    ]
    title = "Throughput against offered rate"
    drawing = plots.lines("steps", title, said, axes, drawn, marks=_knees(run, earlier))
    listed = table(("offered", "accepted", "shed", "failed", "generator", "goals met"), rows)
    return plots.figure(title, said, drawn, drawing, listed)


def latency(run: Run, earlier: Run | None) -> Html:
    of: dict[str, OfStep] = {
        "p50": lambda step: step.p50_us or None,
        "p99": lambda step: step.p99_us or None,
        "p99.9": lambda step: step.p999_us or None,
    }
    drawn = _by_step(of, run, earlier)
    said = "Of the accepted requests of each step. Latency turns upwards at the knee."
    axes = _offered_axis(drawn), plots.latency_axis([value for line in drawn for _, value in line.points if value])
    rows = [
        (
            figures.rate(step.offered_per_second),
            figures.seconds(step.seconds),
            *(figures.time(get(step)) for get in of.values()),
        )
        for step in run.steps
    ]
    title = "Latency against offered rate"
    drawing = plots.lines("step-latency", title, said, axes, drawn, marks=_knees(run, earlier))
    return plots.figure(title, said, drawn, drawing, table(("offered", "for", *of), rows))


def _by_step(of: dict[str, OfStep], run: Run, earlier: Run | None) -> list[Line]:
    drawn = []
    for r in (run, earlier):
        steps = sorted(r.steps, key=lambda step: step.offered_per_second) if r else []
        for colour, (name, get) in enumerate(of.items() if steps else ()):
            points = [(step.offered_per_second, get(step)) for step in steps]
            drawn.append(Line(name + (", earlier" if r is earlier else ""), points, colour, earlier=r is earlier))
    return drawn


def _offered_axis(drawn: Sequence[Line]) -> Axis:
    return plots.linear("requests offered a second", max(point[0] for line in drawn for point in line.points))


def _knees(run: Run, earlier: Run | None) -> list[Mark]:
    marks = []
    if run.knee:
        marks.append(Mark(run.knee.per_second, f"knee {figures.rate(run.knee.per_second)}"))
    # One word for both where they agree: two would lie on each other.
    if earlier and earlier.knee and (not run.knee or run.knee.per_second != earlier.knee.per_second):
        marks.append(Mark(earlier.knee.per_second, "earlier"))
    return marks
