"""Owns ``availability audit``: the ledger against its journal, each difference told with its evidence and a remedy.

Exit codes: 0 = all agrees, 1 = something differs, 2 = it could not be compared.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from availability import embedded
from availability.instance import Refused
from availability.instance_servers import servers_of
from availability.settings import Settings
from availability.terminal import shown_progress
from ledger import JOURNAL_FAILED, LIVE_FAILED, MEANINGS, Audit, Difference, Kind, NotAudited

FAILED = (*JOURNAL_FAILED, *LIVE_FAILED, NotAudited, Refused, embedded.NotReady, embedded.Unusable)

STEPS: Final = {
    "load": "the newest checkpoint is read",
    "journal": "the journal is folded",
    "sku": "positions are compared",
    "key": "windows and views are compared",
    "count": "counts are compared",
    "op": "reservations are compared",
    "client": "clients are compared",
    "settle": "suspects are settled",
    "late": "what is overdue is given time",
    "movements": "the journal is read again",
}
_LEDGER: Final = (
    "the ledger is not what its journal says: find out who wrote into Valkey, then `availability rebuild` makes the"
    " ledger from the journal"
)
_JOURNAL: Final = (
    "the journal itself was changed: find out who wrote into Postgres, and start `availability journal` again, which"
    " takes what the ledger's stream still has; what is missing then is in a backup of Postgres; no `rebuild` before"
)
_AFTER_JOURNAL: Final = "this may be the journal's fault: mend the journal first, see below, and audit again"
_BROKEN: Final[frozenset[Kind]] = frozenset({"journal-gap", "journal-altered", "entry-unreadable", "journal-skipped"})
"""With one of these, what the ledger is compared with is not to be relied on."""
_RULES: Final = "the ledger contradicts itself: keep a copy of both servers' data, and report it"
REMEDIES: Final[dict[Kind, str]] = {
    "position-differs": _LEDGER,
    "position-lost": _LEDGER,
    "position-unjournaled": _LEDGER,
    "window-differs": _LEDGER,
    "view-differs": _LEDGER,
    "count-differs": _LEDGER,
    "location-differs": _LEDGER,
    "safety-stock-differs": _LEDGER,
    "overcommitted-differs": _LEDGER,
    "reservation-differs": _LEDGER,
    "claim-without-reservation": _LEDGER,
    "reservation-unjournaled": _LEDGER,
    "operation-differs": _LEDGER,
    "operation-unjournaled": _LEDGER,
    "client-differs": _LEDGER,
    "ledger-behind": _LEDGER,
    "claims-unbalanced": _RULES,
    "entry-unbalanced": _RULES,
    "entry-unreadable": _JOURNAL,
    "journal-gap": _JOURNAL,
    "journal-skipped": (
        "Valkey lost entries before the journal got them, or its number was changed: compare with the stock that you"
        " know; `availability rebuild --damaged` begins a new epoch without them"
    ),
    "journal-altered": _JOURNAL,
    "journal-cursor": "see whether `availability journal` runs; when it starts, it mends its cursor",
    "movements-differ": "rows of the table movement were changed: what reads them is wrong, the ledger is not",
    "hold-overdue": "see whether `availability keeper` runs, and what it says",
    "spanning-leftover": "see whether `availability keeper` runs, and what it says",
    "events-skipped": "the outbox's cursor was changed: `availability republish` announces again what was left out",
    "events-behind": "see whether `availability journal` runs and reaches NATS, and what it says",
}
SHOWN_MAX: Final = 50


async def run(settings: Settings, data_dir: Path | None, *, as_json: bool, from_start: bool) -> int:
    """Audit the ledger of the settings, or of the instance in ``data_dir``, once.

    ``from_start`` reads all of the journal, and no checkpoint.
    """
    try:
        async with servers_of(settings, data_dir, beside_up=True) as known:
            audit = await Audit.open(known.redis_url, known.postgres_url, known.shards)
            try:
                checkpoint = await _round(audit, None if from_start else known.postgres_url)
            finally:
                await audit.close()
    except FAILED as error:
        click.echo(f"not audited ({type(error).__name__}): {error}", err=True)
        return 2
    if as_json:
        click.echo(msgspec.json.encode({"checkpoint": checkpoint, **_told(audit)}))
    else:
        for line in _lines(audit, checkpoint):
            click.echo(line)
    return 1 if audit.differences else 0


async def _round(audit: Audit, checkpoints_url: str | None) -> int | None:
    """The number of the checkpoint that it began from; ``checkpoints_url`` is where there may be one."""
    checkpoint = None
    with shown_progress(STEPS) as tell:
        if checkpoints_url is not None:
            checkpoint = await audit.begin_from_checkpoint(
                checkpoints_url, lambda done, total: tell("load", done, total)
            )
        async for step in audit.round():
            tell(*step)
    return checkpoint


def _told(audit: Audit) -> dict[str, Any]:
    return {
        "agrees": not audit.differences,
        "entries": audit.entries,
        **audit.size._asdict(),
        "counts": audit.counts,
        "differences": audit.differences,
    }


def _lines(audit: Audit, checkpoint: int | None) -> Iterable[str]:
    size = audit.size
    compared = f"{size.positions:,} positions and {size.reservations:,} reservations, {audit.entries:,} journal entries"
    if checkpoint is not None:
        compared += f" since checkpoint {checkpoint} (`--from-start` reads all)"
    if not audit.differences:
        yield f"the ledger is what its journal says: {compared}"
        return
    for difference in audit.differences[:SHOWN_MAX]:
        yield from _lines_of(difference)
    counts = audit.counts
    if counts.total() > SHOWN_MAX:
        yield f"… and {counts.total() - SHOWN_MAX:,} more"
    yield f"{counts.total():,} differences in {compared}:"
    is_broken = not _BROKEN.isdisjoint(counts)
    for kind, count in counts.most_common():
        remedy = _AFTER_JOURNAL if is_broken and REMEDIES[kind] is _LEDGER else REMEDIES[kind]
        yield f"  {count:,} {kind}: {remedy}"


def _lines_of(difference: Difference) -> Iterable[str]:
    yield f"{difference.kind}: {difference.subject} (shard {difference.shard}, at {difference.place})"
    yield f"  {MEANINGS[difference.kind]}"
    for name, said in (("found", difference.live), ("the journal", difference.journal)):
        if said is not None:
            yield f"  {name}: {json.dumps(said, default=str)}"
    if difference.entries:
        yield f"  last touched by entries {', '.join(difference.entries)}"
    yield ""
