"""What can go wrong with the ledger itself, and what each says about the operation that was tried.

LedgerError
├── Overloaded    the queue or the journal's backlog is full    surely not done, try again after retry_after_ms
├── Unavailable   no ledger to ask, or one that must not serve  surely not done
└── Unknown       the reply was lost                            done or not: the operation's key settles it

A refusal ("insufficient stock") is not in this tree: it is an outcome, see ``ledger.messages``.
"""


class LedgerError(Exception):
    """Any failure of the ledger; never a refusal."""


class Overloaded(LedgerError):
    """Refused before it was tried, because something is full; nothing was changed."""

    def __init__(self, detail: str, retry_after_ms: int = 1_000) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_ms = retry_after_ms


class Unavailable(LedgerError):
    """There is no ledger that may decide this now; nothing was changed."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Unknown(LedgerError):
    """The operation was sent and its answer was lost; asking for its key settles whether it was done."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
