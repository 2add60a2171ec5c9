"""Owns what the comparisons' commands do with what was measured: print it, keep it, say whether every goal is met."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.peers import ledger_alone, over_http, recorded, table
from bench.peers.table import Tables

FAILED: Final = (table.Oversold, recorded.Refused)
"""What ends a comparison without a result."""


async def ledger(runs: int, holds: int, batch: int, out: Path | None) -> bool:
    """The ledger alone."""
    return _told([await ledger_alone.measure(runs, holds, batch, _command(), _progress())], out)


async def peers(runs: int, processes: Sequence[int], seconds: float, only: str, out: Path | None) -> bool:
    """Over HTTP."""
    return _told(await over_http.measure(runs, processes, seconds, only, _command(), _progress()), out)


def _command() -> str:
    return " ".join(["python -m bench", *sys.argv[1:]])


def _progress() -> Console:
    """Beside the result, which goes to standard output."""
    return Console(stderr=True)


def _told(tables: list[Tables], out: Path | None) -> bool:
    print("\n".join(map(table.markdown, tables)))
    if out is not None:
        table.write(tables, out)
    return all(verdict.met for each in tables for verdict in table.verdicts(each))
