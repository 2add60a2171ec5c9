"""What the feeds show to Prometheus; made once a process, by the process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LAG_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)


class FeedMetrics:
    """The figures of one consumer of stock events."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "availability_feed_events", "Stock events taken, by what became of them", ["outcome"], registry=registry
        )
        messages = Counter("availability_feed_messages", "Messages settled, by how", ["settled"], registry=registry)
        self.acknowledged = messages.labels("acknowledged")
        self.terminated = messages.labels("terminated")
        self.lag = Histogram(
            "availability_feed_apply_lag_seconds",
            "From the stream having a message to its events being applied",
            buckets=_LAG_BUCKETS_S,
            registry=registry,
        )
        self.waiting = Gauge(
            "availability_feed_waiting_messages",
            "Messages in the stream that were not given out yet",
            registry=registry,
        )
        self.connected = Gauge(
            "availability_feed_connected", "1 while messages are being pulled, else 0", registry=registry
        )
        self.retries = Counter(
            "availability_feed_retries", "Times that a batch had to wait for the ledger or Postgres", registry=registry
        )
        self.restarts = Counter(
            "availability_feed_restarts", "Times that the connection or the consumer was made anew", registry=registry
        )
        self.missing = Counter(
            "availability_feed_missing_events",
            "Events that their sources numbered and that never came: a snapshot is needed",
            registry=registry,
        )
        self.flaws = Gauge(
            "availability_feed_unsafe_settings", "Unsafe settings of the stream or the consumer", registry=registry
        )
