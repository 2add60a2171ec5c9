"""Runs as the bench would write them, made up: small, even, and without a machine."""

import math
from typing import Any

import msgspec

from bench.run import Check, Kind, Knee, Latency, Run, Second, Step

PROCESSES = {"api": 0.61, "valkey": 0.22, "journal": 0.31, "generator-1": 0.44}


def latency(count: int = 20_000, p50_us: float = 900.0) -> Latency:
    """A tail that is three times longer with each further nine."""
    edges = [round(p50_us * 3 ** (i / 8)) for i in range(-8, 33)]
    # One in 10^i is slower than edge i, in steps of an eighth.
    slower = [min(1.0, 0.5 * 10 ** (-i / 8)) if i >= 0 else 1 - 0.5 * 10 ** (i / 8) for i in range(-8, 33)]
    beyond = [*(round(count * share) for share in slower[:-1]), 0]
    counts, left = [], count
    for edge, rest in zip(edges, beyond, strict=True):
        counts.append((edge, left - min(left, rest)))
        left = min(left, rest)

    def at(share: float) -> int:
        before = 0
        for edge, number in counts:
            before += number
            if before >= share * count:
                return edge
        return edges[-1]

    slowest = max((edge for edge, number in counts if number), default=0)
    p50, p90, p99, p999 = (at(share) for share in (0.5, 0.9, 0.99, 0.999))
    return Latency(count, p50_us * 1.4, slowest, p50, p90, p99, p999, [pair for pair in counts if pair[1]])


NONE = Latency(0, 0.0, 0, 0, 0, 0, 0, [])


def kind(name: str, count: int = 20_000, p50_us: float = 900.0, **changed: Any) -> Kind:
    whole = Kind(name, count, {"201": count - count // 5, "409": count // 5}, latency(count, p50_us), NONE)
    return msgspec.structs.replace(whole, **changed)


def second(at_s: int, rate: int = 1_000, p50_us: int = 900) -> Second:
    wave = 1 + 0.1 * math.sin(at_s)
    return Second(
        *(at_s, rate, round(rate * 0.98), round(rate * 0.02), 0, round(p50_us * wave), round(9 * p50_us * wave)),
        max_us=round(30 * p50_us * wave),
        operations_per_batch=5 * wave,
        cpu={name: cores * wave for name, cores in PROCESSES.items()},
        memory_bytes={"api": 90_000_000 + 1_000 * at_s, "valkey": 30_000_000},
        late_us=round(200 * wave),
    )


def step(per_second: float, *, holds: bool = True, p50_us: int = 900) -> Step:
    return Step(
        *(per_second, 10.0, per_second if holds else per_second * 0.7, 0 if holds else 900, 0, p50_us),
        p99_us=9 * p50_us if holds else 200_000,
        p999_us=25 * p50_us if holds else 900_000,
        generator_late=False,
        holds=holds,
    )


def run(p50_us: int = 900, **changed: Any) -> Run:
    """A minute at 1,000 a second."""
    whole = Run(
        scenario="flash-sale",
        started_at="2026-11-23T17:00:00Z",
        seconds=60.0,
        target="http://127.0.0.1:8000",
        commit="abc1234",
        machine={"cpu": "2 x Xeon 2.3 GHz", "memory": "24 GB"},
        options={"rate": 1_000, "seconds": 60, "feeds": True, "target": None},
        valid=True,
        flaws=[],
        kinds=[
            kind("hold-hot", 20_000, p50_us),
            kind("hold-tail", 30_000, p50_us * 0.8),
            kind("commit", 10_000, p50_us * 0.6),
        ],
        timeline=[second(at_s, 1_000, p50_us) for at_s in range(60)],
        steps=[step(1_000.0, p50_us=p50_us)],
        knee=None,
        batches=[(1, 300), (2, 500), (4, 900), (8, 1_400), (16, 400), (32, 60)],
        cpu=PROCESSES,
        checks=[
            Check("no oversell", True, "0 positions below 0"),
            Check("no acknowledgement is lost", True, "48,000 of 48,000"),
        ],
    )
    return msgspec.structs.replace(whole, **changed)


def stepped(p50_us: int = 900, knee: float = 3_000.0) -> Run:
    """A search for the knee."""
    rates = (500.0, 1_000.0, 2_000.0, 3_000.0, 4_000.0)
    steps = [step(rate, holds=rate <= knee, p50_us=p50_us) for rate in rates]
    return run(p50_us, steps=steps, knee=Knee(knee, "at 4,000/s p99 is 200 ms"))
