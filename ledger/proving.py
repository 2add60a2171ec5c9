"""Owns what an audit asks Postgres beside the entries: the ends of a journal, and what last touched what differs."""

from typing import Final

from msgspec.structs import replace

from ledger.comparing import Told
from ledger.differences import Difference, Differences, Kind, Numbers
from ledger.journal.inspection import Inspection
from ledger.live import Reading

EVENTS_GRACE_MS: Final = 60_000


async def look_at_ends(inspection: Inspection, shard: int, reading: Reading, found: Differences) -> None:
    """The cursor of the journal, and how far its events were announced by the time of ``reading``."""
    announced = await inspection.announced(shard)
    cursor, newest = await inspection.ends(shard)
    if cursor != newest:
        kind: Kind = "journal-gap" if newest < cursor else "journal-cursor"
        there: Numbers = {"cursor": str(cursor)}
        found.note(Difference(kind, shard, str(cursor), str(cursor), there, {"last entry": str(newest)}))
    if announced > max(cursor, newest):
        skipped: Numbers = {"announced": str(announced)}
        found.note(
            Difference("events-skipped", shard, str(announced), str(announced), skipped, {"last entry": str(newest)})
        )
    oldest_ms = await inspection.oldest_unannounced_ms(shard)
    if oldest_ms is not None and reading.now_ms - oldest_ms > EVENTS_GRACE_MS:
        late: Numbers = {"oldest_unannounced_ms": oldest_ms, "now_ms": reading.now_ms}
        found.note(Difference("events-behind", shard, f"shard {shard}", str(newest), late))


async def prove(
    inspection: Inspection, shard: int, epoch: int, unproved: list[tuple[tuple[Kind, str], Told]], found: Differences
) -> None:
    """Find the last entries that touched what differs."""
    for key, told in unproved:
        if told.thing in ("client", "count") or key not in found.kept:
            continue
        if told.thing == "op":
            places = await inspection.touching_subject(shard, epoch, told.name)
        else:
            sku, _, location = key[1].rpartition("@")
            if told.thing == "sku":
                sku, location = told.name, key[1].removeprefix(f"{told.name}@")
            places = await inspection.touching_position(shard, epoch, sku, location)
        found.kept[key] = replace(found.kept[key], entries=list(map(str, places)))
