"""Whether a ledger may promise."""

from typing import NamedTuple


class State(NamedTuple):
    """``reasons`` say why it is not ``ready``; ``queue_depth`` counts the operations that wait for the next call."""

    ready: bool
    reasons: list[str]
    queue_depth: int
