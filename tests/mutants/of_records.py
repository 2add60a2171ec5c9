"""Owns the mutants of the journal: P7."""

from .mutant import Mutant

JOURNAL = "tests/test_journal.py"
SERVER = "tests/test_server_ledger.py"
REHOME = "tests/test_rehome.py"

MUTANTS = [
    Mutant(
        "P7",
        "each hash covers the one before it",
        "ledger/journal/records.py",
        "hashlib.sha256(previous + body)",
        "hashlib.sha256(body)",
        (f"{JOURNAL}::test_tampering_is_found",),
    ),
    Mutant(
        "P7",
        "rows and cursor are one transaction",
        "ledger/journal/writer.py",
        "            await self._move_cursor(last.raw.place, last.hash, len(movements))\n        self.cursor",
        "        await self._move_cursor(last.raw.place, last.hash, len(movements))\n        self.cursor",
        (f"{JOURNAL}::test_rows_and_cursor_are_one_transaction",),
    ),
    Mutant(
        "P7",
        "a gap is seen",
        "ledger/journal/writer.py",
        "            if not records.follows(before.place, entry.place):",
        "            if entry.place < before.place:",
        (f"{JOURNAL}::test_gap_is_seen_and_does_not_stop_the_journal",),
    ),
    Mutant(
        "P7",
        "other content under a known number is an alarm",
        "ledger/journal/writer.py",
        "            if stored.get(entry.place) != entry.body",
        "            if entry.place not in stored",
        (f"{JOURNAL}::test_other_content_under_a_known_number_stops_the_journal",),
    ),
    Mutant(
        "P7",
        "a writer that was replaced changes nothing",
        "ledger/journal/writer.py",
        "where shard = $4 and owner_epoch = $5 and hash = $6",
        "where shard = $4 and owner_epoch >= $5 and hash = $6",
        (f"{JOURNAL}::test_fenced_writer_changes_nothing",),
    ),
    Mutant(
        "P7",
        "a bad entry stops no other",
        "ledger/journal/writer.py",
        "            if len(prepared) > 1:",
        "            if len(prepared) > 1_000:",
        (f"{JOURNAL}::test_bad_entries_go_to_rejects_and_the_others_flow",),
    ),
    Mutant(
        "P7",
        "an entry calls itself by its own number",
        "ledger/journal/records.py",
        "    if (entry.epoch, entry.seq) != place:",
        "    if (entry.epoch, entry.seq) < (0, 0):",
        (f"{JOURNAL}::test_bad_entries_go_to_rejects_and_the_others_flow",),
    ),
    Mutant(
        "P7",
        "the stream is trimmed only behind the journal",
        "ledger/journal/stream.py",
        "            oldest_kept = Place(cursor.epoch, cursor.seq - TAIL_ENTRIES + 1)",
        "            oldest_kept = Place(cursor.epoch, cursor.seq + TAIL_ENTRIES + 1)",
        (f"{JOURNAL}::test_stream_is_trimmed_only_behind_the_cursor",),
    ),
    Mutant(
        "P7",
        "a process of another epoch is refused",
        "ledger/lua/call.lua",
        "    if caller_epoch ~= shard[1] then",
        "    if caller_epoch < 0 then",
        (f"{SERVER}::test_who_knows_another_epoch_is_refused",),
    ),
    Mutant(
        "P7",
        "a process of another number of shards is refused",
        "ledger/lua/call.lua",
        "    if shard[4] and shard[4] ~= shards then return nil, ('SHARDS %d'):format(shard[4]) end\n",
        "",
        (f"{REHOME}::test_processes_of_other_settings_are_refused",),
    ),
]
