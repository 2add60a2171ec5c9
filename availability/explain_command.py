"""Owns ``availability explain``: one position's number in its parts, now or at a time that has passed.

Exit codes: 0 = explained, 1 = the journal knows of no such position at that time, 2 = it could not be asked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from availability import embedded
from availability.instance import Refused
from availability.instance_servers import servers_of
from availability.settings import Settings
from availability.shapes import NO_TIME, ms_of_text, time_text
from availability.terminal import printable, shown_progress, table
from ledger import JOURNAL_FAILED, Explanation, PositionMovement, Unexplained, Unreadable
from ledger import explain as explain_position

FAILED = (*JOURNAL_FAILED, Unreadable, Refused, embedded.NotReady, embedded.Unusable)
SHOWN_MAX: Final = 20
"""Parts of a sum that are told one by one."""
COLUMNS: Final = ("TIME", "VERB", "FROM", "TO", "QUANTITY", "WHAT", "AUTHOR", "ENTRY")


class Asked(NamedTuple):
    """What to explain; ``at`` is a time as people write it."""

    sku: str
    location: str
    at: str | None
    movements: int
    as_json: bool


async def run(settings: Settings, data_dir: Path | None, asked: Asked) -> int:
    """Explain a position of the ledger of the settings, or of the instance in ``data_dir``."""
    try:
        at_ms = None if asked.at is None else ms_of_text(asked.at)
    except ValueError:
        click.echo(NO_TIME.format(asked.at), err=True)
        return 2
    try:
        async with servers_of(settings, data_dir, beside_up=True) as known:
            found = await _explained(known, asked, at_ms)
    except FAILED as error:
        click.echo(f"not explained ({type(error).__name__}): {error}", err=True)
        return 2
    if asked.as_json:
        click.echo(msgspec.json.encode(_told(found)))
    else:
        lines = _lines(found) if isinstance(found, Explanation) else _nothing(asked, found)
        for line in lines:
            click.echo(printable(line))
    return 0 if isinstance(found, Explanation) else 1


def _told(found: Explanation | Unexplained) -> dict[str, Any]:
    fields = msgspec.structs.asdict(found)
    if isinstance(found, Explanation):
        fields["position"] = msgspec.structs.asdict(found.position)
    return {"known": isinstance(found, Explanation), "explanation": fields}


async def _explained(known: Settings, asked: Asked, at_ms: int | None) -> Explanation | Unexplained:
    with shown_progress({"read": "the journal is read"}) as tell:
        return await explain_position(
            *(known.postgres_url, known.shards, asked.sku, asked.location),
            at_ms=at_ms,
            movements_max=asked.movements,
            progress=lambda done, total: tell("read", done, total),
        )


def _nothing(asked: Asked, found: Unexplained) -> Iterator[str]:
    if found.begins_at_ms is None:
        yield "the journal has no entry yet: nothing was ever known here"
        return
    if found.at_ms < found.begins_at_ms:
        yield f"the journal begins at {time_text(found.begins_at_ms)}: before that nothing is known"
        return
    yield f"by {time_text(found.at_ms)} nobody had told of {asked.sku} at {asked.location}"
    if found.locations:
        yield f"it was known at {', '.join(found.locations[:SHOWN_MAX])}"
    else:
        yield "nor anywhere else: is it written as in the stock events, in the same case?"


def _lines(found: Explanation) -> Iterator[str]:
    position = found.position
    yield (
        f"{found.available:,} are available of {found.sku} at {found.location}, at {time_text(found.at_ms)}"
        f" (as entry {found.entry} of shard {found.shard} left it)"
    )
    yield ""
    yield _sum("on hand", position.on_hand)
    yield from _on_hand(found)
    for state in ("held", "committed", "picked"):
        yield _sum(f"- {state}", getattr(position, state))
        yield from _claims(found, state)
    yield _sum("- safety stock", position.safety_stock)
    if found.overdue:
        yield _sum("+ overdue", found.overdue) + "   held beyond their deadline: free in the next decision"
    whole = position.available + found.overdue
    yield _sum("= available", whole)
    if not found.is_enabled:
        yield "    the location is closed: nothing of it is promised, so the answer is 0"
    elif whole < 0:
        yield "    more is claimed than is there: the position is overcommitted, and the answer is 0"
    yield ""
    if not found.movements:
        yield "no movement was asked for, or none was told"
        return
    yield "the newest movements:"
    yield from table([COLUMNS, *map(_cells, found.movements)])


def _sum(name: str, units: int) -> str:
    return f"  {name:<16}{units:>12,}"


def _part(sign: str, units: int, text: str) -> str:
    return f"      {sign} {units:>9,}  {text}"


def _on_hand(found: Explanation) -> Iterator[str]:
    if found.base is not None:
        kind = "events up to" if found.base.is_folded else "snapshot of"
        yield _part(" ", found.base.quantity, f"{kind} {_when(found.base.as_of_ms)}{_of(found.base)}")
    for delta in found.deltas[:SHOWN_MAX]:
        yield _part("+", delta.quantity, f"{delta.kind} of {time_text(delta.at_ms)}{_of(delta)}")
    rest = found.deltas[SHOWN_MAX:]
    if rest:
        yield _part("+", sum(delta.quantity for delta in rest), f"{len(rest):,} more, older")
    if found.other:
        yield _part("+", found.other, "what the window of events does not tell any more")


def _when(at_ms: int) -> str:
    return "no time" if at_ms < 0 else time_text(at_ms)


def _of(part: object) -> str:
    event, source = getattr(part, "event", None), getattr(part, "source", None)
    return (f", {event}" if event else "") + (f" of {source}" if source else "")


def _claims(found: Explanation, state: str) -> Iterator[str]:
    claims = [claim for claim in reversed(found.claims) if getattr(claim, state)]
    for claim in claims[:SHOWN_MAX]:
        until = f", until {time_text(claim.expires_at_ms)}" if state == "held" else ""
        order = f", order {claim.order_id}" if claim.order_id else ""
        yield _part(" ", getattr(claim, state), f"reservation {claim.reservation} of {claim.client}{order}{until}")
    rest = claims[SHOWN_MAX:]
    if rest:
        yield _part(" ", sum(getattr(claim, state) for claim in rest), f"{len(rest):,} more, older reservations")


def _cells(movement: PositionMovement) -> tuple[str, ...]:
    return (
        *(time_text(movement.at_ms), movement.verb, movement.from_bucket, movement.to_bucket, f"{movement.quantity:,}"),
        *(_what(movement), movement.client or "-", movement.entry),
    )


def _what(movement: PositionMovement) -> str:
    if movement.event:
        return f"event {movement.event}" + (f" of {movement.source}" if movement.source else "")
    return f"reservation {movement.subject}"
