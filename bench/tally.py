"""Owns the figures of a run, from what the generators counted in each second and what was seen of the machine."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from bench import histogram
from bench.generators import Counted
from bench.histogram import Counts
from bench.run import Kind, Second, Step
from bench.watch import Sample

SHED: Final = ("429", "503")
P99_MAX_US: Final = 15_000
P999_MAX_US: Final = 50_000
ACCEPTED_SHARE_MIN: Final = 0.98
LATE_P99_MAX_US: Final = 5_000
CORE_SHARE_MAX: Final = 0.9

Cells = Mapping[tuple[int, str], Counted]
"""What was counted, by second of the monotonic clock and kind."""


class Span(NamedTuple):
    """Whole seconds of the monotonic clock."""

    first: int
    seconds: int

    @property
    def end(self) -> int:
        return self.first + self.seconds

    def without(self, seconds: int) -> "Span":
        """The rest, after so many of it."""
        return Span(self.first + seconds, self.seconds - seconds)


class Sum(NamedTuple):
    """Some cells together."""

    scheduled: int
    by_status: dict[str, Counts]

    @property
    def accepted(self) -> Counts:
        """2xx, and the business's own refusals."""
        return histogram.merged(counts for status, counts in self.by_status.items() if is_accepted(status))

    @property
    def shed(self) -> Counts:
        return histogram.merged(self.by_status.get(status, {}) for status in SHED)

    @property
    def failed(self) -> int:
        """Everything else: lost, timed out, answered otherwise."""
        return sum(
            sum(counts.values())
            for status, counts in self.by_status.items()
            if not is_accepted(status) and status not in SHED
        )


def is_accepted(status: str) -> bool:
    """2xx, or a refusal that is the business's own."""
    return status.startswith("2") or status == "409"


def summed(cells: Cells, spans: Iterable[Span], kinds: Iterable[str] | None = None) -> Sum:
    """The cells of these spans, of all kinds or of some."""
    wanted = {second for span in spans for second in range(span.first, span.end)}
    named = None if kinds is None else set(kinds)
    scheduled, by_status = 0, dict[str, Counts]()
    for (second, kind), counted in cells.items():
        if second in wanted and (named is None or kind in named):
            scheduled += counted.scheduled
            for status, counts in counted.answered.items():
                histogram.add(by_status.setdefault(status, {}), counts)
    return Sum(scheduled, by_status)


def kinds(cells: Cells, spans: list[Span]) -> list[Kind]:
    """Each kind that was offered in these spans."""
    found = []
    for name in sorted({kind for _, kind in cells}):
        whole = summed(cells, spans, [name])
        if whole.scheduled:
            statuses = {status: sum(counts.values()) for status, counts in sorted(whole.by_status.items())}
            accepted, shed = histogram.latency(whole.accepted), histogram.latency(whole.shed)
            found.append(Kind(name, whole.scheduled, statuses, accepted, shed))
    return found


def step(cells: Cells, late: Mapping[int, Counts], span: Span, name: str = "") -> Step:
    """The figures of a stretch, and whether it met the goals."""
    whole = summed(cells, [span])
    accepted, shed = whole.accepted, sum(whole.shed.values())
    count = sum(accepted.values())
    p99_us, p999_us = histogram.percentile(accepted, 0.99), histogram.percentile(accepted, 0.999)
    is_late = late_p99_us(late, [span]) > LATE_P99_MAX_US
    holds = (
        *(not is_late, not shed, not whole.failed, count >= ACCEPTED_SHARE_MIN * whole.scheduled),
        *(p99_us <= P99_MAX_US, p999_us <= P999_MAX_US),
    )
    return Step(
        offered_per_second=round(whole.scheduled / span.seconds, 1),
        seconds=span.seconds,
        accepted_per_second=round(count / span.seconds, 1),
        shed=shed,
        failed=whole.failed,
        p50_us=histogram.percentile(accepted, 0.5),
        p99_us=p99_us,
        p999_us=p999_us,
        generator_late=is_late,
        holds=all(holds),
        name=name,
    )


def why_not(found: Step) -> str:
    """Which goals a step missed, in words."""
    reasons = {
        "the generator was late": found.generator_late,
        f"{found.shed:,} shed": found.shed > 0,
        f"{found.failed:,} failed": found.failed > 0,
        f"p99 {found.p99_us / 1_000:.1f} ms": found.p99_us > P99_MAX_US,
        f"p99.9 {found.p999_us / 1_000:.1f} ms": found.p999_us > P999_MAX_US,
        f"{found.accepted_per_second:,.0f}/s accepted": (
            found.accepted_per_second < ACCEPTED_SHARE_MIN * found.offered_per_second
        ),
    }
    said = ", ".join(reason for reason, is_so in reasons.items() if is_so)
    return f"{found.offered_per_second:,.0f}/s: {said}"


def late_p99_us(late: Mapping[int, Counts], spans: Iterable[Span]) -> int:
    """How late requests were taken up, which is the generator's own doing."""
    parts = (late.get(second, {}) for span in spans for second in range(span.first, span.end))
    return histogram.percentile(histogram.merged(parts), 0.99)


def timeline(cells: Cells, late: Mapping[int, Counts], samples: list[Sample], whole: Span) -> list[Second]:
    """Each second of the run, from its first on."""
    return [second_of(cells, late, samples, whole.first, second) for second in range(whole.first, whole.end)]


def second_of(cells: Cells, late: Mapping[int, Counts], samples: list[Sample], first: int, second: int) -> Second:
    """That second, counted from ``first``."""
    found = summed(cells, [Span(second, 1)])
    accepted = found.accepted
    before, after = _around(samples, second)
    return Second(
        at_s=second - first,
        offered=found.scheduled,
        accepted=sum(accepted.values()),
        shed=sum(found.shed.values()),
        failed=found.failed,
        p50_us=histogram.percentile(accepted, 0.5),
        p99_us=histogram.percentile(accepted, 0.99),
        max_us=histogram.percentile(accepted, 1.0),
        operations_per_batch=_operations_per_batch(before, after),
        cpu=cores(before, after),
        memory_bytes={name: usage.memory_bytes for name, usage in after.usage.items()} if after else {},
        late_us=histogram.percentile(late.get(second, {}), 1.0),
    )


def _around(samples: list[Sample], second: int) -> tuple[Sample | None, Sample | None]:
    """The samples taken at the beginning of this second and of the next."""
    at = {round(sample.at_s): sample for sample in samples}
    return at.get(second), at.get(second + 1)


def cores(before: Sample | None, after: Sample | None) -> dict[str, float]:
    """Cores used by each process between two samples."""
    if before is None or after is None or after.at_s <= before.at_s:
        return {}
    seconds = after.at_s - before.at_s
    return {
        name: round(max(0.0, usage.cpu_s - before.usage[name].cpu_s) / seconds, 3)
        for name, usage in after.usage.items()
        if name in before.usage
    }


def between(samples: list[Sample], whole: Span) -> tuple[Sample | None, Sample | None]:
    """The first and the last sample of these seconds."""
    inside = [sample for sample in samples if whole.first - 0.5 <= sample.at_s <= whole.end + 0.5]
    return (inside[0], inside[-1]) if inside else (None, None)


def _operations_per_batch(before: Sample | None, after: Sample | None) -> float | None:
    if before is None or after is None or before.batches is None or after.batches is None:
        return None
    calls = after.batches.calls - before.batches.calls
    return round((after.batches.operations - before.batches.operations) / calls, 2) if calls > 0 else None


def flaws(late: Mapping[int, Counts], spans: list[Span], cores_used: Mapping[str, float]) -> list[str]:
    """Why the figures must not be used: the generator did not do what it was to do."""
    late_us = late_p99_us(late, spans)
    found = []
    if late_us > LATE_P99_MAX_US:
        found.append(
            f"the generator was late: p99 of {late_us / 1_000:.1f} ms is more than {LATE_P99_MAX_US / 1_000:.0f} ms; "
            "offer less, give it more --processes, or a machine of its own"
        )
    for name, used in cores_used.items():
        if name.startswith("generator") and used > CORE_SHARE_MAX:
            found.append(f"{name} used {used:.0%} of its core: give it more --processes")
    return found
