"""Owns the mutants of a clock that jumps, and of what hangs: P9."""

from .mutant import Mutant

CLOCK = "tests/test_server_clock.py"

MUTANTS = [
    Mutant(
        "P9",
        "nothing is changed after a jump of the clock",
        "ledger/lua/call.lua",
        "    if clock_jumped and not look_only then return",
        "    if clock_jumped and now_ms < 0 then return",
        (f"{CLOCK}::test_after_a_jump_nothing_is_changed_and_reads_go_on",),
    ),
    Mutant(
        "P9",
        "and reads go on",
        "ledger/shard.py",
        "                return await self._call_only(_only_looks, operations, function, failure)",
        "                return [failure] * len(operations)",
        (
            f"{CLOCK}::test_after_a_jump_nothing_is_changed_and_reads_go_on",
            f"{CLOCK}::test_a_read_that_meets_the_jump_is_answered",
        ),
    ),
    Mutant(
        "P9",
        "a clock that is right again is believed",
        "ledger/server_clock.py",
        "        self._marked, self.flaw = False, None\n        return",
        "        return",
        (f"{CLOCK}::test_when_the_clock_is_right_again_it_goes_on_by_itself",),
    ),
    Mutant(
        "P9",
        "who starts after the jump does not believe it",
        "ledger/server_clock.py",
        "            self._doubted = mark == DOUBTED\n",
        "            self._doubted = False\n",
        (f"{CLOCK}::test_a_process_that_is_started_after_the_jump_does_not_believe_it_either",),
    ),
    Mutant(
        "P9",
        "nor lets the others believe it",
        "ledger/server_clock.py",
        "elif not self._doubted:",
        "else:",
        (f"{CLOCK}::test_a_process_that_is_started_after_the_jump_does_not_believe_it_either",),
    ),
    Mutant(
        "P9",
        "who saw the jump tells it",
        "ledger/server_clock.py",
        'return "set" if marks else None',
        "return None",
        (f"{CLOCK}::test_a_process_that_is_started_after_the_jump_does_not_believe_it_either",),
    ),
    Mutant(
        "P9",
        "an operator's word that the clock is right is heard",
        "ledger/server_clock.py",
        "if mark == ACCEPTED:",
        "if mark == b'x':",
        (f"{CLOCK}::test_a_process_that_is_started_after_the_jump_does_not_believe_it_either",),
    ),
    Mutant(
        "P9",
        "a clock that went back is not accepted",
        "ledger/server_clock.py",
        "if ahead_ms > JUMP_MS:",
        "if False:",
        (f"{CLOCK}::test_a_clock_that_went_back_is_not_accepted",),
    ),
    Mutant(
        "P9",
        "a database that hangs holds no caller",
        "availability/feeds/intake.py",
        "await _in_time(quarantine.store(refused), STORE_TIMEOUT_S[transport])",
        "await asyncio.wait_for(quarantine.store(refused), STORE_TIMEOUT_S[transport])",
        ("tests/test_feed_intake.py::test_a_database_that_hangs_is_not_waited_for",),
    ),
]
