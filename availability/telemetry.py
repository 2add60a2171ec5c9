"""The figures that a process shows to Prometheus, all named ``availability_…``; cheap to note on the hot path."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ledger import SourceStatus, Status

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5)
_LEDGER_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0)
_OUTCOME_LABELS = ("route", "outcome")
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


SOURCES_MAX = 100
"""Sources that have a figure of their own: their names come from outside, and each is a series for Prometheus."""
OTHER_SOURCES = "(others)"


def _lagging(sources: Sequence[SourceStatus]) -> dict[str, int]:
    """When the newest event of each source was; beyond ``SOURCES_MAX``, of the one that has been silent for longest."""
    newest = {source.source: source.newest_occurred_at_ms for source in sources[:SOURCES_MAX]}
    if others := sources[SOURCES_MAX:]:
        newest[OTHER_SOURCES] = min(source.newest_occurred_at_ms for source in others)
    return newest


class _Requests(Collector):
    """Requests as they are counted: by additions to plain lists, and made into figures when somebody asks."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, list[float]] = {}
        """By route: how many took up to each bound and longer than the one before; the sum of the seconds last."""

    def note(self, route: str, outcome: str, seconds: float) -> None:
        name = route, outcome
        self._outcomes[name] = self._outcomes.get(name, 0) + 1
        figures = self._seconds.get(route)
        if figures is None:
            figures = self._seconds[route] = [0.0] * (len(_REQUEST_SECONDS) + 2)
        figures[bisect_left(_REQUEST_SECONDS, seconds)] += 1
        figures[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        counted = CounterMetricFamily("availability_requests", "Requests by route and outcome", labels=_OUTCOME_LABELS)
        for name, number in self._outcomes.items():
            counted.add_metric(name, number)
        yield counted
        timed = HistogramMetricFamily(
            "availability_request_seconds", "From the request's head to its answer", labels=["route"]
        )
        bounds = [*map(str, _REQUEST_SECONDS), "+Inf"]
        for route, (*numbers, seconds) in self._seconds.items():
            timed.add_metric([route], list(zip(bounds, accumulate(numbers), strict=True)), seconds)
        yield timed


class _Shed(Collector):
    """What was refused because there was too much, counted by who refused it."""

    def __init__(self, counted: Callable[[], Mapping[str, int]]) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        """The counts of now."""
        shed = CounterMetricFamily(
            "availability_shed", "Requests and operations refused because there was too much", labels=["reason"]
        )
        for reason, count in sorted(self._counted().items()):
            shed.add_metric([reason], count)
        yield shed


class Checks(Collector):
    """What the checks of the servers found, counted by verdict."""

    def __init__(self, counted: Callable[[], Mapping[str, int]]) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        """The counts of now."""
        counts = self._counted()
        found = GaugeMetricFamily(
            "availability_check_findings", "What the last checks of the servers found", labels=["verdict"]
        )
        for verdict in ("ok", "warning", "unchecked", "unsafe"):
            found.add_metric([verdict], counts.get(verdict, 0))
        yield found


class Telemetry:
    """The API's figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._requests = _Requests()
        self.registry.register(self._requests)
        self.request = self._requests.note
        """An answered request. Both words come from our own declarations: their number is bounded."""
        self._batch_size = Histogram(
            "availability_ledger_batch_operations",
            "Operations in a call to the ledger's server",
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self._ledger_seconds = Histogram(
            "availability_ledger_call_seconds",
            "How long a call to the ledger's server took",
            buckets=_LEDGER_SECONDS,
            registry=self.registry,
        )
        self._queue_depth = self._gauge("availability_ledger_queue_depth", "Operations that wait for the next call")
        self._queue_wait = self._gauge(
            "availability_ledger_queue_wait_seconds", "How long the oldest operation has waited for its call"
        )
        self._under_way = self._gauge("availability_requests_under_way", "Requests let in and not yet answered", "lane")
        self._limit = self._gauge("availability_requests_limit", "Requests that may be under way now", "lane")
        self._loop_lag = self._gauge("availability_loop_lag_seconds", "How late the event loop is, in the last 0.1 s")
        self._journal_lag = self._gauge(
            "availability_journal_lag_seconds", "Age of the oldest entry that the journal has not got", "shard"
        )
        self._journal_backlog = self._gauge(
            "availability_journal_backlog_entries", "Entries that the journal has not got", "shard"
        )
        self._journal_checked = self._gauge(
            "availability_journal_checked_seconds", "Since a journaler last looked; grows when none runs", "shard"
        )
        self._feed_lag = self._gauge(
            "availability_feed_lag_seconds", "Age of the newest event that a source has sent", "source"
        )
        self._quarantine = self._gauge("availability_quarantine_size", "Events that wait for a person")
        self._rejects = self._gauge("availability_journal_rejects", "Journal entries that were not taken as they were")
        self._overcommitted = self._gauge(
            "availability_overcommitted_positions", "Positions whose claims exceed what is there"
        )

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def ledger_call(self, operations: int, seconds: float) -> None:
        """A call to the ledger's server."""
        self._batch_size.observe(operations)
        self._ledger_seconds.observe(seconds)

    def queue(self, depth: Callable[[], int], wait_s: Callable[[], float]) -> None:
        """Whom to ask for the queue's depth, and for how long its oldest operation waits, when the figures are read."""
        self._queue_depth.set_function(depth)
        self._queue_wait.set_function(wait_s)

    def shed(self, counted: Callable[[], Mapping[str, int]]) -> None:
        """Whom to ask what was refused because there was too much, by reason."""
        self.registry.register(_Shed(counted))

    def checks(self, counted: Callable[[], Mapping[str, int]]) -> None:
        """Whom to ask what the checks of the servers found, by verdict."""
        self.registry.register(Checks(counted))

    def lane(self, name: str, under_way: Callable[[], int], limit: Callable[[], int]) -> None:
        """Whom to ask for the requests of a lane."""
        self._under_way.labels(name).set_function(under_way)
        self._limit.labels(name).set_function(limit)

    def loop_lag(self, lag_s: Callable[[], float]) -> None:
        """Whom to ask for how late the event loop is."""
        self._loop_lag.set_function(lag_s)

    def status(self, status: Status, now_ms: int) -> None:
        """What the journal's database says of the journal, the feeds and the quarantine."""
        for shard in status.shards:
            label = str(shard.shard)
            self._journal_lag.labels(label).set(shard.lag_ms / 1_000)
            self._journal_backlog.labels(label).set(shard.backlog_entries)
            if shard.checked_ms_ago is not None:
                self._journal_checked.labels(label).set(shard.checked_ms_ago / 1_000)
        for source, at_ms in _lagging(status.sources).items():
            self._feed_lag.labels(source).set(max(0, now_ms - at_ms) / 1_000)
        self._quarantine.set(status.quarantine_open)
        self._rejects.set(status.rejects)
        self._overcommitted.set(status.overcommitted)

    def page(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
