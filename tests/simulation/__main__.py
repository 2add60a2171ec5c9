"""The command: runs seeds and says which broke a promise. ``python -m simulation --help``, with tests/ on the path."""

import argparse
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import fresh_database, postgres, running, valkey

from simulation.states import MUST_REACH
from simulation.world import Run, Servers


@contextmanager
def own_servers() -> Iterator[Servers]:
    """Servers for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / name for name in ("valkey", "postgres")]
        for each in folders:
            each.mkdir()
        with (
            running(valkey, folders[0]) as redis,
            running(postgres, folders[1]) as database,
            fresh_database(database.url) as postgres_url,
            Servers.open(redis.url, postgres_url) as servers,
        ):
            yield servers


def seeds_of(first: int, count: int | None, minutes: float | None) -> Iterable[int]:
    """From ``first`` on, so many or for so long."""
    end_s = None if minutes is None else time.monotonic() + 60 * minutes
    for seed in itertools.count(first):
        if (count is not None and seed >= first + count) or (end_s is not None and time.monotonic() > end_s):
            return
        yield seed


def main() -> int:
    """Exit 0 when all promises were kept, 1 when one was broken."""
    parser = argparse.ArgumentParser(prog="simulation", description="The whole service under simulated faults.")
    parser.add_argument("--seed", type=int, help="replay only this one, and show what the ledger's server ran")
    parser.add_argument("--first", type=int, default=1, help="the first of several seeds")
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--minutes", type=float, help="for how long")
    parser.add_argument("--stop", action="store_true", help="at the first that breaks a promise")
    given = parser.parse_args()
    one = given.seed is not None
    count = 1 if one else given.seeds
    if count is None and given.minutes is None:
        count = 100
    reached, requests, operations, broken, ran = Counter[str](dict.fromkeys(MUST_REACH, 0)), 0, 0, list[int](), 0
    began_s = time.monotonic()
    with own_servers() as servers:
        for seed in seeds_of(given.seed if one else given.first, count, given.minutes):
            outcome = Run(servers, seed).run()
            reached.update(outcome.reached)
            requests, operations, ran = requests + outcome.requests, operations + outcome.operations, ran + 1
            if one:
                sys.stdout.write("\n".join(outcome.history) + "\n")
            if outcome.broken:
                broken.append(seed)
                sys.stdout.write(f"seed {seed} broke {outcome.broken}\n  again: make simulate SEED={seed}\n")
                if given.stop:
                    break
    took_s = time.monotonic() - began_s
    never = ", ".join(name for name in MUST_REACH if not reached[name])
    for name, times in sorted(reached.items()):
        sys.stdout.write(f"{times:8}  {name}\n")
    sys.stdout.write(
        f"{ran} seeds from {given.seed if one else given.first}: {operations} operations of the ledger"
        f" in {took_s:.1f} s ({operations / took_s:.0f}/s), {requests} requests; never reached: {never or 'nothing'};"
        f" {len(broken)} broke a promise: {broken[:20]}\n"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
