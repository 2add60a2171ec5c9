"""Owns which plots a run has: each is drawn, told in a sentence, and written out in a table under it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from bench import figures, plots, step_charts, verdict
from bench.markup import Html, joined, table, tag
from bench.plots import Axis, Goal, Hover, Line
from bench.run import Latency, Run, Second
from bench.tally import P99_MAX_US, P999_MAX_US
from bench.watch import BATCH_MAX

Of = Callable[[Second], float | None]
LATENCIES: dict[str, Of] = {
    "p50": lambda second: second.p50_us or None,
    "p99": lambda second: second.p99_us or None,
    "slowest": lambda second: second.max_us or None,
}
RATES: dict[str, Of] = {
    "offered": lambda second: second.offered,
    "accepted": lambda second: second.accepted,
    "shed": lambda second: second.shed,
    "failed": lambda second: second.failed,
}
GOALS = ((100, P99_MAX_US), (1_000, P999_MAX_US))
"""Of requests: [one in how many may be slower, than so many microseconds]."""
PERCENTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)


def all_of(run: Run, earlier: Run | None) -> list[Html]:
    """The plots for which the run has figures."""
    made: list[Html | None] = []
    if len(run.steps) > 1:
        made += [step_charts.rates(run, earlier), step_charts.latency(run, earlier)]
    made.append(_by_percentile(run, earlier))
    if run.timeline:
        made += [_latency_over_time(run, earlier), _rates_over_time(run, earlier)]
    made += [_batches_over_time(run, earlier), _batch_sizes(run, earlier)]
    made += [_cpu(run, earlier), _memory(run, earlier)]
    return [figure for figure in made if figure is not None]


def _by_percentile(run: Run, earlier: Run | None) -> Html | None:
    drawn, rows = [], []
    colours = {name: i for i, name in enumerate(dict.fromkeys(name for r in (run, earlier) if r for name in _names(r)))}
    for r, (name, what, latency) in [(each, one) for each in (run, earlier) if each for one in _latencies(each)]:
        word = name + what + (", earlier" if r is earlier else "")
        colour = colours[name] + (plots.COLOURS if what else 0)
        drawn.append(Line(word, figures.curve(latency), colour, earlier=r is earlier))
        rows.append((word, figures.count(latency.count), *_percentiles(latency)))
    if not drawn:
        return None
    title = "Latency by percentile"
    said = (
        "Each line is one kind of request: so many of its requests were faster than this. Both scales are logarithmic;"
        " the further right, the rarer. A knee upwards at the right is a stall that few requests met."
    )
    highest = max(point[0] for line in drawn for point in line.points)
    goals = (
        [] if len(run.steps) > 1 else [Goal(of, us, f"goal {figures.time(us)}") for of, us in GOALS if of <= highest]
    )
    values = [point[1] for line in drawn for point in line.points if point[1]]
    axes = plots.percentile_axis(highest), plots.latency_axis([*values, *(goal.y for goal in goals)])
    drawing = plots.lines("percentile", title, said, axes, drawn, goals=goals)
    head = ("kind", "requests", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "slowest")
    return plots.figure(title, said, drawn, drawing, table(head, rows))


def _names(run: Run) -> Iterator[str]:
    return (name for name, _, _ in _latencies(run))


def _latencies(run: Run) -> Iterator[tuple[str, str, Latency]]:
    """Of what was seen: its name, what part of it, and how long it took."""
    for kind in run.kinds:
        for what, latency in (("", kind.accepted), (", shed", kind.shed)):
            if latency.count:
                yield kind.name, what, latency
    if run.feed is not None and run.feed.apply_lag.count:
        yield "stock event until seen", "", run.feed.apply_lag


def _percentiles(latency: Latency) -> list[str]:
    """A dash where too few requests were slower than it for the figure to mean something."""
    told = []
    for percentile in PERCENTILES:
        wanted, before = percentile * latency.count, 0
        found = None
        for edge_us, number in latency.counts:
            before += number
            if before >= wanted - 1e-6:
                found = edge_us
                break
        told.append(figures.time(found if verdict.told(latency, percentile) else None))
    return [*told, figures.time(latency.max_us)]


def _latency_over_time(run: Run, earlier: Run | None) -> Html:
    lines = _over_time(LATENCIES, run, earlier)
    values = [value for line in lines for _, value in line.points if value]
    said = "Of the requests that were due in each second. A gap: nothing was accepted then."
    return _time_figure("Latency over time", said, run, lines, plots.latency_axis(values), LATENCIES, figures.time)


def _rates_over_time(run: Run, earlier: Run | None) -> Html:
    lines = _over_time(RATES, run, earlier)
    said = (
        "Requests a second, by when they were due. Accepted: 2xx, and refusals that are the business's own (409). Shed:"
        " 429 and 503. Failed: anything else."
    )
    axis = plots.linear("requests a second", plots.highest(lines))
    return _time_figure("Throughput over time", said, run, lines, axis, RATES, figures.count)


def _batches_over_time(run: Run, earlier: Run | None) -> Html | None:
    of: dict[str, Of] = {"operations in a call, mean": lambda second: second.operations_per_batch}
    lines = _over_time(of, run, earlier)
    if not any(value is not None for line in lines for _, value in line.points):
        return None
    said = "How many operations went to the ledger in one call. It grows with the load: that is what carries a peak."
    axis = plots.linear("operations in a call", plots.highest(lines))
    return _time_figure("Batch size over time", said, run, lines, axis, of, lambda mean: f"{mean:.1f}")


def _cpu(run: Run, earlier: Run | None) -> Html | None:
    of: dict[str, Of] = {name: partial(_cores, name) for name in figures.names(run.timeline, "cpu")}
    said = "In cores: 1.0 is one. A process at 1.0 that cannot use a second core is what limits the rate."
    return _per_process("CPU per process", said, "cores", run, earlier, of, figures.cores)


def _memory(run: Run, earlier: Run | None) -> Html | None:
    of: dict[str, Of] = {name: partial(_megabytes, name) for name in figures.names(run.timeline, "memory_bytes")}
    said = "Resident memory in MB. A line that keeps rising under an even load is a leak, or a queue."
    return _per_process("Memory per process", said, "MB", run, earlier, of, "{:,.1f}".format)


def _cores(name: str, second: Second) -> float | None:
    return second.cpu.get(name)


def _megabytes(name: str, second: Second) -> float | None:
    return second.memory_bytes[name] / 1e6 if name in second.memory_bytes else None


def _per_process(
    title: str, said: str, label: str, run: Run, earlier: Run | None, of: dict[str, Of], written: Callable[[float], str]
) -> Html | None:
    if not of:
        return None
    lines = _over_time(of, run, earlier)
    return _time_figure(title, said, run, lines, plots.linear(label, plots.highest(lines)), of, written)


def _over_time(of: dict[str, Of], run: Run, earlier: Run | None) -> list[Line]:
    drawn = []
    for r in (run, earlier):
        points, each_s = figures.thinned(r.timeline) if r else ([], 1)
        for colour, (name, get) in enumerate(of.items()):
            line = [(second.at_s + each_s / 2, get(second)) for second in points]
            if r is run or any(value is not None for _, value in line):
                drawn.append(Line(name + (", earlier" if r is earlier else ""), line, colour, earlier=r is earlier))
    return drawn


def _time_figure(
    title: str, said: str, run: Run, lines: list[Line], y: Axis, of: dict[str, Of], written: Callable[[float], str]
) -> Html:
    points, each_s = figures.thinned(run.timeline)
    if each_s > 1:
        said += f" A point is {each_s} seconds: rates are their mean, latencies their highest."
    ends = max((point[0] for line in lines for point in line.points), default=1.0) + each_s / 2
    x = plots.time_axis(ends)
    cells = [[_cell(get(second), written) for get in of.values()] for second in points]
    hovers = [
        Hover(second.at_s, second.at_s + each_s, f"{second.at_s} s: {_listed(of, told)}")
        for second, told in zip(points, cells, strict=True)
    ]
    name = title.lower().replace(" ", "-")
    rows = [(str(second.at_s), *told) for second, told in zip(points, cells, strict=True)]
    drawing = plots.lines(name, title, said, (x, y), lines, hovers=hovers)
    return plots.figure(title, said, lines, drawing, table(("second", *of), rows))


def _listed(names: Iterable[str], cells: Iterable[str]) -> str:
    return ", ".join(f"{name} {cell}" for name, cell in zip(names, cells, strict=True))


def _cell(value: float | None, written: Callable[[float], str]) -> str:
    return figures.NOTHING if value is None else written(value)


def _batch_sizes(run: Run, earlier: Run | None) -> Html | None:
    kept = [{size: number for size, number in r.batches if number} for r in (run, earlier) if r]
    kept = [batches for batches in kept if batches]
    if not kept:
        return None
    groups, rows = [], []
    largest = max((size for batches in kept for size in batches if size < BATCH_MAX), default=1)
    for size in sorted({size for batches in kept for size in batches}):
        shares: list[tuple[int, float]] = []
        cells: list[str] = []
        for i, batches in enumerate(kept):
            number = batches.get(size, 0)
            of_calls = number / sum(batches.values())
            of_operations = number * min(size, largest) / sum(min(up_to, largest) * n for up_to, n in batches.items())
            shares += [(2 * i, of_calls), (2 * i + 1, of_operations)]
            cells += [figures.count(number), f"{of_calls:.1%}", f"{of_operations:.1%}"]
        word = "more" if size >= BATCH_MAX else figures.count(size)
        groups.append((word, shares))
        rows.append((word, *cells))
    said = (
        "Blue: of all calls to the ledger, how many were of this size. Orange: of all operations, how many went in such"
        " calls (reckoned by the size's upper edge)." + (" The earlier run is paler." if len(kept) > 1 else "")
    )
    head: tuple[str, ...] = ("operations up to", "calls", "of calls", "of operations")
    head += ("earlier: calls", "of calls", "of operations") * (len(kept) - 1)
    drawing = plots.bars("batches", "Batch sizes", said, "share", groups)
    return plots.figure("Batch sizes", said, [], drawing, table(head, rows))


def grid(made: Sequence[Html]) -> Html:
    return tag("div", joined(*made), class_="plots")
