"""Owns what the command and its generator processes tell each other, as lines of JSON on their pipes."""

from typing import Any, Literal

from msgspec import Struct

Follow = Literal["commit", "release"]


class Pool(Struct, frozen=True):
    """Baskets of one sort, which a stream ``name`` asks to hold."""

    name: str
    hot_share: float
    """Of baskets, those whose first line is the hot SKU."""
    lines: int
    """Lines of a basket; 0 = as many as real baskets have."""


class Assortment(Struct, frozen=True):
    """What is for sale, and where."""

    hot: str
    hot_location: str
    tail: list[str]
    """Most wanted first."""
    locations: list[str]
    events_location: str
    """Where stock events by HTTP raise the tail."""


class Plan(Struct, frozen=True):
    """The first line to a generator process: all that does not change during a run."""

    url: str
    tokens: list[str]
    name: str
    """Of the run: begins each key, order and event."""
    number: int
    processes: int
    seed: int
    connections_max: int
    assortment: Assortment
    pools: list[Pool]
    commit_share: float
    release_share: float
    think_s: float
    """From a hold's answer to its commit or release, on average: evenly from half of it to one and a half."""
    ttl_s: int
    items: int
    """Of a POST of ATP."""
    events: int
    """Of a POST of stock events."""


class Stretch(Struct, frozen=True, tag="stretch"):
    """Offer these streams, at so many a second each from this process, from then on."""

    from_s: float
    """Of the monotonic clock, which all processes of a machine share."""
    seconds: float
    rates: dict[str, float]
    poisson: bool


class Finish(Struct, frozen=True, tag="finish"):
    """Send nothing more; write to this file what became of each hold, when all is answered, and end."""

    path: str


class Cell(Struct, array_like=True):
    """The requests of one kind that were due in one second: what is new since the last report."""

    due_s: int
    """Second of the monotonic clock."""
    kind: str
    scheduled: int
    answered: dict[str, dict[int, int]]
    """Histograms of latency by HTTP status, ``lost`` or ``timeout``."""


class Report(Struct):
    """What a generator process says four times a second."""

    cells: list[Cell]
    late: dict[int, dict[int, int]]
    """By second: histogram of how much later than due requests were taken up."""
    pending: int
    """Requests that wait for their answer, or for a connection."""
    connections: int
    cpu_s: float
    refusals: list[str] = []
    """Why answers were unwelcome: the first of each kind and status."""


class Holds(Struct):
    """What became of each hold of one process; the position in the lists is the number in its key."""

    baskets: list[list[tuple[str, str, int]]]
    """The lines (location, SKU, quantity) of each basket that was asked for."""
    asked: bytes
    """For each hold the basket's index, two bytes each, little endian."""
    states: bytes
    ids: list[str | None]
    raised: dict[str, int]
    """Units of each SKU that acknowledged stock events by HTTP added."""
    unsettled_events: list[str]
    """Bodies of stock events whose answer did not come."""
    odd: list[dict[str, Any]] = []
    """Refusals that cannot be right by themselves: what was available covers what was asked."""


# The state of a hold: one of these, plus ENDING times one of the endings.
UNKNOWN, HELD, REFUSED, NOT_DONE = range(4)
ENDING = 4
NO_ENDING, COMMIT_UNKNOWN, COMMITTED, COMMIT_REFUSED, RELEASE_UNKNOWN, RELEASED, RELEASE_REFUSED = range(7)
