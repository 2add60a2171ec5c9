"""Owns how the bench's figures read, in the terminal as in the report, and what is drawn of a run's many figures."""

import math
from collections.abc import Callable, Iterable, Sequence

from bench.run import Kind, Latency, Run, Second
from bench.tally import SHED, is_accepted

POINTS_MAX = 90
"""Of a line over time: more cannot be seen, and each is in the report three times."""
CURVE_POINTS_MAX = 160
NOTHING = "-"


def time(us: float | None) -> str:
    """``870 µs``, ``12.3 ms``, ``1.25 s``; three digits at most."""
    if us is None:
        return NOTHING
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= size:
            return f"{_three_digits(us / size)} {unit}"
    return f"{us:.0f} µs"


def count(number: float) -> str:
    """Whole, with commas."""
    return f"{number:,.0f}"


def rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s"


def cores(share: float) -> str:
    return f"{share:.2f}"


def size(count_bytes: float) -> str:
    """In MB of 10⁶ bytes."""
    return f"{count_bytes / 1e6:,.1f} MB"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.2%}" if whole else NOTHING


def seconds(duration_s: float) -> str:
    return f"{duration_s:,.0f} s" if duration_s >= 10 else f"{duration_s:.1f} s"


def _three_digits(number: float) -> str:
    return f"{number:,.{max(0, 2 - int(math.log10(number)))}f}" if number >= 1 else f"{number:.2f}"


def accepted(kinds: Iterable[Kind]) -> int:
    return sum(kind.accepted.count for kind in kinds)


def shed(kinds: Iterable[Kind]) -> int:
    return sum(kind.shed.count for kind in kinds)


def failed(kind: Kind) -> dict[str, int]:
    """What was neither done nor refused nor shed, by how it ended."""
    return {
        how: number for how, number in kind.by_status.items() if number and not is_accepted(how) and how not in SHED
    }


def scheduled(run: Run) -> int:
    return sum(kind.scheduled for kind in run.kinds)


def curve(latency: Latency) -> list[tuple[float, float]]:
    """The latency by percentile: [one in how many is slower or as slow, microseconds], both rising.

    Thinned out so that the tail, where each point is a rare request, keeps the most of them.
    """
    points, before = [], 0
    for edge_us, number in latency.counts:
        if number:
            points.append((latency.count / max(1, latency.count - before), float(edge_us)))
            before += number
    if len(points) <= CURVE_POINTS_MAX:
        return points
    step = math.log(points[-1][0]) / CURVE_POINTS_MAX
    kept, drawn_up_to = [], -1.0
    for point in points:
        if math.log(point[0]) >= drawn_up_to or point is points[-1]:
            kept.append(point)
            drawn_up_to = math.log(point[0]) + step
    return kept


def thinned(timeline: Sequence[Second]) -> tuple[list[Second], int]:
    """At most ``POINTS_MAX`` points and how many seconds each stands for.

    Of several seconds, rates and shares are their mean, latencies and the generator's lateness their highest.
    """
    each_s = max(1, math.ceil(len(timeline) / POINTS_MAX))
    if each_s == 1:
        return list(timeline), 1
    return [_merged(timeline[at : at + each_s]) for at in range(0, len(timeline), each_s)], each_s


def _merged(some: Sequence[Second]) -> Second:
    def mean(of: Callable[[Second], int]) -> int:
        return round(sum(map(of, some)) / len(some))

    batches = [second.operations_per_batch for second in some if second.operations_per_batch is not None]
    return Second(
        at_s=some[0].at_s,
        offered=mean(lambda second: second.offered),
        accepted=mean(lambda second: second.accepted),
        shed=mean(lambda second: second.shed),
        failed=math.ceil(sum(second.failed for second in some) / len(some)),  # one failure must not vanish
        p50_us=max(second.p50_us for second in some),
        p99_us=max(second.p99_us for second in some),
        max_us=max(second.max_us for second in some),
        operations_per_batch=sum(batches) / len(batches) if batches else None,
        cpu={name: sum(second.cpu.get(name, 0.0) for second in some) / len(some) for name in names(some, "cpu")},
        memory_bytes={
            name: max(second.memory_bytes.get(name, 0) for second in some) for name in names(some, "memory_bytes")
        },
        late_us=max(second.late_us for second in some),
    )


def names(some: Iterable[Second], field: str) -> list[str]:
    """The processes that a field tells of, in the order in which they appear."""
    return list(dict.fromkeys(name for second in some for name in getattr(second, field)))
