"""Owns the rule that a ledger which has lost what its journal has is never changed (DESIGN 5, 8; P9).

Every process that changes the ledger opens it by ``watched_ledger``: the ledger itself then refuses all changes, with
the reason, until it was compared with its journal. So events stay in their stream, holds are refused and nothing
expires, without a word about it in the callers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

from availability.processes import ledger_of
from availability.self_check import SelfCheck, self_checked
from availability.settings import Settings
from ledger import JOURNAL_FAILED, Finding, Journal, JournalEnd, Ledger, LedgerError, Place, Standing

COMPARED_EVERY_S: Final = 1.0
RETRY_S: Final = 0.25
"""While the ledger may not be changed, or does not answer."""

NOT_COMPARED: Final = "the ledger was not compared with its journal since its server was started"
REMEDY: Final = (
    "stop it, put the newest data folder of its Valkey back, and start it again; or run `availability rebuild`"
)

log = logging.getLogger(__name__)


class Ends(Protocol):
    """The journal, as far as it is compared. Raises one of ``JOURNAL_FAILED`` when it cannot be asked."""

    async def end(self, shard: int, /) -> JournalEnd: ...


class Stands(Protocol):
    """The ledger, as far as it is compared. Raises ``LedgerError`` when it cannot be asked."""

    @property
    def shards(self) -> int: ...

    async def standing(self, shard: int, at: Place, /) -> Standing: ...


class JournalWatch:
    """What is known of a ledger and its journal. Both are asked directly: nobody's report of a while ago is believed.

    A ledger that was compared may be changed for as long as its server runs, also when Postgres is away later: the
    bound of the ledger's stream is the back-pressure. A server that was started again may have come back with less.
    """

    def __init__(self, journal: Ends) -> None:
        self._journal = journal
        self._compared_runs: dict[int, str] = {}
        self._reasons: dict[int, str] = {}

    def refusal(self, shard: int, run: str) -> str | None:
        """Why a shard must not be changed whose server's run this is; None when it may be."""
        if shard in self._compared_runs and self._compared_runs[shard] == run:
            return None
        return self._reasons.get(shard, NOT_COMPARED)

    async def compare(self, ledger: Stands) -> str | None:
        """Compare now; why the ledger must not be changed. Raises ``LedgerError`` or one of ``JOURNAL_FAILED``."""
        flaws = []
        failure: LedgerError | None = None
        for shard in range(ledger.shards):
            try:
                flaws.append(await self._compare(ledger, shard))
            except LedgerError as error:
                failure = error  # the other shards go on
        if failure is not None:
            raise failure
        return next(filter(None, flaws), None)

    async def _compare(self, ledger: Stands, shard: int) -> str | None:
        end = await self._journal.end(shard)  # first, because both go on meanwhile, the ledger ahead
        standing = await ledger.standing(shard, end.place)
        flaw = _flaw(end, standing, thorough=standing.run != self._compared_runs.get(shard))
        if flaw is None:
            self._compared_runs[shard] = standing.run
        else:
            self._compared_runs.pop(shard, None)
        self._reasons[shard] = flaw or NOT_COMPARED
        return flaw

    async def watch(self, ledger: Stands) -> None:
        """Compare again and again, and say in the log when the answer changes."""
        said: dict[int, str] = {}
        while True:
            pause_s = RETRY_S
            try:
                if await self.compare(ledger) is None:
                    pause_s = COMPARED_EVERY_S
            except LedgerError:
                pass  # it says itself why
            except JOURNAL_FAILED as error:
                for shard in set(range(ledger.shards)) - self._compared_runs.keys():
                    reason = f"{NOT_COMPARED}: Postgres cannot be asked ({type(error).__name__})"
                    self._reasons[shard] = reason
            for shard in range(ledger.shards):
                reason = "none is known" if shard in self._compared_runs else self._reasons.get(shard, NOT_COMPARED)
                if reason != said.get(shard):
                    log.warning("reason to change nothing in shard %d of the ledger: %s", shard, reason)
                said[shard] = reason
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def watched_ledger(
    settings: Settings,
    observe: Callable[[int, float], None] = lambda _operations, _seconds: None,
    checked: SelfCheck | None = None,
) -> AsyncIterator[Ledger]:
    """The ledger that the settings name, which refuses changes as its watch and the checks of its servers say.

    ``observe`` as in ``Ledger``; ``checked`` when the caller has the checks already.
    """
    if checked is None:
        async with self_checked(settings) as own, watched_ledger(settings, observe, own) as ledger:
            yield ledger
        return
    async with _opened(settings, observe, checked) as (ledger, watch), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch.watch(ledger))
        try:
            yield ledger
        finally:
            watching.cancel()


@asynccontextmanager
async def compared_ledger(settings: Settings) -> AsyncIterator[tuple[Ledger, str | None]]:
    """For a tool that runs once: the ledger, compared, and why it refuses changes, None when it does not.

    Raises ``LedgerError`` or one of ``JOURNAL_FAILED`` when it cannot be compared.
    """
    checked = SelfCheck(settings)
    await checked.look()
    async with _opened(settings, lambda _operations, _seconds: None, checked) as (ledger, watch):
        yield ledger, await watch.compare(ledger) or checked.refusal


async def compared(settings: Settings) -> list[Finding]:
    """For ``doctor``: why the ledger may not be changed, by its journal. Nothing where one of them cannot be asked."""
    try:
        async with _opened(settings, lambda _operations, _seconds: None, SelfCheck(settings)) as (ledger, watch):
            flaw = await watch.compare(ledger)
    except (LedgerError, *JOURNAL_FAILED):
        return []  # whoever looks at the servers tells that
    return [Finding("unsafe", "the ledger", flaw.removeprefix("the ledger "), stops=True)] if flaw else []


@asynccontextmanager
async def _opened(
    settings: Settings, observe: Callable[[int, float], None], checked: SelfCheck
) -> AsyncIterator[tuple[Ledger, JournalWatch]]:
    journal = await Journal.open(settings.postgres_url)
    watch = JournalWatch(journal)

    def refusal(shard: int, run: str) -> str | None:
        flaw = watch.refusal(shard, run)
        if flaw is None or checked.refusal is None:
            return flaw or checked.refusal
        return f"{flaw}; {checked.refusal}"

    ledger = ledger_of(settings, observe, refusal)
    try:
        yield ledger, watch
    finally:
        await ledger.close()
        await journal.close()


def _flaw(end: JournalEnd, standing: Standing, *, thorough: bool) -> str | None:
    """Why the ledger is not the one that wrote the journal. ``thorough`` compares more than the numbers.

    A ledger that lost entries and wrote others has the right number soon, but not the journal's entry at it.
    """
    if standing.place < end.place:
        return f"the ledger is behind its journal (at {standing.place}, the journal at {end.place}): {REMEDY}"
    same_epoch = standing.place.epoch == end.place.epoch
    if thorough and same_epoch and end.entry is not None and standing.entry != end.entry:
        return f"the ledger is not the one of its journal (their entries {end.place} differ): {REMEDY}"
    return None
