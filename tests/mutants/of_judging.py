"""Owns the mutants of what judges: the checkers of `make chaos`, the search for an order, and the simulation."""

from .mutant import Mutant

CHECKS = "tests/test_chaos_checks.py"
ORDER = "tests/test_chaos_order.py"
SIMULATION = "tests/test_simulation.py::test_no_seed_breaks_a_promise"


def _checker(promise: str, guard: str, text: str, instead: str) -> Mutant:
    return Mutant(promise, guard, "tests/chaos/checks.py", text, instead, (CHECKS,))


MUTANTS = [
    _checker(
        "P2",
        "lost: what was acknowledged is in the journal",
        "        if not shards <= {effect.shard for effect in effects}:",
        "        if not shards:",
    ),
    _checker(
        "P2",
        "lost: it is where its receipt says",
        '    if receipt["shard"] == effect.shard and (receipt["epoch"], receipt["seq"]) != effect.place:',
        "    if not receipt:",
    ),
    _checker(
        "P2",
        "lost: it was done between question and answer",
        "    if not earliest_ms <= effect.at_ms <= latest_ms:",
        "    if latest_ms < earliest_ms:",
    ),
    _checker("P3", "doubled: a key has one effect", "        if times > 1:", "        if times > 9:"),
    _checker(
        "P3",
        "doubled: so has a wish, whatever its key",
        "if operation.mark and marks[operation.mark] > 1:",
        "if operation.mark and marks[operation.mark] > 9:",
    ),
    _checker(
        "P8",
        "doubled: an event moves units once",
        "for key, n in events.items() if n > 1)",
        "for key, n in events.items() if n > 9)",
    ),
    _checker(
        "P3",
        "doubled: one answer alone is no replay",
        "if sum(not attempt.replayed for attempt in answers) > 1:",
        "if sum(not attempt.replayed for attempt in answers) > 9:",
    ),
    _checker(
        "P4",
        "ghost: somebody asked for it",
        '            yield Finding("ghost", f"{effect.verb} {effect.key} of {effect.subject}: nobody asked for it")',
        "            continue",
    ),
    _checker(
        "P4",
        "ghost: what was refused each time was not done",
        "        elif not operation.may_be_done:",
        "        elif not operation.attempts:",
    ),
    _checker(
        "P5",
        "ended twice: units are taken from where they are",
        "        if min(part.values(), default=0) < 0:",
        "        if min(part.values(), default=0) < -9:",
    ),
    _checker(
        "P5",
        "ended twice: a reservation is what its movements say",
        "        if +told != +units[id_]:",
        "        if not told:",
    ),
    _checker(
        "P5",
        "ended twice: nothing expires before its time",
        "ended is not None and effect.at_ms < ended.expires_at_ms:",
        "ended is not None and effect.at_ms < 0:",
    ),
    _checker(
        "P5", "not expired: nothing is held past its time", '        if told["held"]:', '        if told["held"] > 9:'
    ),
    _checker(
        "P1",
        "oversold: no claim of what is not there",
        "            if claimed > 0 and available < 0:",
        "            if claimed > 0 and available < -9:",
    ),
    _checker(
        "P5",
        "undersold: insufficient was so, and by the number told",
        '                if told["available"] not in was or told["available"] >= told["requested"]:',
        '                if told["available"] >= told["requested"]:',
    ),
    _checker(
        "P3",
        "other verdict: a replay is of the same reservation",
        "            if (attempt.status, id_) != (status, operation.reservation):",
        "            if attempt.status != status:",
    ),
    _checker(
        "P3",
        "other verdict: what was done is not refused later",
        'attempt.verdict == "refused" and attempt.sent_s > done[0].answered_s:',
        'attempt.verdict == "refused" and attempt.sent_s < 0:',
    ),
    _checker(
        "P2",
        "odd refusal: what was acknowledged is found",
        'attempt.verdict == "refused" and attempt.problem not in expected:',
        'attempt.verdict == "refused" and not attempt.problem:',
    ),
    _checker(
        "P1",
        "no order: some order explains all answers",
        "        if failure is not None:",
        "        if failure == []:",
    ),
    _checker(
        "P8",
        "feed: what was handed in is applied",
        "(key_of(published.event) in applied) == poison:",
        "(key_of(published.event) in applied) == poison == 2:",
    ),
    _checker(
        "P8",
        "feed: and on hand is what that makes",
        "        if books.on_hand[place] != expected:",
        "        if books.on_hand[place] < 0:",
    ),
    Mutant(
        "P5",
        "the search for an order knows what came first",
        "tests/chaos/linearizable.py",
        "        if ordered[index].sent_s > first_answer:",
        "        if ordered[index].sent_s > INFINITY:",
        (f"{ORDER}::test_what_was_answered_before_it_was_sent_is_before",),
    ),
    Mutant(
        "P2",
        "it leaves out only what may never have been done",
        "tests/chaos/linearizable.py",
        "enumerate(ordered) if not event.optional)",
        "enumerate(ordered) if event.answered_s < INFINITY)",
        (f"{ORDER}::test_what_must_have_happened_is_not_left_out",),
    ),
    Mutant(
        "P1",
        "it says when it came to no end",
        "tests/chaos/linearizable.py",
        "        if steps > STEPS_MAX:",
        "        if steps > 10**9:",
        (f"{ORDER}::test_a_search_that_takes_too_long_says_so",),
    ),
    Mutant(
        "P1",
        "a look in it tells every number",
        "tests/chaos/model.py",
        "told == (position.on_hand, *position.claimed, max(0, position.available)) else None",
        "told[0] == position.on_hand else None",
        (CHECKS,),
    ),
    Mutant(
        "P1",
        "the simulation finds an oversell",
        "ledger/lua/overdue.lua",
        "return max(0, available(position) - (taken[position] or 0))",
        "return max(0, available(position) + 1 - (taken[position] or 0))",
        (SIMULATION,),
    ),
    Mutant(
        "P2",
        "the simulation finds an id for each attempt",
        "availability/api/checkout.py",
        "id=operation_id(client, key),",
        'id=operation_id(client, key + str(__import__("asyncio").get_running_loop().time())),',
        (SIMULATION,),
    ),
    Mutant(
        "P3",
        "the simulation finds a verb that is done again",
        "ledger/lua/operating.lua",
        "  if before then return before end",
        "  if before and before == 0 then return before end",
        (SIMULATION,),
    ),
    Mutant(
        "P4",
        "the simulation finds a refusal of what was done",
        "ledger/shard.py",
        '            return [Unknown("the ledger\'s answer was lost")] * len(operations)',
        '            return [Unavailable("the ledger\'s answer was lost")] * len(operations)',
        (SIMULATION,),
    ),
    Mutant(
        "P5",
        "the simulation finds a hold that does not end",
        "ledger/lua/overdue.lua",
        "if position.soonest_ms > now_ms then return end",
        "if position.soonest_ms > 0 then return end",
        (SIMULATION,),
    ),
    Mutant(
        "P7",
        "the simulation finds an entry that is left out",
        "ledger/journal/writer.py",
        "        for entry in entries[len(known) :]:",
        "        for entry in entries[len(known) + (len(entries) > 7) :]:",
        (SIMULATION,),
    ),
    Mutant(
        "P8",
        "the simulation finds an event that counts twice",
        "ledger/lua/convergence.lua",
        "if same_event(seen, event) then outcome = 'duplicate'",
        "if false then outcome = 'duplicate'",
        (SIMULATION,),
    ),
]
